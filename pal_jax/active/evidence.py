"""What an answer is worth: how likely it was if the two samples are alike, and if they are not."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from pal_jax.active.questions import Relation
from pal_jax.active.relations import Judgements

SURE = 1e-6  # error of an oracle that is never wrong, where a logarithm is needed
_WRONG, _RIGHT = 0.5, 19.5  # answers of each kind imagined before the first of an unknown oracle
_ERRS = 2.0  # log odds that such an oracle errs, from which on it is taken to
_STEPS = 20  # of the estimate of an oracle's rates
_GUESSES = 0.42  # error expected of an oracle that is named to be estimated: a file of guesses
_LEAST = -50.0  # log likelihood ratio beyond which what is said of a pair counts no more
_MANY = 30  # sure answers of one kind alone, from which on an oracle is told of
_CODES = {relation: code for code, relation in enumerate(Relation)}
_ALIKE, _APART, _UNSURE = (
    _CODES[r] for r in (Relation.ALIKE, Relation.NOT_ALIKE, Relation.UNKNOWN)
)


@dataclasses.dataclass(frozen=True)
class Trust:
    """How often each oracle is wrong.

    Args:
        error_rate: of every oracle that is not in `named`, below one half; None: to be estimated.
        named: the same for oracles by name, such as a file of guesses.
    """

    error_rate: float | None = 0.0
    named: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def of(self, oracle: str) -> float | None:
        """The error rate of one oracle, or None: to be estimated."""
        return self.named.get(oracle, self.error_rate)

    def unknown(self, judgements: Judgements) -> list[str]:
        """The oracles that have answered, have no name in `named`, and no rate given."""
        if self.error_rate is not None:
            return []
        return [oracle for oracle in judgements.oracles if oracle not in self.named]

    def is_hard(self, judgements: Judgements) -> bool:
        """Whether no oracle that has answered is ever wrong: then closure is proof."""
        return all(self.of(oracle) == 0.0 for oracle in judgements.oracles) and (
            bool(judgements.oracles) or self.error_rate == 0.0
        )


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Judgements about pairs of rows, and how likely each was.

    Args:
        first, second: [K] the rows (samples or units) that were compared.
        if_alike, if_apart: [K] probability of the answer that was given.
    """

    first: np.ndarray
    second: np.ndarray
    if_alike: np.ndarray
    if_apart: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """[K] log likelihood ratio: positive speaks for alike."""
        return np.log(self.if_alike / self.if_apart)

    def about(self, rows: np.ndarray) -> "Evidence":
        """The same about `rows[i]` in the place of sample i, without what is about one row."""
        first, second = rows[self.first], rows[self.second]
        keep = (first != second) & (first >= 0) & (second >= 0)
        return dataclasses.replace(self, first=first, second=second).at(keep)

    def at(self, rows: np.ndarray | slice) -> "Evidence":
        """Some of the judgements, in the order of `rows`: indices, [K] bool or a slice."""
        return Evidence(*(x[rows] for x in (self.first, self.second, self.if_alike, self.if_apart)))

    @functools.cached_property
    def both_ways(self) -> "Evidence":
        """[2K] each judgement as one about its second row as well, `first` ascending."""
        first, second = np.append(self.first, self.second), np.append(self.second, self.first)
        likelihoods = np.tile(self.if_alike, 2), np.tile(self.if_apart, 2)
        return Evidence(first, second, *likelihoods).at(np.argsort(first, kind="stable"))

    def by_pair(self) -> "Evidence":
        """[P] all that was said of each pair as one judgement, the larger likelihood 1.

        A pair is alike or it is not, however often it is compared: judged one by one, what is said
        twice of rows that little is known of would tell twice as much of these.
        """
        return self.of_pair().at(self._pairs[0])

    def of_pair(self) -> "Evidence":
        """[K] in the place of each judgement what all say of its pair."""
        _, place, logs = self._pairs
        return self._of_logs(logs[:, place])

    def beside(self) -> "Evidence":
        """[K] in the place of each judgement what all others say of its pair."""
        _, place, logs = self._pairs
        return self._of_logs(logs[:, place] - np.log([self.if_alike, self.if_apart]))

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """[D] of the judgements that say the same of the same pair the first, and [K] which of
        these each one repeats."""
        _, place, _ = self._pairs
        said, kind = np.unique(self.weight, return_inverse=True)
        return np.unique(place * len(said) + kind, return_index=True, return_inverse=True)[1:]

    @functools.cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[P] the first judgement about each pair, [K] the pair of each judgement, and [2, P]
        logarithms of the products of its likelihoods."""
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        pairs = low * (high.max(initial=0) + 1) + high
        _, first, place = np.unique(pairs, return_index=True, return_inverse=True)
        both = (self.if_alike, self.if_apart)
        logs = [np.bincount(place, np.log(likelihood), len(first)) for likelihood in both]
        return first, place, np.array(logs)

    def _of_logs(self, logs: np.ndarray) -> "Evidence":
        """The same rows with likelihoods of [2, K] logarithms, up to a factor each."""
        if_alike, if_apart = np.exp(np.maximum(logs - logs.max(axis=0), _LEAST))
        return dataclasses.replace(self, if_alike=if_alike, if_apart=if_apart)


def rates(judgements: Judgements, trust: Trust, alike: np.ndarray | None = None) -> np.ndarray:
    """[O, 2, 3] probability that oracle o says (alike, not alike, not sure) of a pair (alike, not).

    A rate that is given is that of both errors, and "not sure" then says nothing. Of an oracle
    without one, all are estimated as those under which its answers are most probable, with some
    imagined before the first. So "not sure" becomes evidence where it comes more often for one
    kind.

    Args:
        alike: [K] probability that the pair of each judgement is alike, judged without that very
            answer; None: nothing is known yet.
    """
    out = np.empty((len(judgements.oracles), 2, 3))
    for o, oracle in enumerate(judgements.oracles):
        error = trust.of(oracle)
        if error is not None:
            e = max(error, SURE)
            out[o] = [[1.0 - e, e, 1.0], [e, 1.0 - e, 1.0]]
            continue
        wrong = _GUESSES * (_RIGHT + _WRONG) if oracle in trust.named else _WRONG
        out[o] = [
            [_RIGHT + _WRONG - wrong, wrong, _WRONG],
            [wrong, _RIGHT + _WRONG - wrong, _WRONG],
        ]
        if alike is not None:
            own = judgements.oracle == o
            out[o] = _likeliest_rates(out[o], judgements.relation[own], alike[own])
        out[o] /= out[o].sum(axis=1, keepdims=True)
    return out


def telling(judgements: Judgements, trust: Trust) -> Judgements:
    """Those that say something: all but "not sure" of oracles whose rate is given."""
    estimated = np.array([trust.of(oracle) is None for oracle in judgements.oracles], bool)
    return judgements.at((judgements.relation != _UNSURE) | estimated[judgements.oracle])


def _likeliest_rates(prior: np.ndarray, said: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """[2, 3] counts of what was said of pairs (alike, not): expectation maximisation.

    Each answer counts for both kinds of pair as probable as these are after it: an answer about
    which nothing else is known says nothing of how often the oracle is wrong.

    Args:
        prior: [2, 3] answers imagined before the first.
        said: [K] codes of the answers.
        alike: [K] probability that each pair is alike, judged without the answer.
    """
    counts = prior
    chance = np.stack([alike, 1.0 - alike])
    for _ in range(_STEPS):
        table = counts / counts.sum(axis=1, keepdims=True)
        likelihood = chance * table[:, said]
        share = likelihood / np.maximum(likelihood.sum(axis=0), SURE)
        counts = prior + np.stack([np.bincount(said, row, minlength=3) for row in share])
    return counts


def errs(
    judgements: Judgements,
    table: np.ndarray,
    alike: np.ndarray,
    if_proof: np.ndarray,
    oracles: Sequence[str],
    price: float = 0.0,
) -> bool:
    """Whether some oracles err at times, rather than never.

    Answers are worth so much more if they are proof that this is a question of its own. Its odds
    are those of all that was said with the estimated rates, under what is then believed, to the
    same with no errors: once under the same belief, and once under what is believed if all
    answers are proof. An embedding that is wrong about many samples makes a right oracle look
    wrong under the first, and answers that nothing was asked to check look right under the second:
    it errs where the first says so, and the second does not say the opposite more loudly.

    Two rates that fit are worth less than none to be fitted: half the logarithm of how many times
    as many answers there are as were imagined, for each (the Beta integral at few errors).

    Args:
        judgements: all of them.
        table: [O, 2, 3] from `rates`.
        alike: [K] probability that the pair of each is alike, judged without it, if they err.
        if_proof: [K] the same probability if they never do.
        oracles: names of those in question.
        price: how much less probable, as a logarithm, the groups are that explain the answers if
            these are proof.
    """
    asked = [o for o, oracle in enumerate(judgements.oracles) if oracle in oracles]
    sure = np.isin(judgements.oracle, asked) & (judgements.relation != _UNSURE)
    said, oracle = judgements.relation[sure], judgements.oracle[sure]
    alike, if_proof = alike[sure], if_proof[sure]
    share = table[:, :, :2] / table[:, :, :2].sum(axis=2, keepdims=True)
    at_times = _log(alike * share[oracle, 0, said] + (1.0 - alike) * share[oracle, 1, said])
    for kind in (alike, 1.0 - alike):
        count = np.bincount(oracle, kind, minlength=len(table))[asked]
        at_times -= 0.5 * np.log1p(count / (_RIGHT + _WRONG)).sum()
    same = at_times - _log(np.where(said == _ALIKE, alike, 1.0 - alike))
    other = at_times - _log(np.where(said == _ALIKE, if_proof, 1.0 - if_proof)) + price
    return same > _ERRS and same + other > _ERRS


def _log(likelihood: np.ndarray) -> float:
    return float(np.log(np.maximum(likelihood, SURE)).sum())


def weigh(judgements: Judgements, table: np.ndarray) -> Evidence:
    """The evidence in all judgements, by `rates`."""
    likelihood = table[judgements.oracle, :, judgements.relation].reshape(-1, 2)
    return Evidence(judgements.first, judgements.second, likelihood[:, 0], likelihood[:, 1])


@dataclasses.dataclass(frozen=True)
class OneSided:
    """An oracle that was sure `count` times, and each time said the same."""

    oracle: str
    relation: Relation
    count: int


def one_sided(judgements: Judgements) -> list[OneSided]:
    """The oracles that gave some thirty sure answers or more, all of one kind.

    No estimate can tell such an oracle from a right one: what it says never contradicts itself.
    """
    found = []
    for o, oracle in enumerate(judgements.oracles):
        said = np.bincount(judgements.relation[judgements.oracle == o], minlength=3)
        alike, apart = int(said[_ALIKE]), int(said[_APART])
        if min(alike, apart) == 0 and alike + apart >= _MANY:
            relation = Relation.ALIKE if alike else Relation.NOT_ALIKE
            found.append(OneSided(oracle, relation, alike + apart))
    return found


def error_of(table: np.ndarray, judgements: Judgements, trust: Trust) -> float:
    """Share of wrong answers of the oracle that was heard last; before any, what is expected."""
    if not len(judgements.oracle):
        return _WRONG / (_WRONG + _RIGHT) if trust.error_rate is None else trust.error_rate
    if trust.of(judgements.oracles[judgements.oracle[-1]]) == 0.0:
        return 0.0
    alike, apart = table[judgements.oracle[-1], :, :2]
    return float((alike[1] / alike.sum() + apart[0] / apart.sum()) / 2)


def least_error_of(
    table: np.ndarray,
    judgements: Judgements,
    trust: Trust,
    alike: np.ndarray | None,
    confidence: float,
) -> float:
    """What `error_of` is at least: the same where a rate is given.

    Without the part of an estimated rate that its answers do not need, by the likelihood ratio:
    wrong answers become rarer, of both kinds alike, until those that were given are e^(-z^2 / 2)
    times as probable, z the normal quantile of the confidence. 0 before any.

    Args:
        alike: [K] probability that the pair of each judgement is alike, judged without it.
        confidence: one-sided.
    """
    if not len(judgements.oracle):
        return trust.error_rate or 0.0
    error, last = error_of(table, judgements, trust), judgements.oracle[-1]
    if alike is None or trust.of(judgements.oracles[last]) is not None:
        return error
    own = judgements.oracle == last
    chance = np.stack([alike[own], 1.0 - alike[own]])
    said = judgements.relation[own]
    wrong = table[last, [0, 1], [_APART, _ALIKE]][:, None] * np.array([[1.0, -1.0], [-1.0, 1.0]])

    def likelihood(part: float) -> float:
        scaled = table[last].copy()
        scaled[:, [_ALIKE, _APART]] += (1.0 - part) * wrong
        return float(np.log(np.maximum((chance * scaled[:, said]).sum(axis=0), SURE)).sum())

    excess = statistics.NormalDist().inv_cdf(confidence) ** 2 / 2.0
    low, high, least = 0.0, 1.0, likelihood(1.0) - excess
    if likelihood(0.0) >= least:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if likelihood(middle) >= least else (middle, high)
    return low * error
