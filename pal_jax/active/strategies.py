"""Which questions to ask next: functions of what is known, each with the same arguments."""

import dataclasses
from collections.abc import Callable

import numpy as np

from pal_jax.active.evidence import Trust
from pal_jax.active.geometry import Geometry
from pal_jax.active.posterior import Posterior, infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """All that a strategy may look at.

    Args:
        geometry: what the embedding says.
        relations: what the answers say; a strategy must not add to it.
        candidates: M, the most candidates that a question may have.
        trust: how often oracles are wrong; if never, nothing implied is asked again.
    """

    geometry: Geometry
    relations: Relations
    candidates: int = 1
    trust: Trust = dataclasses.field(default_factory=Trust)


# (what is known, how many questions, randomness) -> at most that many, none of them implied
Strategy = Callable[[Knowledge, int, np.random.Generator], list[Question]]

# ([N, K] probabilities of clusters) -> [N] part of what a label is worth that one question brings
_Part = Callable[[np.ndarray], np.ndarray]

_OPEN = 128  # uncertain samples that may be asked about
_HEARERS = 2_000  # uncertain samples whose gain from an answer is counted
_COMMON = 0.03  # of twice the median chance to be wrong: below, it is one that most samples share
_TYPICAL = 24  # of a group's samples, at most those may speak for it
_SCREEN, _LOOK = 2.0, 0.5  # seconds that a person needs for a question, and for each candidate
_LOOKS = 6  # inferences for a batch, about: more take time and save no answers
# power of what a sample leaves untold of another: a batch of much the same samples is answered with
# one of them, and what the model takes for different may not be
_APART = 4
_ALMOST = 0.7  # of the score of the worst samples: so much is nearly as bad
_HOPELESS = 1e-4  # chance below which two groups are not compared


