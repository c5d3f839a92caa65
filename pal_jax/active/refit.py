"""A linear refit between two questions: the metric that answers and neighbours call for."""

import numpy as np

from pal_jax.active.geometry import Graph

_PRIOR = 50  # answers of "alike" that neighbours are worth
_RIDGE = 1.0  # variance within a class, in units of its mean, that every direction has besides
_FLAT = 1e-24  # variance of numbers up to 1 that is rounding


def refit(embeddings: np.ndarray, graph: Graph, groups: np.ndarray) -> np.ndarray:
    """[n, d] the embedding, with directions that vary inside classes made short; another scale.

    z = h (S / s + ridge I)^(-1/2), s the mean eigenvalue of S, the covariance within a class. With
    no ridge this is, up to scale, the closed form of relevant component analysis: of all linear
    maps that keep volume, the one under which the members of groups lie nearest to their means,
    tr(Z^T L Z) least for L the Laplacian of "alike". S is the posterior mean of a covariance
    (inverse Wishart) whose prior is the scatter of neighbours, half the mean weighted
    (h_i - h_j)(h_i - h_j)^T = h^T L h / sum(w), worth `_PRIOR` degrees of freedom; m samples of
    one group add m - 1. So without answers it is a refit to neighbours alone, and with few it is
    near that. The ridge bounds by how much directions of little variance are blown up.

    Args:
        embeddings: h, [n, d] finite float64.
        graph: neighbours, of n samples; where nothing varies, h comes back as it is.
        groups: [n] int, equal names are alike for sure: one wrong join of two classes would make
            what tells them apart short.

    Source: Bar-Hillel et al., Learning a Mahalanobis metric from equivalence constraints, JMLR 6,
    2005. Costs O(n d^2 + d^3) and one product of the graph with d columns.
    """
    h = embeddings / (np.abs(embeddings).max() or 1.0)  # so that no square overflows
    h = h - h.mean(axis=0)
    degree = np.bincount(graph.rows(), graph.weights, minlength=len(h))
    total = float(degree.sum())
    local = h.T @ (degree[:, None] * h - graph.matmul(h)) / total if total > 0 else 0.0
    scatter, freedom = _within(h, groups)
    covariance = (scatter + _PRIOR * local) / (freedom + _PRIOR)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2.0)
    mean = float(values.mean())
    if mean <= _FLAT:
        return embeddings
    scale = 1.0 / np.sqrt(np.maximum(values, 0.0) / mean + _RIDGE)
    return h @ (vectors * scale) @ vectors.T


def _within(h: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, int]:
    """[d, d] scatter of the members of groups around their means, and its degrees of freedom."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    several = size[group] > 1  # a sample by itself says nothing
    _, group, size = np.unique(group[several], return_inverse=True, return_counts=True)
    sums = np.zeros((len(size), h.shape[1]))
    np.add.at(sums, group, h[several])
    around = h[several] - (sums / size[:, None])[group]
    return around.T @ around, int((size - 1).sum())
