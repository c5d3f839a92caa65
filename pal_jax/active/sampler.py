"""The side that remembers: budget, ask and tell, partition, batches, and state to go on from."""

import collections
import dataclasses
import numbers
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pal_jax.active import batches, stopping
from pal_jax.active import refit as refit_lib
from pal_jax.active.batches import Batch
from pal_jax.active.evidence import OneSided, Trust, one_sided
from pal_jax.active.geometry import Geometry, LastGeometry
from pal_jax.active.journal import Journal
from pal_jax.active.posterior import Posterior, infer
from pal_jax.active.questions import (
    Answer,
    Oracle,
    Question,
    Relation,
    answer_from_dict,
    answer_to_dict,
)
from pal_jax.active.relations import Contradiction, Relations
from pal_jax.active.sketch import LastSketch, Sketch, Whole
from pal_jax.active.stopping import Audited
from pal_jax.active.strategies import (
    Knowledge,
    Strategy,
    expected_sureness,
    most_informative,
)
from pal_jax.errors import UserError

_BATCH, _PROPOSAL = 0, 1  # streams of random numbers that never meet
_EXACT = 20_000  # samples up to which the engine looks at all of them
_REFUTED = 0.05  # share of wrong answers, at least, from which on a rate of 0 is doubted
_SURE = 0.9  # probability from which on a sample's group is taught where answers may be wrong
MOST_PRIOR = 1_000  # answers believed from the start
_NOT_IN_ORDER = "the oracle did not answer each question once, in their order"
Belief = tuple[list[int], list[int]]  # samples that are sure of their group, and the group of each


@dataclasses.dataclass(frozen=True)
class Partition:
    """Which samples belong together.

    Args:
        groups: [n] int, numbered from 0 by size descending; of equals, smallest sample id first.
        probability: [n] float in [0, 1], how sure it is of each sample's group.
        error_rate: share of wrong answers of the oracle heard last, as given or estimated.
    """

    groups: np.ndarray
    probability: np.ndarray
    error_rate: float = 0.0


