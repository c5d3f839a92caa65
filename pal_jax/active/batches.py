"""Which samples the next training step sees."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a training step is given; shapes never change.

    Args:
        ids: [B] int, different samples.
        groups: [B] int32 in [0, B); equal numbers are known to be alike.
    """

    ids: np.ndarray
    groups: np.ndarray


def draw(groups: np.ndarray, size: int, related: float, rng: np.random.Generator) -> Batch:
    """`size` different samples; about a share `related` of them come with a partner.

    Args:
        groups: [n] int, equal names are known to be alike; size <= n.
        related: share of the batch drawn from samples with a partner, as far as there are any.
    """
    chosen = _draw_related(groups, round(related * size), rng)
    others = rng.choice(len(groups), size, replace=False)
    others = others[~np.isin(others, chosen)][: size - len(chosen)]
    ids = rng.permutation(np.concatenate([chosen, others]))
    _, small = np.unique(groups[ids], return_inverse=True)
    return Batch(ids, small.astype(np.int32))


def _draw_related(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different samples with a known alike partner, in pairs of partners."""
    order = np.argsort(groups, kind="stable")
    _, start, size = np.unique(groups[order], return_index=True, return_counts=True)
    large = size > 1
    start, size = start[large], size[large]
    total = int(size.sum())
    pairs = min(count, total) // 2
    if pairs == 0:
        return np.empty(0, np.int64)
    # Position p of all samples with a partner, laid end to end, is in block `block[p]`.
    picks = rng.choice(total, pairs, replace=False)
    ends = np.cumsum(size)
    block = np.searchsorted(ends, picks, side="right")
    place = picks - (ends - size)[block]
    partner = (place + rng.integers(1, size[block])) % size[block]
    return np.unique(order[start[block] + np.stack([place, partner])])
