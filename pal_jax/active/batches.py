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


class Partners:
    """Who is known to be alike, laid out once so that a batch costs O(its size).

    Args:
        n: number of samples.
        samples: [K] ascending ids; all others are groups of their own.
        groups: [K] names of their groups: ids of samples that are in them.
    """

    def __init__(self, n: int, samples: np.ndarray, groups: np.ndarray):
        self.n = n
        self._samples, self._groups = samples, groups
        # Groups in the upper half of a number, places in the lower: a sort that is stable, and
        # many times as fast as a stable argsort.
        keys = np.sort((groups.astype(np.int64) << 32) | np.arange(len(groups)))
        order = keys & 0xFFFFFFFF
        start = np.flatnonzero(np.diff(keys >> 32, prepend=-1))
        size = np.diff(start, append=len(keys))
        large = size > 1
        # Samples by group, and where in them each group with more than one begins and how many
        # it has.
        self._laid, self._start, self._size = samples[order], start[large], size[large]
        self._ends = np.cumsum(self._size)

    def groups(self, ids: np.ndarray) -> np.ndarray:
        """[B] names of the groups of [B] samples."""
        if not len(self._samples):
            return ids
        at = np.minimum(np.searchsorted(self._samples, ids), len(self._samples) - 1)
        return np.where(self._samples[at] == ids, self._groups[at], ids)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most `count` different samples with a known alike partner, in pairs of partners."""
        total = int(self._size.sum())
        pairs = min(count, total) // 2
        if pairs == 0:
            return np.empty(0, np.int64)
        # Position p of all samples with a partner, laid end to end, is in block `block[p]`.
        picks = rng.choice(total, pairs, replace=False)
        block = np.searchsorted(self._ends, picks, side="right")
        size = self._size[block]
        place = picks - (self._ends[block] - size)
        partner = (place + rng.integers(1, size)) % size
        return np.unique(self._laid[self._start[block] + np.stack([place, partner])])


def draw(partners: Partners, size: int, related: float, rng: np.random.Generator) -> Batch:
    """`size` <= n different samples; about a share `related` of them come with a partner.

    Args:
        partners: who is known to be alike.
        related: share of the batch drawn from samples with a partner, as far as there are any.
    """
    chosen = partners.draw(round(related * size), rng)
    others = rng.choice(partners.n, size, replace=False)  # O(size) where n is much larger
    others = others[~np.isin(others, chosen)][: size - len(chosen)]
    ids = rng.permutation(np.concatenate([chosen, others]))
    _, small = np.unique(partners.groups(ids), return_inverse=True)
    return Batch(ids, small.astype(np.int32))