class Sampler:
    """Proposes questions, learns from answers and draws the batches that teach the model.

    Everything it does is a function of its arguments, the answers told so far and two counters,
    so a run that stopped goes on as if it never had. With a journal, answers are on disk before
    they count; those in it that the loaded state has not seen are *pending*: bought by a run
    that stopped before it saved its state. `ask` and `audit` use them up before they buy more.

    Args:
        n: number of samples.
        budget: judgements that may be bought in all, repeats included; one candidate costs one.
        seed: of all random choices.
        strategy: which questions to propose.
        journal: where answers are kept; None: in memory, and then in `state_dict`.
        error_rate: how often a judgement is wrong, below one half. 0: all are right. None:
            estimated, for yes and for no, from answers that others and the embedding contradict.
        error_rates: the same for oracles by name, such as a file of guesses among people.
        prior: answers believed from the start, at no cost and in no journal: earlier labels,
            metadata, the guesses of another model. Their oracles are best named in `error_rates`;
            with None for a rate it is learned how far to believe them. Of more than a thousand a
            thousand are taken, evenly.
        known: [n] int labels known from the start, -1 where there is none.
        candidates: M, how many candidates a question may have.
        related: share of a batch that is drawn from samples with a known alike partner.
        refit: judgements between linear refits of the embedding to its neighbours and to what
            answers prove (`refit.py`); the first needs none. 0: embeddings are taken as they are.
        exact: of more samples than this, the engine looks at a sketch: half as many drawn
            uniformly, and those that something is known of. Cost and memory of asking then do not
            grow with n. A partition believes of the others what it does of their neighbours.
    """

    def __init__(
        self,
        n: int,
        *,
        budget: int,
        seed: int = 0,
        strategy: Strategy = most_informative,
        journal: Journal | None = None,
        error_rate: float | None = 0.0,
        error_rates: Mapping[str, float | None] | None = None,
        prior: Iterable[Answer] = (),
        known: np.ndarray | None = None,
        candidates: int = 1,
        related: float = 0.5,
        refit: int = 0,
        exact: int = _EXACT,
    ):
        for rate in (error_rate, *(error_rates or {}).values()):
            _check_settings(n, budget, seed, rate, candidates, related, refit, exact)
        self.n = n
        self.budget = budget
        self.seed = seed
        self.strategy = strategy
        self.trust = Trust(error_rate, dict(error_rates or {}))
        self.candidates = candidates
        self.related = related
        self.refit = refit
        self._known = known
        self._prior = _evenly(list(prior), MOST_PRIOR)
        self._check(self._prior)
        self._journal = journal
        self._exact = exact
        self._geometry_of = LastGeometry(n)
        self._restart()
        self._pending = self._unseen(0)

    @property
    def answers(self) -> list[Answer]:
        """All that were told, in order."""
        return list(self._answers)

    @property
    def spent(self) -> int:
        """Judgements told so far; pending ones count when they are told."""
        return self._spent

    @property
    def left(self) -> int:
        """Judgements that may still be bought."""
        return max(0, self.budget - self._spent)

    @property
    def audits(self) -> int:
        """How many audits there were that had anything to ask."""
        return self._audits

    @property
    def relations(self) -> Relations:
        """What the answers say; not to be added to."""
        return self._relations

    def propose(self, embeddings: np.ndarray, count: int) -> list[Question]:
        """At most `count` questions, for no more judgements than are left.

        Empty when the budget is spent or nothing is worth asking. Pending answers are told
        first, so that nothing is bought twice.

        Args:
            embeddings: [n, d] finite numbers.
        """
        self._tell_pending()
        return self._propose(self._look_at(embeddings), count, self.left)

    def tell(self, answers: Iterable[Answer]) -> None:
        """Writes the answers to the journal, then learns from them; all or none.

        Answers to questions that were never proposed are welcome, and count. Of an oracle that
        may fail halfway `ask` keeps what it said before.

        Raises:
            UserError: a sample id is out of range, or they cost more than is left.
        """
        self._tell_pending()
        self._tell(list(answers))

    def ask(
        self,
        oracle: Oracle,
        embeddings: np.ndarray,
        count: int,
        *,
        at_once: int = 1,
        judgements: int | None = None,
        strategy: Strategy | None = None,
    ) -> int:
        """Proposes up to `count` questions, has them answered and learns; judgements told.

        Each answer is told, and with a journal on disk, before the oracle is asked for the next;
        whatever stops the oracle, those before it count.

        Args:
            oracle: answers what no pending answer settles.
            embeddings: [n, d] finite numbers. Checked and hashed once a call; a read-only array
                that is handed in again is known at once.
            at_once: questions proposed together, before any of their answers is known. 1 needs
                fewest answers; more suit an oracle that is slow to start or that is several.
            judgements: at most so many are bought; the last question may lose candidates for
                it. None: all that are left. Only pending answers, bought already, may exceed it.
            strategy: which questions to propose this time; None: those of the sampler's own.

        Raises:
            UserError: the oracle did not answer each question once, in their order, or whatever
                else it raises, such as `OracleError`.
        """
        view = self._look_at(embeddings)
        start = self._spent
        end = self.budget if judgements is None else min(self.budget, start + judgements)
        while count > 0 and (
            questions := self._propose(
                self._refitted(view), min(at_once, count), end - self._spent, strategy
            )
        ):
            count -= sum(1 for _ in self._buy(oracle, questions, end))
        return self._spent - start

    def audit(
        self, oracle: Oracle, embeddings: np.ndarray, count: int, *, confidence: float = 0.95
    ) -> stopping.Audit | None:
        """Buys up to `count` judgements on random samples; they teach like any other.

        The result is about the partition as it was before them. It rests on these answers and on
        those of earlier audits: a partition gets better with what it learns, so what was right
        then may count now, unless these find less right than that (`stopping.since_decline`).

        Args:
            confidence: of the lower bound, each time by itself. Who looks again and again until
                it is high enough must ask for more; see `stopping.confidence_of_look`.

        Returns:
            None when there was something to audit and no judgement was ever bought for it.

        Raises:
            UserError: `count` or `confidence` cannot be; nothing was bought then.
        """
        _check_audit(count, confidence)
        view = self._look_at(embeddings)
        posterior = infer(view.geometry, view.relations, self.trust)
        groups, sureness = view.believed(posterior)
        centrality, left = view.centrality(groups), min(count, self.left)
        # Where a group has a known label one with it speaks for it: nobody need ask about others
        # that have it. Without this, centralities are sums of at most n cosines.
        centrality[self._relations.labelled()] += 2.0 * self.n
        questions, unknown = stopping.audit_questions(
            groups, centrality, self._proven(), left, self._rng()
        )
        self._audits += bool(questions)
        while questions:
            known, told = len(self._answers), 0
            for answer in self._buy(oracle, questions, self.budget):
                pair = answer.question.candidates[0], answer.question.anchor
                self._audited.append(
                    Audited(float(sureness[pair[0]]), answer.relations[0], self._audits, pair)
                )
                told += 1
            if len(self._answers) == known:  # the budget is spent
                break
            asked = self._relations.asked  # what another run bought needs no second answer
            questions = [q for q in questions[told:] if not asked(q.anchor, q.candidates[0])]
        if unknown and not self._audited:
            return None
        relations = [audited.relation for audited in stopping.since_decline(self._audited)]
        return stopping.audit_result(
            relations,
            unknown,
            self.n,
            posterior.error,
            posterior.error_low((1.0 + confidence) / 2.0),
            confidence=confidence,
            pieces=posterior.pieces(),
        )

    def partition(self, embeddings: np.ndarray) -> Partition:
        """The most probable group of each sample; needs no number of groups, nor any answer.

        Where nothing was asked, groups are the communities of the embedding.
        """
        view = self._look_at(embeddings)
        posterior = infer(view.geometry, view.relations, self.trust)
        groups, sureness = view.believed(posterior)
        audited = self._audits_found(view, posterior)
        probability = stopping.calibrate(sureness, *audited, posterior.error)
        return Partition(number_by_size(groups), probability, posterior.error)

    def _audits_found(
        self, view: Whole | Sketch, posterior: Posterior
    ) -> tuple[np.ndarray, np.ndarray]:
        """[K] how sure each audited sample was of its group, and [K] bool whether it was right.

        How sure it would be now, had nothing been said of it: answers teach, and a model that has
        come to expect no more than audits find must not be corrected once more. Where more was
        said of it than this, or nobody learns from it, how sure it was before the answer. A "no"
        to a group that is not believed in any more tells nothing of the one that is.
        """
        audited = stopping.since_decline(self._audited)
        decided = [a for a in audited if a.relation is not Relation.UNKNOWN]
        sure = np.array([a.sureness for a in decided])
        alike = np.array([a.relation is Relation.ALIKE for a in decided], bool)
        same = np.ones(len(decided), bool)  # as the group that is believed in
        judgements = self._relations.judgements()
        said = np.bincount(np.append(judgements.first, judgements.second), minlength=self.n)
        once = np.flatnonzero([bool(a.pair) and said[a.pair[0]] == 1 for a in decided])
        if len(once):
            rows = view.rows(np.array([decided[i].pair for i in once]))
            inside = (rows >= 0).all(axis=1)
            now, still = posterior.foretold(rows[inside, 0], rows[inside, 1])
            node = ~np.isnan(now)
            once = once[inside][node]
            sure[once], same[once] = now[node], still[node]
        told = alike | same
        return sure[told], (alike & same)[told]

    def contradictions(self, groups: np.ndarray) -> list[Contradiction]:
        """The answers that a partition, [n] int, does not follow, and those that stand against it.

        Positions count `answers` from 0; those of `prior` end at -1.
        """
        found = self._relations.against(groups)
        if self.trust.is_hard(self._relations.judgements()):
            proven = self._relations.contradictions()  # these know the whole chain against them
            known = {(c.position, c.pair) for c in proven}
            found = proven + [c for c in found if (c.position, c.pair) not in known]
            found.sort(key=lambda c: (c.position, c.pair))
        shift = len(self._prior)
        return [
            dataclasses.replace(
                c, position=c.position - shift, against=tuple(a - shift for a in c.against)
            )
            for c in found
        ]

    def one_sided(self) -> list[OneSided]:
        """The oracles that have only ever said yes, or only no, and that often."""
        return one_sided(self._relations.judgements())

    def refuted(self, embeddings: np.ndarray) -> float:
        """How many answers are wrong at least, as a share, although they are taken for proof.

        That is what is estimated, with 95 % confidence, if nothing is said of how often oracles
        err. 0 where it is too little to speak of, or answers are not taken for proof. Such
        answers hardly ever contradict each other, since nothing is asked that follows: it is
        with the embedding that they disagree, and that may be wrong as well.
        """
        if not self._answers or not self.trust.is_hard(self._relations.judgements()):
            return 0.0
        view = self._look_at(embeddings)
        low = infer(view.geometry, view.relations, Trust(None)).error_low(0.95)
        return low if low >= _REFUTED else 0.0

    def expected_gain(self, embeddings: np.ndarray, count: int) -> float:
        """Share of samples that the next `count` answers are expected to put right, roughly.

        By how much the probability of the partition rises when each of the questions that
        `most_informative` would ask of one candidate gets its most probable answer, whatever
        strategy, candidates and budget this sampler has; 0 where it has nothing left to ask.
        """
        view = self._look_at(embeddings)
        knowledge = Knowledge(view.geometry, view.relations, 1, self.trust)
        before, after = expected_sureness(knowledge, count)
        return max(after - before, 0.0)

    def believe(self, embeddings: np.ndarray) -> Belief | None:
        """Batches draw on what is believed now, where answers may be wrong; returns it for `hold`.

        Samples that were asked about and are sure of their group become partners of each other,
        until this is called again. With oracles that are never wrong nothing is to be done:
        what answers prove needs no belief, and batches follow each answer at once.
        """
        belief = None
        if not self.trust.is_hard(self._relations.judgements()):
            view = self._look_at(embeddings)
            posterior = infer(view.geometry, view.relations, self.trust)
            judgements = view.relations.judgements()
            heard = np.concatenate([judgements.first, judgements.second, view.relations.labelled()])
            heard = np.intersect1d(heard, posterior.nodes)
            sure = heard[posterior.sureness()[heard] > _SURE]
            group = posterior.cluster[sure].argmax(axis=1).tolist()
            belief = view.ids(sure).tolist(), group
        self.hold(belief)
        return belief

    def hold(self, belief: Belief | None) -> None:
        """What `believe` has found where the embedding is: other hosts may have no row of it."""
        self._believed = belief
        self._partners = None

    def _alike(self) -> batches.Partners:
        """Who is known, or believed, to be alike; made anew where something was learned."""
        if self._partners is None:
            joined = self._relations.joined() if self._believed is None else self._by_belief()
            self._partners = batches.Partners(self.n, *joined)
        return self._partners

    def _by_belief(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending ids of samples, and names of the groups that they are believed to be in."""
        samples, group = np.array(self._believed, np.int64).reshape(2, -1)
        known = self._relations.known()
        names = np.where(known >= 0, known, np.arange(self.n))
        for one in np.unique(group):
            members = samples[group == one]
            labelled = members[known[members] >= 0]
            names[members] = names[labelled[0]] if len(labelled) else members.min()
        samples = np.union1d(samples, self._relations.labelled())
        return samples, names[samples]

    def batch(self, size: int) -> Batch:
        """The next batch: a function of seed, number of the batch and what is known.

        A share `related` of it, as far as there are so many, are samples with a known alike
        partner, which comes with them; the rest are any samples. None comes twice.

        Raises:
            UserError: `size` is larger than the data, or below 1.
        """
        batch = self.upcoming(size)(0)
        self._batches += 1
        return batch

    def upcoming(self, size: int) -> Callable[[int], Batch]:
        """k -> the batch that the k-th next call of `batch` gives, from 0, if nothing is told.

        For those who read batches ahead. Changes nothing; what it returns may be called from any
        thread, and goes on telling what is known now.

        Raises:
            UserError: as `batch`.
        """
        if not 1 <= size <= self.n:
            raise UserError(f"a batch of {size} cannot be drawn from {self.n} samples")
        partners, first = self._alike(), self._batches

        def draw(k: int) -> Batch:
            rng = np.random.default_rng([self.seed, _BATCH, first + k])
            return batches.draw(partners, size, self.related, rng)

        return draw

    def state_dict(self) -> dict[str, Any]:
        """All it takes to go on as if never stopped: integers, and the log where no journal is."""
        state = {
            "answers": len(self._answers),
            "batches": self._batches,
            "proposals": self._proposals,
            "believed": self._believed,
            "audits": self._audits,
            "audited": [[a.sureness, a.relation.value, a.audit, *a.pair] for a in self._audited],
        }
        if self._journal is None:
            state["log"] = [answer_to_dict(answer) for answer in self._answers]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state; answers that the journal holds beyond it are pending.

        Raises:
            UserError: the journal holds fewer answers than the state has seen, only one of the
                two samplers has one, or an answer is about a sample that is not here; nothing
                has changed then.
        """
        if (self._journal is None) != ("log" in state):
            there, here = ("without", "has one") if "log" in state else ("with", "has none")
            raise UserError(
                f"the saved state is that of a sampler {there} a journal, and this one {here}; "
                "make both alike"
            )
        if self._journal is None:
            answers = [answer_from_dict(entry) for entry in state["log"]]
        else:
            answers = self._journal.answers()
            if len(answers) < state["answers"]:
                raise UserError(
                    f"the journal {self._journal.path} holds {len(answers)} answers, the saved "
                    f"state has seen {state['answers']}; put the journal of this run back"
                )
        self._check(answers)
        self._restart()
        self._learn(answers[: state["answers"]])
        self._pending = collections.deque(answers[state["answers"] :])
        self._batches = state["batches"]
        self._proposals = state["proposals"]
        self.hold(state["believed"])
        self._audits = state["audits"]
        self._audited = [
            Audited(sure, Relation(value), k, tuple(pair))
            for sure, value, k, *pair in state["audited"]
        ]

    def _restart(self) -> None:
        self._believed: Belief | None = None
        self._audits = 0  # that had anything to ask
        self._audited: list[Audited] = []
        self._relations = Relations(self.n, self._known)
        self._relations.add(self._prior)
        self._fitted_to = self._proven()
        self._fit: tuple[Geometry, Geometry] | None = None  # as given, and after the refit
        self._partners: batches.Partners | None = None
        self._sketch_of = self._new_sketch()
        self._answers: list[Answer] = []
        self._spent = 0
        self._batches = 0
        self._proposals = 0

    def _new_sketch(self) -> LastSketch | None:
        """None where the engine looks at all samples."""
        if self.n <= self._exact:
            return None
        prior = len(self._relations.judgements().first)
        return LastSketch(self.n, -(-self._exact // 2), self.seed, prior, self.trust)

    def _look_at(self, embeddings: np.ndarray) -> Whole | Sketch:
        """What the engine sees of them; UserError if they cannot be used."""
        if self._sketch_of is None:
            return self._refitted(Whole(self._geometry_of(embeddings), self._relations))
        return self._refitted(self._sketch_of(embeddings, self._relations))

    def _refitted(self, view: Whole | Sketch) -> Whole | Sketch:
        """The same, refitted to what was proven at the last multiple of `refit`."""
        if self.refit:
            given = view.given
            if self._fit is None or self._fit[0] is not given:
                groups = self._fitted_to[view.ids(np.arange(given.n))]
                z = refit_lib.refit(given.embeddings, given.graph, groups)
                self._fit = given, Geometry(z, given.single)
            view.geometry = self._fit[1]
        return view

    def _unseen(self, position: int) -> collections.deque[Answer]:
        journal = self._journal
        answers = [] if journal is None else journal.answers(since=position)
        self._check(answers)
        return collections.deque(answers)

    def _rng(self) -> np.random.Generator:
        self._proposals += 1
        return np.random.default_rng([self.seed, _PROPOSAL, self._proposals])

    def _propose(
        self, view: Whole | Sketch, count: int, judgements: int, strategy: Strategy | None = None
    ) -> list[Question]:
        count = min(count, judgements)
        if count <= 0:
            return []
        view.listen()
        knowledge = Knowledge(view.geometry, view.relations, self.candidates, self.trust)
        questions = (strategy or self.strategy)(knowledge, count, self._rng())
        return _cut(view.questions(questions), judgements)

    def _buy(self, oracle: Oracle, questions: Sequence[Question], end: int) -> Iterator[Answer]:
        """Has the first of them answered, until `end` judgements are spent; each answer, told.

        Pending answers first, as long as they are to these very questions. If they are not,
        another run than this one bought them; they count all the same. The questions may then ask
        what they have answered, so nothing is bought for now.
        """
        for number, question in enumerate(questions):
            if not self._pending:
                yield from self._hear(oracle, _cut(questions[number:], end - self._spent))
                return
            if self._pending[0].question != question:
                self._tell_pending()
                return
            answer = self._pending.popleft()
            self._learn([answer])
            yield answer

    def _hear(self, oracle: Oracle, questions: list[Question]) -> Iterator[Answer]:
        """Tells each answer as it comes, so that nothing the oracle does later can lose it."""
        if not questions:
            return
        told = 0
        answers = oracle(questions)
        try:
            for answer in answers:
                if told == len(questions) or answer.question != questions[told]:
                    raise UserError(_NOT_IN_ORDER)
                self._tell([answer])
                told += 1
                yield answer
        finally:
            if isinstance(answers, Generator):  # it may hold a program that is to be stopped now
                answers.close()
        if told < len(questions):
            raise UserError(_NOT_IN_ORDER)

    def _tell_pending(self) -> None:
        pending = list(self._pending)
        self._pending.clear()
        self._learn(pending)

    def _tell(self, answers: Sequence[Answer]) -> None:
        self._check(answers)
        cost = sum(len(answer.relations) for answer in answers)
        if cost > self.left:
            raise UserError(
                f"{cost} judgements were told and {self.left} of the budget of {self.budget} are "
                "left; raise the budget: a sampler with a larger one goes on from the same journal"
            )
        if answers and self._journal is not None:
            self._journal.append(answers)
        self._learn(answers)

    def _check(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            largest = max(answer.question.anchor, *answer.question.candidates)
            if largest >= self.n:
                raise UserError(
                    f"an answer is about sample {largest}, but there are {self.n} samples, from 0"
                )

    def _learn(self, answers: Sequence[Answer]) -> None:
        fit = self._last_fit(answers)
        self._add(answers[:fit])
        if fit:
            self._fitted_to, self._fit = self._proven(), None
        self._add(answers[fit:])

    def _add(self, answers: Sequence[Answer]) -> None:
        self._relations.add(answers)
        self._partners = None
        self._answers.extend(answers)
        self._spent += sum(len(answer.relations) for answer in answers)

    def _last_fit(self, answers: Sequence[Answer]) -> int:
        """After how many of the answers a multiple of `refit` is passed last; 0 if none is."""
        if not self.refit:
            return 0
        spent = self._spent + np.cumsum([0] + [len(answer.relations) for answer in answers])
        passed = np.flatnonzero(np.diff(spent // self.refit))
        return int(passed[-1]) + 1 if len(passed) else 0

    def _proven(self) -> np.ndarray:
        """[n] int: equal names are alike for sure."""
        if self.trust.is_hard(self._relations.judgements()):
            return self._relations.groups().copy()
        known = self._relations.known()
        return np.where(known >= 0, known, np.arange(self.n))


def _cut(questions: Iterable[Question], judgements: int) -> list[Question]:
    """The first of them, for at most so many judgements; the last one may lose candidates."""
    fitting = []
    for question in questions:
        if judgements <= 0:
            break
        fitting.append(Question(question.anchor, question.candidates[:judgements]))
        judgements -= len(fitting[-1].candidates)
    return fitting


def _evenly(answers: list[Answer], most: int) -> list[Answer]:
    if len(answers) <= most:
        return answers
    return [answers[i] for i in np.linspace(0, len(answers) - 1, most).astype(int)]


def number_by_size(groups: np.ndarray) -> np.ndarray:
    """[n] int: the same partition, numbered from 0, largest group first, then smallest id."""
    _, first, inverse, counts = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(first), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(first))
    return rank[inverse]


def _check_settings(
    n: int,
    budget: int,
    seed: int,
    error_rate: float | None,
    candidates: int,
    related: float,
    refit: int,
    exact: int,
) -> None:
    whole = {"n": n, "budget": budget, "seed": seed, "candidates": candidates}
    _check_type(numbers.Integral, "a whole number", **whole, refit=refit, exact=exact)
    rate = {} if error_rate is None else {"error_rate": error_rate}
    _check_type(numbers.Real, "a number", **rate, related=related)
    if n < 1:
        raise UserError(f"there are {n} samples; at least one is needed")
    if budget < 0:
        raise UserError(f"a budget is a number of judgements from 0 up, not {budget}")
    if seed < 0:
        raise UserError(f"the seed is an integer from 0 up, not {seed}")
    if error_rate is not None and not 0.0 <= error_rate < 0.5:
        raise UserError(f"the error rate is a probability below one half, not {error_rate}")
    if candidates < 1:
        raise UserError(f"a question needs at least one candidate, not {candidates}")
    if exact < 2:
        raise UserError(f"the engine looks at two samples or more, not {exact}")
    if not 0.0 <= related <= 1.0:
        raise UserError(f"related is a share of the batch from 0 to 1, not {related}")
    if refit < 0:
        raise UserError(f"refit is a number of judgements, or 0 for never, not {refit}")


def _check_audit(count: int, confidence: float) -> None:
    _check_type(numbers.Integral, "a whole number", count=count)
    _check_type(numbers.Real, "a number", confidence=confidence)
    if count < 0:
        raise UserError(f"an audit asks 0 questions or more, not {count}")
    if not 0.0 < confidence < 1.0:
        raise UserError(f"no bound has confidence {confidence}; give one above 0 and below 1")


def _check_type(kind: type, meaning: str, **settings: object) -> None:
    for name, value in settings.items():
        if not isinstance(value, kind):
            raise UserError(f"{name}={value!r} is not {meaning}, as it must be; give one")
