"""Which groups are pieces of one class: a probability for each pair of them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from pal_jax.active.evidence import Evidence
from pal_jax.active.geometry import Geometry

# log odds that two groups are one class: 1, log cosine, log leak, log size; a prior that answers
# about the communities refine. Fitted by hand on digits, breast cancer, wine and iris.
_PRIOR = np.array([0.5, 1.0, 0.4, -1.5])
_SPREAD = np.array([1.0, 0.5, 0.15, 0.5])
# odds that a group of typical size is a piece of a class, wherever the rest may lie; smaller
# groups are likelier pieces, by the square of their size
_PIECE = 0.05
_TINY = 1e-12
_TOLD = 1.0  # log likelihood ratio from which on answers have joined two groups
NEVER = -50.0  # log odds of what cannot be


@dataclasses.dataclass(frozen=True)
class Links:
    """Args:
    chance: [C, C] probability that two groups are one class; 0 on the diagonal.
    odds: [C, C] log odds of the same by looks and answers alone.
    told: [C, C] log likelihood ratio of what answers say of the clusters of the two: below 0, these
        are not one class. Without any looks.
    cluster: [C] int: groups with equal numbers are believed to be one class.
    """

    chance: np.ndarray
    odds: np.ndarray
    told: np.ndarray
    cluster: np.ndarray


class Looks(NamedTuple):
    """What the embedding says of C groups of samples, all [C, C] and symmetric.

    between: summed normalised edge weights. along: cosine of their mean features, along the
    graph. across: cosine of their profiles, straight through space.
    """

    between: np.ndarray
    along: np.ndarray
    across: np.ndarray


def look(geometry: Geometry, member: np.ndarray, count: int) -> Looks:
    """The looks of groups, from that of each sample: [n] int below `count`."""
    return Looks(geometry.between(member, count), *geometry.likeness(member, count))


def features(geometry: Geometry, looks: Looks, size: np.ndarray) -> np.ndarray:
    """[C, C, 4] what speaks for two groups being one class; symmetric.

    A constant; the cosine of their mean features; the share of the smaller one's edges that lead
    to the other; the size of the smaller one, in units of n / (number of communities).

    Args:
        size: [C] samples in each group; not necessarily whole numbers.
    """
    volume = looks.between.sum(axis=1) + _TINY
    leak = looks.between / np.minimum(volume[:, None], volume)
    typical = geometry.n / len(geometry.medoids)
    smaller = np.minimum(size[:, None], size) / typical
    logs = [np.log(looks.along + 1e-3), np.log(leak + 1e-4), np.log(smaller + 0.05)]
    return np.stack([np.ones_like(leak), *logs], axis=2)


def fit(geometry: Geometry, evidence: Evidence) -> np.ndarray:
    """[4] coefficients: the prior, refined by answers about typical samples of two communities.

    Penalised maximum likelihood of the answers, which may be wrong; a few Fisher steps.

    Args:
        evidence: about samples.
    """
    a, b = geometry.communities[evidence.first], geometry.communities[evidence.second]
    use = geometry.core[evidence.first] & geometry.core[evidence.second] & (a != b)
    if not use.any():
        return _PRIOR
    x = _of_communities(geometry)[a[use], b[use]]
    alike, apart = evidence.if_alike[use], evidence.if_apart[use]
    weights = _PRIOR
    for _ in range(8):
        p = sigmoid(x @ weights)
        said = p * alike + (1.0 - p) * apart  # probability of the answers
        slope = (alike - apart) * p * (1.0 - p) / said
        gradient = x.T @ slope - (weights - _PRIOR) / _SPREAD**2
        fisher = (x.T * np.square(slope)) @ x + np.diag(1.0 / _SPREAD**2)
        weights = weights + np.clip(np.linalg.solve(fisher, gradient), -1.0, 1.0)
    return weights


def infer_links(
    geometry: Geometry,
    member: np.ndarray,
    size: np.ndarray,
    weights: np.ndarray,
    heard: np.ndarray,
    founded: int,
) -> Links:
    """Probabilities and clusters of C groups.

    Args:
        member: [n] int, group of each sample.
        size: [C] samples in each group.
        weights: [4] from `fit`.
        heard: [C, C] symmetric log likelihood ratios of the answers between groups; -inf for two
            of different known labels, which no answers about others make one class.
        founded: groups there were before the first answer, one a community or known label.
    """
    count = len(size)
    looks = look(geometry, member, count)
    never = np.isneginf(heard) | np.eye(count, dtype=bool)
    prior = np.where(never, -np.inf, features(geometry, looks, size) @ weights)
    heard = np.maximum(heard, NEVER)
    odds = np.clip(prior + heard, NEVER, -NEVER)
    cluster = _contract(prior, heard, size)
    joined = _joined_chance(odds, cluster)
    told = _told_of_clusters(heard, cluster, joined)
    told[never] = NEVER
    part = _joined(heard, cluster)
    whole = np.bincount(part, size)
    if len(whole) < count:
        looks = look(geometry, part[member], len(whole))
    prior = features(geometry, looks, whole) @ weights
    said = _sums(heard, part)
    of_cluster = np.bincount(cluster, size)[cluster[np.unique(part, return_index=True)[1]]]
    pieces = max(founded - count, 0) + count - len(whole)
    piece = _as_piece(looks, whole, of_cluster, said, pieces / max(founded, 1))
    chance = np.maximum(sigmoid(prior[part][:, part] + told), piece[part][:, part])
    chance = np.where(cluster[:, None] == cluster, joined, chance)
    chance[never] = 0.0
    return Links(chance, odds, told, cluster)


def _joined_chance(odds: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """[C, C] chance that two groups of one cluster are one class, by the surest chain of groups.

    1 on the diagonal, 0 between clusters.
    """
    chance = np.eye(len(cluster))
    for several in np.flatnonzero(np.bincount(cluster) > 1):
        members = np.flatnonzero(cluster == several)
        here = np.ix_(members, members)
        inside = sigmoid(odds[here])
        np.fill_diagonal(inside, 1.0)
        for middle in range(len(inside)):
            np.maximum(inside, inside[:, middle, None] * inside[middle], out=inside)
        chance[here] = inside
    return chance


def _told_of_clusters(heard: np.ndarray, cluster: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """[C, C] what answers say of two groups, those about the rest of their clusters included.

    These count only as far as both groups are rightly in their clusters.
    """
    between = _sums(heard, cluster)[cluster][:, cluster]
    size_of = np.bincount(cluster)[cluster] > 1
    others = np.where(joined < 1.0, joined, 0.0).max(axis=1, initial=0.0)
    right = np.where(size_of, others, 1.0)
    right = right[:, None] * right
    rest = np.clip(between - heard, NEVER, -NEVER)
    return np.clip(heard + np.log(right * np.exp(rest) + 1.0 - right), NEVER, -NEVER)


def _sums(heard: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[K, K] sums of [C, C] over all groups of each two labels."""
    one = np.eye(label.max() + 1)[label]
    return one.T @ heard @ one


