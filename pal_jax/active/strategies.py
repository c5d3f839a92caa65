"""Which questions to ask next: functions of what is known, each with the same arguments."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np

from pal_jax.active.geometry import Geometry
from pal_jax.active.posterior import SURPRISE, Posterior, infer, leaks, own_group, vote_odds
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """All that a strategy may look at.

    Args:
        geometry: what the embedding says.
        relations: what the answers say; a strategy must not add to it.
        candidates: M, the most candidates that a question may have.
        error_rate: how often a judgement is wrong; with 0 nothing implied is asked again.
    """

    geometry: Geometry
    relations: Relations
    candidates: int = 1
    error_rate: float = 0.0


_OPEN = 1_000  # the most uncertain samples: those that may be asked about
_TIGHT = 0.1  # leak at which a group is as likely a class of its own as a piece of one
_MERGE = 40.0  # gain of putting a sample right by joining groups, in the unit of `_samples`
_CHECK = 10.0  # the same, by finding out that a judgement was wrong

# (what is known, how many questions, randomness) -> at most that many, none of them implied
Strategy = Callable[[Knowledge, int, np.random.Generator], list[Question]]


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


def most_informative(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """The flagship: what is expected to put most samples into their right group.

    Each "not sure" halves what asking the like of it again is worth.

    Either an uncertain sample against its most probable group, or two groups that may be one,
    or, where judgements can be wrong, a sample against its own group once more. Questions of one
    call are chosen one after the other, each as if those before had got their most probable
    answers. `rng` is not needed.
    """
    relations = copy.deepcopy(knowledge.relations) if count > 1 else knowledge.relations
    questions: list[Question] = []
    while len(questions) < count:
        believing = dataclasses.replace(knowledge, relations=relations)
        posterior = infer(knowledge.geometry, relations, knowledge.error_rate)
        ideas = [find(believing, posterior) for find in (_merges, _samples, _checks)]
        best = max(ideas, key=lambda idea: idea.gain)
        if best.question is None:
            break
        questions.append(best.question)
        if len(questions) < count:
            relations.add([Answer(questions[-1], best.believed, "believed")])
    return questions


@dataclasses.dataclass(frozen=True)
class _Idea:
    """A question, its gain (in samples put right) and its most probable answer."""

    gain: float = 0.0
    question: Question | None = None
    believed: tuple[Relation, ...] = ()


def _samples(knowledge: Knowledge, posterior: Posterior) -> _Idea:
    """Uncertain samples against their most probable group.

    The gain of a sample is how much less the posterior variance would be if its group were
    known, each sample weighted by its chance to be in the wrong group.
    """
    wrong = 1.0 - posterior.probability[:, :-1].max(axis=1)
    open_ = np.flatnonzero(~posterior.placed)
    open_ = open_[np.argsort(-wrong[open_], kind="stable")[:_OPEN]]
    if not len(open_):
        return _Idea()
    # float32: it only ranks.
    phi = knowledge.geometry.features[open_].astype(np.float32)
    spread = phi @ posterior.covariance.astype(np.float32)
    heard = (spread * wrong[open_, None].astype(np.float32)).T @ spread
    noise = posterior.noise[open_].astype(np.float32)
    gain = ((phi @ heard) * phi).sum(axis=1) / ((spread * phi).sum(axis=1) + noise)
    gain = gain * _patience(knowledge)[open_]
    best = gain.argmax()
    column = posterior.probability[open_, :-1].argmax(axis=1)
    rivals = np.flatnonzero(column == column[best])
    chosen = _spread_out(gain[rivals], phi[rivals], spread[rivals], knowledge.candidates)
    samples = open_[rivals[chosen]]
    return _Idea(
        float(gain[best]),
        Question(_representative(knowledge, posterior, int(column[best]), samples), tuple(samples)),
        (Relation.ALIKE,) * len(samples),  # believing "no" would ask on about a group of its own
    )


def _patience(knowledge: Knowledge) -> np.ndarray:
    """[n] what asking about a sample is still worth, after so many "not sure"."""
    samples = np.array(knowledge.relations.unsure(), np.int64).ravel()
    return 0.5 ** np.bincount(samples, minlength=knowledge.geometry.n)


def _spread_out(gain: np.ndarray, phi: np.ndarray, spread: np.ndarray, count: int) -> list[int]:
    """The best, then what is still worth most beside those chosen before it."""
    chosen: list[int] = []
    variance = (spread * phi).sum(axis=1)
    for _ in range(min(count, len(gain))):
        best = int(gain.argmax())
        chosen.append(best)
        shared = np.square(spread @ phi[best]) / (variance * variance[best] + 1e-30)
        gain = gain * np.maximum(1.0 - shared, 0.0)
        gain[chosen] = -np.inf
    return chosen


def _merges(knowledge: Knowledge, posterior: Posterior) -> _Idea:
    """Two groups that may be one: the smaller of them times the chance that they are."""
    relations, names = knowledge.relations, posterior.names.tolist()
    mass = posterior.probability[:, :-1].sum(axis=0)
    labelled = relations.known()[posterior.names] >= 0
    leak = leaks(posterior, knowledge.geometry)
    rank = np.lexsort((posterior.names, mass)).argsort()
    unsure = np.zeros_like(leak)
    for i, j in relations.unsure():
        a, b = posterior.column[[i, j]]
        if a >= 0 and b >= 0:
            unsure[a, b] += 1
            unsure[b, a] += 1
    best, pair, chance = 0.0, (0, 0), 0.0
    for a, name in enumerate(names):
        apart = relations.apart(name)
        votes = np.array([apart.get(other, 0) for other in names])
        odds = vote_odds(votes, knowledge.error_rate)
        others = np.flatnonzero((rank > rank[a]) & (odds > 0.0) & ~(labelled & labelled[a]))
        if not len(others):
            continue
        same = leak[a, others] / (leak[a, others].sum() + _TIGHT)
        same = (1.0 - SURPRISE) * same + SURPRISE / len(names)  # no geometry is quite believed
        same = same * odds[others] / (same * odds[others] + 1.0 - same)
        gain = _MERGE * same * mass[a] * 0.5 ** unsure[a, others]
        b = gain.argmax()
        if gain[b] > best:
            best, pair, chance = float(gain[b]), (a, int(others[b])), float(same[b])
    if best == 0.0:
        return _Idea()
    anchor, candidate = _closest(knowledge, posterior, *pair)
    believed = Relation.ALIKE if chance >= 0.5 else Relation.NOT_ALIKE
    return _Idea(best, Question(anchor, (candidate,)), (believed,))


def _checks(knowledge: Knowledge, posterior: Posterior) -> _Idea:
    """A sample against its own group once more, in case that a judgement was wrong."""
    if knowledge.error_rate == 0.0:
        return _Idea()
    relations, groups = knowledge.relations, knowledge.relations.groups()
    votes = np.zeros(len(groups))
    for i, j in relations.pairs():
        if groups[i] == groups[j]:
            votes[[i, j]] += relations.votes(i, j)
    samples, chance = own_group(posterior, knowledge.geometry)
    asked = (votes[samples] > 0) & (relations.known()[samples] < 0)
    samples, chance = samples[asked], chance[asked]
    if not len(samples):
        return _Idea()
    odds = vote_odds(votes[samples], knowledge.error_rate)
    wrong = (1.0 - chance) / (1.0 - chance + chance * odds)
    phi = knowledge.geometry.features
    heard = phi[samples] @ (posterior.covariance @ phi.sum(axis=0)) / posterior.noise[samples]
    gain = _CHECK * wrong * np.abs(heard) * _patience(knowledge)[samples]
    best = int(gain.argmax())
    sample = int(samples[best])
    column = int(posterior.column[sample])
    other = _representative(knowledge, posterior, column, np.array([sample]))
    believed = Relation.ALIKE if wrong[best] < 0.5 else Relation.NOT_ALIKE
    return _Idea(float(gain[best]), Question(other, (sample,)), (believed,))


def _representative(
    knowledge: Knowledge, posterior: Posterior, column: int, samples: np.ndarray
) -> int:
    """The member of a group most similar to `samples`, of those least asked about them."""
    phi = knowledge.geometry.features
    members = np.setdiff1d(np.flatnonzero(posterior.column == column), samples)
    similarity = phi[members] @ phi[samples].sum(axis=0)
    asked = [
        sum(knowledge.relations.asked(member, sample) for sample in samples.tolist())
        for member in members.tolist()
    ]
    return int(members[np.lexsort((-similarity, asked))[0]])


def _closest(knowledge: Knowledge, posterior: Posterior, a: int, b: int) -> tuple[int, int]:
    """A member of each of two groups: the most similar pair of those least often asked."""
    phi, relations = knowledge.geometry.features, knowledge.relations
    left, right = (np.flatnonzero(posterior.column == column) for column in (a, b))
    similarity = phi[left] @ phi[right].T
    columns = posterior.column
    for pair in relations.pairs():
        if {columns[pair[0]], columns[pair[1]]} == {a, b}:
            i, j = pair if columns[pair[0]] == a else pair[::-1]
            row, column = np.searchsorted(left, i), np.searchsorted(right, j)
            similarity[row, column] -= 2.0 * relations.asked(i, j)
    i, j = divmod(int(similarity.argmax()), len(right))
    return int(left[i]), int(right[j])
