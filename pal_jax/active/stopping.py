"""How good the partition is: random audit questions and an exact bound on what they show."""

import dataclasses
import math

import numpy as np

from pal_jax.active.questions import Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Audit:
    """Share of samples that are alike to the representative of their group.

    It sees samples in a wrong group. It cannot see one class split over two groups: each half
    agrees with its own representative.

    Args:
        estimated_accuracy: in [0, 1].
        estimated_accuracy_low: at least this, with the confidence asked for.
        judgements: audit answers behind the two.
    """

    estimated_accuracy: float
    estimated_accuracy_low: float
    judgements: int


def audit_questions(
    groups: np.ndarray, centrality: np.ndarray, relations: Relations, count: int,
    rng: np.random.Generator,
) -> tuple[list[Question], int]:  # fmt: skip
    """Random samples, each against the most central sample of its group.

    Args:
        groups: [n] int, the partition to be audited.
        centrality: [n] float; the largest of a group makes its representative.
        relations: samples already known to be alike to their representative need no question.
        count: at most so many questions.

    Returns:
        The questions, and how many samples they were drawn from: the unknown ones.
    """
    order = np.lexsort((np.arange(len(groups)), -centrality, groups))
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    representative = order[first][np.searchsorted(groups[order][first], groups)]
    known = relations.groups()
    open_ = np.flatnonzero(known != known[representative])
    chosen = rng.choice(open_, min(count, len(open_)), replace=False)
    return [Question(int(representative[i]), (int(i),)) for i in chosen], len(open_)


def audit_result(
    relations: list[Relation], unknown: int, n: int, error_rate: float, confidence: float = 0.95
) -> Audit:
    """The samples known already count as right; the bound is for the `unknown` others.

    "Not sure" counts as not alike, which can only lower the bound. With judgements that are
    wrong at `error_rate` e, a share p of right samples shows as p (1 - e) + (1 - p) e.
    """
    trials = len(relations)
    hits = sum(relation is Relation.ALIKE for relation in relations)
    low = lower_bound(hits, trials, confidence)
    share = hits / trials if trials else 1.0 if unknown == 0 else 0.0

    def whole(observed: float) -> float:
        right = (observed - error_rate) / (1.0 - 2.0 * error_rate)
        return (n - unknown + unknown * min(max(right, 0.0), 1.0)) / n

    return Audit(whole(share), whole(low), trials)


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