def _joined(heard: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """[C] int parts of clusters: groups have equal numbers if answers have joined them.

    What answers have made one is looked at as one, however many groups it was begun with. What
    looks alone have joined is not: they cannot bear themselves out.
    """
    same = (heard > _TOLD) & (cluster[:, None] == cluster)
    np.fill_diagonal(same, True)
    for middle in np.flatnonzero(same.sum(axis=0) > 1):
        same |= same[:, middle, None] & same[middle]
    return np.unique(same.argmax(axis=1), return_inverse=True)[1]


def _as_piece(
    looks: Looks,
    size: np.ndarray,
    whole: np.ndarray,
    heard: np.ndarray,
    pieces: float,
) -> np.ndarray:
    """[C, C] chance that the smaller is a piece of the larger, shared out by where its edges lead.

    However far apart two groups look, one of a small cluster among large ones may be a piece of
    any; the more so, the larger the share of the first groups that have been found to be `pieces`.

    Args:
        whole: [C] size of the cluster of each group.
    """
    count = len(size)
    if count < 2:
        return np.zeros((count, count))
    leak = looks.between / np.sqrt(looks.between.sum(axis=1) + _TINY)
    views = [leak, looks.along, looks.across]
    share = np.sqrt(np.prod([_distribution(view) + 0.02 for view in views], axis=0))
    share = _distribution(share)
    odds = _PIECE * (0.25 + 4.0 * pieces) * (whole / (np.median(whole) + _TINY) + 0.02) ** -2.0
    left = share * np.exp(np.minimum(heard, 0.0))  # what answers have left of each share
    chance = odds[:, None] * left / (1.0 + odds * left.sum(axis=1))[:, None]
    of_smaller = np.where(size[:, None] <= size, chance, 0.0)
    return np.maximum(of_smaller, of_smaller.T)


def _distribution(score: np.ndarray) -> np.ndarray:
    """[C, C] rows that sum to 1, with nothing on the diagonal."""
    score = np.where(np.eye(len(score), dtype=bool), 0.0, score)
    return score / (score.sum(axis=1, keepdims=True) + _TINY)


def _contract(prior: np.ndarray, heard: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[C] clusters: the pair with the highest log odds is joined as long as they are positive.

    Answers add up, priors are averaged by size: looks are one and the same piece of evidence.
    """
    prior, heard, size = prior.copy(), heard.copy(), size + _TINY
    label, odds = np.arange(len(size)), _Peak(prior + heard)
    while True:
        a, b, highest = odds.find()
        if highest <= 0.0:
            return np.unique(label, return_inverse=True)[1]
        prior[a] = (size[a] * prior[a] + size[b] * prior[b]) / (size[a] + size[b])
        heard[a] += heard[b]
        prior[:, a], heard[:, a] = prior[a], heard[a]
        size[a] += size[b]
        odds.drop(b)
        odds.replace(a, prior[a] + heard[a])
        label[label == label[b]] = label[a]


class _Peak:
    """The largest entry of a symmetric matrix of which a row and its column change at a time.

    The largest of each row is kept, so that a change costs O(C) and not O(C^2), unless it takes the
    largest away from many rows.

    Args:
        values: [C, C] symmetric; the diagonal is not looked at. Taken over, not copied.
    """

    def __init__(self, values: np.ndarray):
        np.fill_diagonal(values, -np.inf)
        self._values, self._live = values, np.ones(len(values), bool)
        self._highest = values.max(axis=1)

    def find(self) -> tuple[int, int, float]:
        """(row, column, value); of equals, the first row and its first column."""
        row = int(self._highest.argmax())
        return row, int(self._values[row].argmax()), float(self._highest[row])

    def replace(self, index: int, values: np.ndarray) -> None:
        """Row and column `index` become [C] `values`, but for what was dropped."""
        values = np.where(self._live, values, -np.inf)
        values[index] = -np.inf
        lost = np.flatnonzero((self._values[:, index] == self._highest) & self._live)
        self._values[index] = self._values[:, index] = values
        self._highest = np.maximum(self._highest, values)
        self._highest[lost] = self._values[lost].max(axis=1)
        self._highest[index] = values.max()

    def drop(self, index: int) -> None:
        """Row and column `index` are not looked at any more."""
        self._live[index] = False
        self.replace(index, np.full(len(self._values), -np.inf))


def _of_communities(geometry: Geometry) -> np.ndarray:
    """The features of the communities, computed once for a geometry."""
    member = geometry.communities
    size = np.bincount(member).astype(np.float64)
    return geometry.remember(
        "links", lambda: features(geometry, look(geometry, member, len(size)), size)
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), for x of any size."""
    return 1.0 / (1.0 + np.exp(-np.clip(x, NEVER, -NEVER)))
