"""To which group each sample belongs, given the embedding and the answers so far."""

import dataclasses

import numpy as np

from pal_jax.active.geometry import Geometry
from pal_jax.active.relations import Relations

_NOISE = 0.01  # variance of a label around the smooth function of the graph
_NEWS = 2  # new groups counted before the first question, so that some are expected


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Gaussian process regression of group membership on the kernel of `Geometry`.

    Placed samples (in a group known from answers or labels, or asked about at all) are targets
    1 in the column of their group and 0 in the others. With F the posterior mean and v the
    posterior variance at a sample, P(g) is proportional to max(F_g, 0)^2 and P(a group that
    nobody has seen) to v, times how often new groups still turn up. Groups that a sample is known
    not to be in get 0.

    Args:
        names: [C] names of the groups, ascending.
        placed: [n] bool.
        column: [n] int, column of the group of each placed sample, -1 elsewhere.
        mean: [n, C] F.
        variance: [n] v, in [0, 1].
        probability: [n, C + 1]; the last column is the unseen group.
        covariance: [r, r] of the weights of the features.
        noise: [n] variance of an observation at each sample.
    """

    names: np.ndarray
    placed: np.ndarray
    column: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    probability: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray


def infer(geometry: Geometry, relations: Relations) -> Posterior:
    """The posterior, from nothing but its two arguments; O(n r (r + C)).

    Where nothing is placed yet, the most central sample of the largest community is taken as
    the first group.
    """
    phi = geometry.features
    groups = relations.groups()
    placed = placed_samples(geometry, relations)
    names, inverse = np.unique(groups[placed], return_inverse=True)
    column = np.full(len(groups), -1)
    column[placed] = inverse
    # A sample that its neighbours say little about also says little about them.
    noise = _NOISE + 1.0 - np.square(phi).sum(axis=1)
    scaled = phi[placed] / noise[placed, None]
    covariance = np.linalg.inv(np.eye(phi.shape[1]) + scaled.T @ phi[placed])
    target = np.zeros((len(scaled), len(names)))
    target[np.arange(len(scaled)), inverse] = 1.0
    mean = phi @ (covariance @ (scaled.T @ target))
    variance = np.einsum("nr,nr->n", phi @ covariance, phi) + noise - _NOISE
    news = (_NEWS + len(names)) / (_NEWS + placed.sum())
    score = np.concatenate([np.square(np.maximum(mean, 0.0)), news * variance[:, None]], axis=1)
    score[placed] = 0.0
    score[placed, column[placed]] = 1.0
    probability = score / np.maximum(score.sum(axis=1, keepdims=True), 1e-300)
    return Posterior(names, placed, column, mean, variance, probability, covariance, noise)


def placed_samples(geometry: Geometry, relations: Relations) -> np.ndarray:
    """[n] bool: in a known group, or asked about; never none at all."""
    placed = relations.known() >= 0
    for pair in relations.pairs():
        placed[list(pair)] = True
    if not placed.any():
        placed[first_sample(geometry)] = True
    return placed


def first_sample(geometry: Geometry) -> int:
    """The most central sample of the largest community."""
    phi, communities = geometry.features, geometry.communities
    members = np.flatnonzero(communities == np.bincount(communities).argmax())
    return int(members[(phi[members] @ phi[members].sum(axis=0)).argmax()])
