"""How good the partition is: random audit questions and an exact bound on what they show."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pal_jax.active.questions import Question, Relation
from pal_jax.errors import UserError

_SPREAD = np.array([1.5, 0.5])  # of what audits may find: of the shift, of the slope
_WORSE = 0.05  # chance from which on an audit is no worse than those before it


@dataclasses.dataclass(frozen=True)
class Audit:
    """Share of samples that are where they belong.

    Questions see samples in a wrong group. They cannot see one class split over two groups, each
    half of which agrees with its own representative: groups that may be pieces of larger ones are
    taken off, in the estimate as probable as that is, in the bound all that no answer keeps apart
    from each larger one.

    Args:
        estimated_accuracy: in [0, 1].
        estimated_accuracy_low: at least this, with the confidence asked for.
        judgements: audit answers behind the two.
        unsure: how many of these were "not sure". The estimate passes over them; the bound takes
            each for a sample in a wrong group.
    """

    estimated_accuracy: float
    estimated_accuracy_low: float
    judgements: int
    unsure: int = 0


@dataclasses.dataclass(frozen=True)
class Audited:
    """One answer of an audit.

    Args:
        sureness: probability, before the answer, that the sample was where it belongs.
        relation: what was answered.
        audit: number of the audit.
        pair: that was asked about, the sample first; () where an earlier version did not say.
    """

    sureness: float
    relation: Relation
    audit: int
    pair: tuple[int, ...] = ()


def since_decline(audited: Sequence[Audited]) -> list[Audited]:
    """The answers of the latest audits: back to one that found more right than can be chance.

    What answers teach makes a partition better, so those of earlier audits count; but another
    embedding may make it worse. By Fisher's exact test of each audit against all later ones.

    Args:
        audited: in their order.
    """
    kept: list[Audited] = []
    for number in sorted({a.audit for a in audited}, reverse=True):
        earlier = [a for a in audited if a.audit == number]
        if kept and _worse(*_hits(kept), *_hits(earlier)) < _WORSE:
            break
        kept = earlier + kept
    return kept


def _hits(audited: Sequence[Audited]) -> tuple[int, int]:
    """How many of them were in the right group, and of how many that is known."""
    decided = [a.relation for a in audited if a.relation is not Relation.UNKNOWN]
    return decided.count(Relation.ALIKE), len(decided)


def _worse(hits: int, trials: int, other_hits: int, other_trials: int) -> float:
    """Chance of so few hits or less, if hits were as frequent there as here."""
    all_hits, everything = hits + other_hits, trials + other_trials
    ways = [
        math.comb(all_hits, k) * math.comb(everything - all_hits, trials - k)
        for k in range(max(0, trials - (everything - all_hits)), hits + 1)
    ]
    return sum(ways) / math.comb(everything, trials)


def audit_questions(
    groups: np.ndarray, centrality: np.ndarray, proven: np.ndarray, count: int,
    rng: np.random.Generator,
) -> tuple[list[Question], int]:  # fmt: skip
    """Random samples, each against the most central sample of its group.

    Args:
        groups: [n] int, the partition to be audited.
        centrality: [n] float; the largest of a group makes its representative.
        proven: [n] int names: samples with that of their representative need no question.
        count: at most so many questions.

    Returns:
        The questions, and how many samples they were drawn from: the unknown ones.
    """
    order = np.lexsort((np.arange(len(groups)), -centrality, groups))
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    representative = order[first][np.searchsorted(groups[order][first], groups)]
    open_ = np.flatnonzero(proven != proven[representative])
    chosen = rng.choice(open_, min(count, len(open_)), replace=False)
    return [Question(int(representative[i]), (int(i),)) for i in chosen], len(open_)


def audit_result(
    relations: Sequence[Relation],
    unknown: int,
    n: int,
    error_rate: float,
    error_rate_low: float | None = None,
    confidence: float = 0.95,
    pieces: tuple[float, float] = (0.0, 0.0),
) -> Audit:
    """The samples known already count as right; the bound is for the `unknown` others.

    With judgements that are wrong at `error_rate` e, a share p of right samples shows as
    p (1 - e) + (1 - p) e. Where all are "not sure" half of the unknown are taken for right.

    Args:
        relations: what the audit's questions were answered.
        error_rate_low: where the rate is an estimate, what it is at least with confidence
            (1 + confidence) / 2: each of the two then takes half of the risk. None: it is known.
        pieces: share of all samples in groups that may be pieces of others: expected, at most.
    """
    trials = len(relations)
    unsure = sum(relation is Relation.UNKNOWN for relation in relations)
    decided = trials - unsure
    hits = sum(relation is Relation.ALIKE for relation in relations)
    known = error_rate_low in (None, error_rate)
    low = lower_bound(hits, trials, confidence if known else (1.0 + confidence) / 2.0)
    share = hits / decided if decided else 0.5 if trials else 1.0 if unknown == 0 else 0.0

    def whole(observed: float, error: float, piece: float) -> float:
        right = (observed - error) / (1.0 - 2.0 * error)
        return max((n - unknown + unknown * min(max(right, 0.0), 1.0)) / n - piece, 0.0)

    rates = [error_rate]
    if not known and error_rate_low is not None:  # more errors than there were "no" are not here
        rates = [min(rate, 1.0 - share) for rate in (error_rate, error_rate_low)]
    least = min(whole(low, rate, pieces[1]) for rate in rates)
    return Audit(whole(share, rates[0], pieces[0]), least, trials, unsure)


def confidence_of_look(number: int, confidence: float = 0.95) -> float:
    """Of the bound at look `number`, from 1, so that all looks together have `confidence`.

    Who looks until the bound is high enough gets many chances that it is too high: look k takes
    1 / (k (k + 1)) of the risk, of which all looks there can be have one whole.
    """
    return 1.0 - (1.0 - confidence) / (number * (number + 1))


def calibrate(
    probability: np.ndarray, asked: np.ndarray, right: np.ndarray, error_rate: float
) -> np.ndarray:
    """[n] probabilities, moved to where random samples say that they should be.

    p becomes sigmoid(a + b logit p), with a and b by penalised maximum likelihood of the audit's
    answers; without any, nothing moves. What is certain stays so. Source: Platt, 1999.

    Args:
        probability: [n] that each sample is where it belongs.
        asked: [K] the same of the audited samples, as if they had not been asked about.
        right: [K] bool, whether they were there by the answers.
        error_rate: how often these are wrong.
    """
    if not len(asked):
        return probability
    x = np.stack([np.ones(len(asked)), _logit(asked)], axis=1)
    weights = start = np.array([0.0, 1.0])
    for _ in range(20):
        p = 1.0 / (1.0 + np.exp(-x @ weights))
        said = error_rate + (1.0 - 2.0 * error_rate) * p  # probability that it is so
        slope = (1.0 - 2.0 * error_rate) * p * (1.0 - p)
        fisher = (x.T * (slope**2 / (said * (1.0 - said)))) @ x + np.diag(1.0 / _SPREAD**2)
        gradient = x.T @ ((right - said) * slope / (said * (1.0 - said)))
        gradient -= (weights - start) / _SPREAD**2
        weights = weights + np.clip(np.linalg.solve(fisher, gradient), -1.0, 1.0)
    moved = 1.0 / (1.0 + np.exp(-(weights[0] + max(weights[1], 0.0) * _logit(probability))))
    return np.where(probability >= 1.0, 1.0, moved)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-3, 1.0 - 1e-3)
    return np.log(p / (1.0 - p))


def lower_bound(hits: int, trials: int, confidence: float = 0.95) -> float:
    """Exact (Clopper-Pearson) one-sided lower confidence bound of a probability.

    The p at which `hits` or more of `trials` would be seen with probability 1 - confidence;
    0 when there are no hits. By bisection, to 1e-12.
    """
    if not 0 <= hits <= trials or not 0.0 < confidence < 1.0:
        raise UserError(f"no bound for {hits} of {trials} at confidence {confidence}")
    if hits == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _tail(hits, trials, middle) > 1.0 - confidence:
            high = middle
        else:
            low = middle
    return low


def _tail(hits: int, trials: int, p: float) -> float:
    """Probability of `hits` or more, 0 < p < 1."""
    log_p, log_q = math.log(p), math.log1p(-p)
    return sum(
        math.exp(
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * log_p + (trials - k) * log_q
        )
        for k in range(hits, trials + 1)
    )  # fmt: skip