def random_pairs(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """Pairs of samples drawn at random among those of unknown relation: the yardstick.

    A question with M candidates is a random anchor with M random ones. Gives up after many
    draws in which everything was known, which is when nearly everything is.
    """
    n, relations = knowledge.geometry.n, knowledge.relations
    questions: list[Question] = []
    seen: set[frozenset[int]] = set()
    for _ in range(100 * count if n > 1 else 0):
        anchor, *others = map(int, rng.choice(n, min(n, 1 + knowledge.candidates), replace=False))
        pairs = [frozenset((anchor, other)) for other in others]
        fresh = [
            other
            for other, pair in zip(others, pairs, strict=True)
            if pair not in seen and relations.relation(anchor, other) is Relation.UNKNOWN
            and not relations.asked(anchor, other)
        ]  # fmt: skip
        if fresh:
            questions.append(Question(anchor, tuple(fresh)))
            seen.update(pairs)
        if len(questions) == count:
            break
    return questions


def nearest_representative(
    knowledge: Knowledge, count: int, rng: np.random.Generator
) -> list[Question]:
    """The scan: each sample in turn against the groups of those before it, the nearest first.

    What people do without a method. A sample that all groups refuse opens a group. `rng` is not
    needed: samples come in the order of their ids.
    """
    del rng
    return _scan(knowledge, count, np.arange(knowledge.geometry.n))


def farthest_first(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """The scan, with samples in the order in which they are farthest from all before them.

    Finds groups early and learns little about their borders. `rng` is not needed.
    """
    del rng
    geometry = knowledge.geometry
    order = geometry.remember("farthest first", lambda: _farthest_order(geometry))
    return _scan(knowledge, count, order)


def most_uncertain(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """Samples whose most probable group is least certain, each against that group.

    Uncertainty sampling on the posterior of the flagship. `rng` is not needed.
    """
    del rng
    return _one_by_one(knowledge, count, _uncertain)


def most_informative(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """The flagship: what is expected to put most samples into their right group.

    Either a sample against its most probable group, or two groups that may be one: whichever
    puts more samples right, in the mean over the answers. Each "not sure" halves what asking the
    like of it again is worth. With M candidates a question is an anchor and all that is worth
    comparing with it, as many as make most of a person's time. Questions of one call do not ask
    what those before them are expected to settle. `rng` is not needed.
    """
    del rng
    return [idea.question for idea in _together(knowledge, count)]


def uncompared_groups(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """Two groups that no answer keeps apart, for each such pair, the largest first.

    Whoever trusts no looks has to compare all of them: what the lower bound of an audit needs, and
    nothing that would put many samples right. `rng` is not needed.
    """
    del rng
    posterior = infer(knowledge.geometry, knowledge.relations, knowledge.trust)
    size, cluster = posterior.column[:, :-1].sum(axis=0), posterior.links.cluster
    smaller, larger = np.nonzero(posterior.open_pairs())
    questions: list[Question] = []
    seen: set[frozenset[int]] = set()  # clusters that are to be compared: one answer is for all
    for i in np.lexsort((-size[larger], -size[smaller])).tolist():
        a, b = int(smaller[i]), int(larger[i])
        clusters = frozenset((int(cluster[a]), int(cluster[b])))
        pair = None if clusters in seen else _closest(knowledge, posterior, a, b)
        if pair is not None:
            seen.add(clusters)
            questions.append(Question(pair[0], (pair[1],)))
        if len(questions) == count:
            break
    return questions


def expected_sureness(knowledge: Knowledge, count: int) -> tuple[float, float]:
    """Mean probability of the partition now, and after `count` more answers as expected."""
    relations = knowledge.relations.copy()
    before = infer(knowledge.geometry, relations, knowledge.trust)
    oracle = _oracle(knowledge)
    ideas = _together(knowledge, count)
    relations.add(Answer(idea.question, idea.believed, oracle) for idea in ideas)
    after = infer(knowledge.geometry, relations, knowledge.trust)
    return float(before.sureness().mean()), float(after.sureness().mean())


@dataclasses.dataclass(frozen=True)
class _Idea:
    """A question, its most probable answer, and which of its candidates speak for a group."""

    question: Question
    believed: tuple[Relation, ...]
    groups: tuple[bool, ...]


@dataclasses.dataclass
class _Gains:
    """What is worth asking: samples put right by each answer, less with each that is taken.

    Args:
        pairs: [C, C] by knowing whether two columns are one class.
        samples: [T] uncertain samples.
        points: [T] by comparing each with the most probable column of those it is not compared
            with yet.
        column: [T, C] probabilities of these, 0 for others.
        cluster: [C] which columns are believed to be one class.
        shared: [T, T] how much two samples tell the same, in [0, 1].
    """

    pairs: np.ndarray
    samples: np.ndarray
    points: np.ndarray
    column: np.ndarray
    cluster: np.ndarray
    shared: np.ndarray

    def __post_init__(self):
        self.home = self.column.argmax(axis=1)  # [T] what each sample would be compared with

    def bounds(self, most: int) -> np.ndarray:
        """[C] gain a second that a question about a column with `most` candidates cannot exceed."""
        best = self.pairs.max(axis=1, initial=0.0)
        np.maximum.at(best, self.home, self.points)
        return best * most / (_SCREEN + _LOOK * most)

    def take(self, column: int, chosen: list[tuple[bool, int]]) -> None:
        """(is a sample, index) of what is asked about a column: not again, nor what tells the
        same.

        A sample may be compared with its next column, which is worth something after a "no".
        """
        for is_point, i in chosen:
            if is_point:
                gain = self.points[i]
                self.points = self.points * (1.0 - self.shared[i]) ** _APART
                here = self.cluster == self.cluster[column]
                yes = self.column[i, here].sum() / max(self.column[i].sum(), 1e-9)
                self.column[i, here] = 0.0
                self.home[i] = self.column[i].argmax()
                self.points[i] = gain * max(1.0 - yes, 0.0) if self.column[i].any() else 0.0
            else:
                self.pairs[column, i] = self.pairs[i, column] = 0.0


def _together(knowledge: Knowledge, count: int) -> list[_Idea]:
    """What is worth asking before the next answer is known.

    Once some groups are to be compared the rest is chosen as if they had turned out as believed:
    the other comparisons follow from that. Samples are not believed: what one answer tells of
    other samples is taken off their gain, and none but those compared so far becomes surer.
    """
    relations, believing = knowledge.relations, knowledge
    ideas: list[_Idea] = []
    seen: set[frozenset[int]] = set()
    asked: list[tuple[int, int]] = []  # anchor and sample, where no groups are compared
    part = _at_once if count > 1 else _of_all_questions
    together = max(1, count // _LOOKS)  # comparisons of groups between two inferences
    while len(ideas) < count:
        posterior = infer(knowledge.geometry, relations, knowledge.trust)
        gains = _all_gains(believing, posterior, part, max(_OPEN, 2 * count), asked)
        told: list[Answer] = []
        while len(ideas) < count and len(told) < together:
            idea = _best(believing, posterior, gains, seen)
            if idea is None:
                return ideas
            ideas.append(idea)
            anchor, candidates = idea.question.anchor, idea.question.candidates
            seen |= {frozenset((anchor, candidate)) for candidate in candidates}
            grouped = zip(candidates, idea.groups, strict=True)
            asked += [(anchor, candidate) for candidate, group in grouped if not group]
            told += _about_groups(idea, _oracle(knowledge))
        if len(ideas) < count:
            if relations is knowledge.relations:
                relations = relations.copy()
                believing = dataclasses.replace(knowledge, relations=relations)
            relations.add(told)
    return ideas


def _about_groups(idea: _Idea, oracle: str) -> list[Answer]:
    """The part of its believed answer that compares groups, if there is one."""
    keep = [i for i, group in enumerate(idea.groups) if group]
    if not keep:
        return []
    question = Question(idea.question.anchor, tuple(idea.question.candidates[i] for i in keep))
    return [Answer(question, tuple(idea.believed[i] for i in keep), oracle)]


def _one_by_one(
    knowledge: Knowledge, count: int, find: Callable[[Knowledge, Posterior], _Idea | None]
) -> list[Question]:
    """Each question as if those before had got their most probable answers."""
    relations = knowledge.relations.copy() if count > 1 else knowledge.relations
    questions: list[Question] = []
    while len(questions) < count:
        believing = dataclasses.replace(knowledge, relations=relations)
        posterior = infer(knowledge.geometry, relations, knowledge.trust)
        idea = find(believing, posterior)
        if idea is None:
            break
        questions.append(idea.question)
        if len(questions) < count:
            relations.add([Answer(idea.question, idea.believed, _oracle(knowledge))])
    return questions


def _oracle(knowledge: Knowledge) -> str:
    """Who will be believed to answer: whoever did last."""
    judgements = knowledge.relations.judgements()
    return judgements.oracles[judgements.oracle[-1]] if len(judgements.oracle) else "believed"


def _uncertain(knowledge: Knowledge, posterior: Posterior) -> _Idea | None:
    wrong = posterior.wrong * _patience(knowledge)
    for sample in np.argsort(-wrong, kind="stable").tolist():
        if wrong[sample] <= _HOPELESS or knowledge.geometry.n < 2:
            break
        column = int(posterior.column[sample, :-1].argmax())
        anchor = _anchor(knowledge, posterior, column, np.array([sample]))
        if anchor is not None:
            return _Idea(Question(anchor, (sample,)), (Relation.ALIKE,), (False,))
    return None


def _all_gains(
    knowledge: Knowledge,
    posterior: Posterior,
    part: _Part,
    most: int,
    asked: list[tuple[int, int]],
) -> _Gains:
    """Of all questions, when pairs `asked` of an anchor and a sample will be answered anyway."""
    pairs = _pair_gains(knowledge, posterior)
    samples, points = _point_gains(knowledge, posterior, part, most, [i for _, i in asked])
    shared = _shared(posterior, samples, samples)
    column = posterior.column[samples, :-1]
    gains = _Gains(pairs, samples, points, column, posterior.links.cluster, shared)
    for anchor, sample in asked:
        home = int(posterior.column[anchor, :-1].argmax())
        gains.take(home, [(True, int(np.flatnonzero(samples == sample)[0]))])
    return gains


def _best(
    knowledge: Knowledge, posterior: Posterior, gains: _Gains, seen: set[frozenset[int]]
) -> _Idea | None:
    """The column to ask about and what to compare with it, by expected gain a second.

    What is found is taken out of `gains`; no pair in `seen` is asked again.
    """
    while True:
        best, value = None, 0.0
        bounds = gains.bounds(knowledge.candidates)
        least = gains.bounds(1).max()  # what a single candidate brings somewhere
        for column in np.flatnonzero(bounds * (1.0 + 1e-6) >= least).tolist():
            # Of two groups either could be the anchor: the first, whatever the last digits say.
            if bounds[column] <= value * (1.0 + 1e-6):
                continue
            mine = np.flatnonzero(gains.home == column)
            chosen = _take(gains, column, mine, knowledge.candidates)
            worth = sum(gain for gain, _, _ in chosen) / (_SCREEN + _LOOK * len(chosen))
            if chosen and worth > value * (1.0 + 1e-6):
                value = worth
                best = column, [(kind, int(mine[i]) if kind else i) for _, kind, i in chosen]
        if best is None:
            return None
        gains.take(*best)
        idea = _ask(knowledge, posterior, *best, gains.samples)
        if idea := idea and _unseen(idea, seen):
            return idea


def _unseen(idea: _Idea, seen: set[frozenset[int]]) -> _Idea | None:
    """The idea without candidates whose pair is in `seen`."""
    anchor, candidates = idea.question.anchor, idea.question.candidates
    keep = [i for i, c in enumerate(candidates) if frozenset((anchor, c)) not in seen]
    if not keep:
        return None
    return _Idea(
        Question(anchor, tuple(candidates[i] for i in keep)),
        tuple(idea.believed[i] for i in keep),
        tuple(idea.groups[i] for i in keep),
    )


def _take(gains: _Gains, column: int, mine: np.ndarray, most: int) -> list[tuple[float, bool, int]]:
    """(gain, is a sample, index) of what to compare with one column: most gain a second.

    Samples that tell the same count once: a gain shrinks by what is shared with those chosen.

    Args:
        mine: [M] places in `gains` of the samples that may be asked about, to which indices refer.
    """
    pairs, points = gains.pairs[column].copy(), gains.points[mine]
    chosen: list[tuple[float, bool, int]] = []
    total = 0.0
    for number in range(most):
        pair = int(pairs.argmax()) if len(pairs) else -1
        point = int(points.argmax()) if len(points) else -1
        is_point = point >= 0 and (pair < 0 or points[point] > pairs[pair])
        gain = float(points[point]) if is_point else float(pairs[pair]) if pair >= 0 else 0.0
        before = total / (_SCREEN + _LOOK * number)
        if gain <= 0.0 or (total + gain) / (_SCREEN + _LOOK * (number + 1)) <= before:
            break
        total += gain
        chosen.append((gain, is_point, point if is_point else pair))
        if is_point:
            if number + 1 < most:
                points *= 1.0 - gains.shared[mine[point], mine]
            points[point] = 0.0
        else:
            pairs[pair] = 0.0
    return chosen


def _ask(
    knowledge: Knowledge,
    posterior: Posterior,
    column: int,
    chosen: list[tuple[bool, int]],
    samples: np.ndarray,
) -> _Idea | None:
    """The question about what was chosen, with samples that speak for the groups."""
    about = np.array([int(samples[i]) for is_point, i in chosen if is_point], np.int64)
    groups = [i for is_point, i in chosen if not is_point]
    if len(chosen) == 1 and groups:
        pair = _closest(knowledge, posterior, column, groups[0])
        if pair is None:
            return None
        anchor, candidates = pair[0], [pair[1]]
        believed = [_believed(posterior, column, groups[0])]
    else:
        anchor = _anchor(knowledge, posterior, column, about)
        if anchor is None:
            return None
        candidates, believed = about.tolist(), [Relation.ALIKE] * len(about)
        for group in groups:
            other = _anchor(knowledge, posterior, group, np.array([anchor, *candidates]))
            if other is not None:
                candidates.append(other)
                believed.append(_believed(posterior, column, group))
    grouped = tuple(i >= len(about) for i in range(len(candidates)))
    return _Idea(Question(anchor, tuple(candidates)), tuple(believed), grouped)


def _believed(posterior: Posterior, a: int, b: int) -> Relation:
    """By clusters, not by the chance of the pair: beliefs must not contradict each other."""
    cluster = posterior.links.cluster
    return Relation.ALIKE if cluster[a] == cluster[b] else Relation.NOT_ALIKE


def _pair_gains(knowledge: Knowledge, posterior: Posterior) -> np.ndarray:
    """[C, C] samples put right by knowing whether two columns are one class.

    The smaller of the two, times the chance that what is believed of them is wrong; less where
    one answer does not tell.
    """
    chance = posterior.links.chance
    size = posterior.column[:, :-1].sum(axis=0)
    gains = np.minimum(chance, 1.0 - chance) * np.minimum(size[:, None], size)
    gains *= 1.0 - 2.0 * posterior.error
    gains[chance < _HOPELESS] = 0.0
    unsure = np.array(knowledge.relations.unsure(), np.int64).reshape(-1, 2)
    home = posterior.column[unsure, :-1].argmax(axis=2)
    for a, b in home.tolist():
        gains[a, b] *= 0.5
        gains[b, a] = gains[a, b]
    np.fill_diagonal(gains, 0.0)
    return gains


def _point_gains(
    knowledge: Knowledge, posterior: Posterior, part: _Part, most: int, asked: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Uncertain samples [T], and how many samples [T] a question about each puts right.

    Args:
        most: samples that were never asked about, and as many others.
        asked: samples to be among them.

    A sample's label puts right the sample itself and, as far as the regression's posterior
    correlation squared says, all that are like it, each weighted by its chance to be in the wrong
    group. Of a sample whose label is not sure yet, though asked about, what it tells counts as if
    it had not been asked about. Of all this, one question brings a part; less where it or who
    speaks for its group was called "not sure".
    """
    wrong = posterior.wrong * (posterior.wrong > _HOPELESS)
    unheard, variance = _unheard(posterior), posterior.variance.astype(np.float64)
    left_out = posterior.field.left_out_variance() * unheard[posterior.nodes]
    variance[posterior.nodes] = np.maximum(variance[posterior.nodes], left_out)
    samples = _worth_a_look(wrong * np.sqrt(variance + 1e-6), _place(posterior) >= 0, most)
    samples = np.array(list(dict.fromkeys([*samples.tolist(), *asked])), np.int64)
    hearers, weight = _spread_out(_beyond_doubt(wrong), _HEARERS)
    correlation = np.square(posterior.field.covariance(samples, hearers))
    correlation /= np.maximum(posterior.variance, 0.02)[hearers]
    correlation /= (posterior.variance[samples] + 0.01)[:, None]
    gains = np.minimum(correlation, 1.0) @ weight + wrong[samples]
    again = np.flatnonzero(unheard[samples])
    told = posterior.field.told(_place(posterior)[samples[again]], hearers)
    gains[again] += unheard[samples[again]] * (told @ weight)
    gains *= part(posterior.cluster[samples]) * _patience(knowledge)[samples]
    home = posterior.column[samples, :-1].argmax(axis=1)
    return samples, gains * _voice(knowledge, posterior)[home]


def _beyond_doubt(wrong: np.ndarray) -> np.ndarray:
    """[n] chances to be wrong, those left out that are no more than what most samples share.

    Once nearly all is known, every sample is left with the same small doubt of the embedding. No
    label takes it away: if it counted, samples whose label tells of many that are not in question
    would come before the few that are.
    """
    shared = 2.0 * float(np.median(wrong))
    return np.where(wrong > shared, wrong, 0.0) if shared < _COMMON else wrong


def _unheard(posterior: Posterior) -> np.ndarray:
    """[n] how little the label of a sample that was asked about is known, in [0, 1]."""
    unheard = np.zeros(len(posterior.variance))
    unheard[posterior.nodes] = np.minimum(2.0 * posterior.wrong[posterior.nodes], 1.0)
    return unheard


def _told_again(posterior: Posterior, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] what the labels of those of `a` that were asked about have still to tell `b`."""
    unheard, place = _unheard(posterior), _place(posterior)
    told = np.zeros((len(a), len(b)))
    again = np.flatnonzero(unheard[a])
    nodes = place[a[again]]
    rows = posterior.field.told(nodes, b).astype(np.float64)
    both = np.flatnonzero(unheard[b])
    rows[:, place[b] >= 0] = 0.0  # these have been told what the regression believes of them
    rows[:, both] = posterior.field.told_each_other(nodes, place[b[both]]) * unheard[b[both]]
    told[again] = unheard[a[again]][:, None] * rows
    return told


def _worth_a_look(score: np.ndarray, asked: np.ndarray, most: int) -> np.ndarray:
    """Samples of high score, at most so many, and as many again that were `asked` about.

    Half of them have the highest scores. These are strangers, from whom few others learn
    anything: the other half are spread over all that are nearly as bad.
    """
    fresh = np.where(asked, 0.0, score)
    worst = _highest(fresh, most)
    if len(worst) == most:
        worst = worst[: most // 2]
        fresh[fresh < _ALMOST * fresh[worst[-1]]] = 0.0
        fresh[worst] = 0.0
        worst = np.concatenate([worst, _spread_out(fresh, most - len(worst))[0]])
    return np.concatenate([worst, _highest(np.where(asked, score, 0.0), most)])


def _highest(score: np.ndarray, most: int) -> np.ndarray:
    """Indices of the highest positive scores, these first."""
    least = np.partition(score, -most)[-most] if most < len(score) else 0.0
    high = np.flatnonzero((score >= least) & (score > 0.0))
    return high[np.argsort(-score[high], kind="stable")[:most]]


def _place(posterior: Posterior) -> np.ndarray:
    """[n] the place of each sample among the nodes, -1 for others."""
    place = np.full(len(posterior.variance), -1)
    place[posterior.nodes] = np.arange(len(posterior.nodes))
    return place


def _of_all_questions(cluster: np.ndarray) -> np.ndarray:
    """One over the questions that a label is expected to take, if they come one after the other.

    Groups are asked about in order of their probability until a "yes", or until what is left is
    as good as sure: the next question is asked with the probability that is left, or twice what
    would be left after it where that is less.
    """
    unseen = 1.0 - cluster.sum(axis=1, keepdims=True)
    left = 1.0 - np.cumsum(-np.sort(-cluster, axis=1), axis=1)
    left = np.maximum(np.concatenate([left, np.zeros_like(unseen)], axis=1), 0.0)
    return 1.0 / (1.0 + np.minimum(left[:, :-1], 2.0 * left[:, 1:]).sum(axis=1))


def _at_once(cluster: np.ndarray) -> np.ndarray:
    """Where the next question about it has to wait for the next batch: more, the likelier a "yes".

    The root lies between what a "yes" brings by itself and that a "no" tells something, too.
    """
    return np.sqrt(cluster.max(axis=1))


def _spread_out(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` indices and weights [H]: sums over all by weight stand for sums by value.

    Systematic sampling: the chance to be there is in proportion to the value.
    """
    present = np.flatnonzero(values > 0.0)
    if len(present) <= count:
        return present, values[present]
    sums = np.cumsum(values[present])
    steps = (np.arange(count) + 0.5) * (sums[-1] / count)
    index, times = np.unique(np.searchsorted(sums, steps), return_counts=True)
    return present[index], times * (sums[-1] / count)


def _shared(posterior: Posterior, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] squared posterior correlation of samples, in [0, 1]: how much they tell the same."""
    variance = np.maximum(posterior.variance, 0.02)
    shared = np.square(posterior.field.covariance(a, b))
    shared /= variance[a][:, None] * variance[b]
    again = np.maximum(_told_again(posterior, a, b), _told_again(posterior, b, a).T)
    return np.clip(np.maximum(shared, again), 0.0, 1.0)


def _patience(knowledge: Knowledge) -> np.ndarray:
    """[n] what asking about a sample is still worth, after so many "not sure"."""
    samples = np.array(knowledge.relations.unsure(), np.int64).ravel()
    return 0.5 ** np.bincount(samples, minlength=knowledge.geometry.n)


def _voice(knowledge: Knowledge, posterior: Posterior) -> np.ndarray:
    """[C] how likely a comparison with each column tells, so far as that is up to its speaker.

    Below 1 only where answers are proof and a single sample is proven to be of the column: the
    share of answers about it that were sure, one imagined before the first.
    """
    judgements, n = knowledge.relations.judgements(), knowledge.geometry.n
    named = np.concatenate([judgements.first, judgements.second])
    unsure = np.bincount(np.array(knowledge.relations.unsure(), np.int64).ravel(), minlength=n)
    share = 1.0 - unsure / (1.0 + np.bincount(named, minlength=n))
    alone = posterior.hard & (np.bincount(posterior.unit)[posterior.first] == 1)
    return np.where(alone, share[posterior.opener], 1.0)


def _speakers(
    knowledge: Knowledge, posterior: Posterior, column: int, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Samples [S], ascending, that may speak for a column, and how central [S] each is for it.

    Those proven to be of it. Where answers can be wrong nothing is proven: the middle third of
    its members, so that each question is a new pair with an error of its own, and a nest of
    strangers that were taken for members does not speak for them. Of a column that nobody joined,
    only the sample that opened it: an answer about any other tells nothing of it.

    Args:
        most: so many of its middle instead of a third.
    """
    chance = posterior.column[:, column]
    if posterior.hard:
        proven = np.sort(posterior.nodes[posterior.unit == posterior.first[column]])
        if len(proven) == 1:
            return proven, np.ones(1)  # as central as any
        return proven, _pull(knowledge, posterior, column, proven)
    third = max(4, min(_TYPICAL, np.count_nonzero(chance > 0.8) // 3))
    members = chance > 0.5
    members[posterior.opener[column]] = True
    pull = _pull(knowledge, posterior, column, slice(None))
    score = np.where(members, np.maximum(pull, 0.0) * chance, -1.0)
    count = min(most or third, np.count_nonzero(members))
    samples = np.sort(np.argsort(-score, kind="stable")[:count])
    return samples, pull[samples]


def _pull(
    knowledge: Knowledge, posterior: Posterior, column: int, rows: np.ndarray | slice
) -> np.ndarray:
    """[R] how central some samples are for a column."""
    return knowledge.geometry.pull(posterior.column[:, column : column + 1], rows)[:, 0]


def _anchor(
    knowledge: Knowledge, posterior: Posterior, column: int, samples: np.ndarray
) -> int | None:
    """A sample that speaks for a column, of those least asked about `samples`.

    The most central one; where it is proven to be of the column, also the one most like `samples`.
    Where it is not, the one most like them may share their error, and would confirm it; and where
    all have been asked about all of them there is none, since a pair may repeat its error.
    """
    speakers, pull = _without(samples, *_speakers(knowledge, posterior, column))
    asked = _asked(knowledge, speakers, samples)
    if not posterior.hard and asked.any(axis=1).all():
        central = _speakers(knowledge, posterior, column, _TYPICAL)
        speakers, pull = _without(samples, *central)
        asked = _asked(knowledge, speakers, samples)
        if asked.all():
            return None
    if len(speakers) < 2:
        return int(speakers[0]) if len(speakers) else None
    score = pull / max(float(np.abs(pull).max()), 1e-12) - 10.0 * asked.sum(axis=1)
    if posterior.hard and len(samples):
        score += knowledge.geometry.kernel(speakers, samples).mean(axis=1)
    return int(speakers[score.argmax()])


def _without(
    samples: np.ndarray, speakers: np.ndarray, pull: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    keep = (speakers[:, None] != samples).all(axis=1)  # few samples: faster than isin
    return speakers[keep], pull[keep]


def _closest(knowledge: Knowledge, posterior: Posterior, a: int, b: int) -> tuple[int, int] | None:
    """The most central pair of samples that speak for two columns, of those least often asked.

    None where there is no pair, or where answers can be wrong and all pairs were asked.
    """
    for most in (None, _TYPICAL):
        left, x = _most_central(*_speakers(knowledge, posterior, a, most))
        right, y = _most_central(*_speakers(knowledge, posterior, b, most))
        x, y = (pull / max(float(np.abs(pull).max()), 1e-12) for pull in (x, y))
        asked = _asked(knowledge, left, right)
        same = left[:, None] == right
        if posterior.hard or not (asked + same).all():
            score = np.where(same, -np.inf, x[:, None] + y - 10.0 * asked)
            i, j = divmod(int(score.argmax()), len(right))
            return None if same[i, j] else (int(left[i]), int(right[j]))
    return None


def _most_central(speakers: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_TYPICAL` of them, in their order."""
    keep = np.sort(np.argsort(-pull, kind="stable")[:_TYPICAL])
    return speakers[keep], pull[keep]


def _asked(knowledge: Knowledge, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] how often each pair was asked."""
    asked = knowledge.relations.asked
    counts = [[asked(i, j) for j in b.tolist()] for i in a.tolist()]
    return np.array(counts, np.float64).reshape(len(a), len(b))


def _scan(knowledge: Knowledge, count: int, order: np.ndarray) -> list[Question]:
    """The next samples in `order` that are undecided, each against the nearest group before it."""
    geometry, relations = knowledge.geometry, knowledge.relations
    groups = relations.groups()
    first: dict[int, int] = {}  # group -> its first sample in the order
    questions: list[Question] = []
    for sample in order.tolist():
        group = int(groups[sample])
        if group in first:
            continue
        open_ = np.array(
            [other for other in first.values() if _may_ask(relations, sample, other)], np.int64
        )
        if len(open_):
            near = geometry.kernel(np.array([sample]), open_)[0]
            nearest = open_[np.argsort(-near, kind="stable")[: knowledge.candidates]]
            questions.append(Question(sample, tuple(nearest.tolist())))
            if len(questions) == count:
                break
        else:
            first[group] = sample
    return questions


def _may_ask(relations: Relations, i: int, j: int) -> bool:
    return relations.relation(i, j) is Relation.UNKNOWN and not relations.asked(i, j)


def _farthest_order(geometry: Geometry) -> np.ndarray:
    """All samples, each the least like those before it; starts with the most central."""
    everything = np.zeros(geometry.n, np.int64)
    start = int(geometry.centrality(everything).argmax())
    likeness = geometry.kernel(np.array([start]), slice(None))[0]
    order = [start]
    for _ in range(geometry.n - 1):
        likeness[order[-1]] = np.inf
        order.append(int(likeness.argmin()))
        likeness = np.maximum(likeness, geometry.kernel(np.array(order[-1:]), slice(None))[0])
    return np.array(order)
