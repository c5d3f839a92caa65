"""The linear refit: against dense float64 formulas, and by what it is for."""

import numpy as np
import pytest

from pal_jax.active import refit as module
from pal_jax.active.geometry import Geometry, Graph
from pal_jax.active.refit import refit

NONE = Graph(np.zeros(61, np.int64), np.empty(0, np.int64), np.empty(0))


def sample(seed=0, n=60, d=5):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    return h, rng


def reference(h, weights, groups):
    """Pair by pair and group by group, with a general matrix root."""
    n, d = h.shape
    local = np.zeros((d, d))
    for i in range(n):
        for j in range(n):
            local += weights[i, j] * np.outer(h[i] - h[j], h[i] - h[j])
    local /= 2 * weights.sum()
    scatter, freedom = np.zeros((d, d)), 0
    for name in set(groups.tolist()):
        members = h[groups == name]
        if len(members) > 1:
            scatter += np.cov(members.T) * (len(members) - 1)
            freedom += len(members) - 1
    covariance = (scatter + 50 * local) / (freedom + 50)
    return np.linalg.inv(covariance / (np.trace(covariance) / d) + np.eye(d))


def squared_distances(z):
    return np.square(z[:, None] - z[None]).sum(axis=2)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_metric_of_the_formula(seed):
    h, rng = sample(seed)
    graph = Geometry(h).graph
    weights = np.zeros((60, 60))
    weights[graph.rows(), graph.indices] = graph.weights
    groups = np.where(rng.random(60) < 0.4, rng.integers(0, 4, 60), np.arange(100, 160))
    metric = reference(h, weights, groups)
    difference = (h[:, None] - h[None]) / np.abs(h).max()
    expected = np.einsum("ijd,de,ije->ij", difference, metric, difference)
    actual = squared_distances(refit(h, graph, groups))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_of_all_maps_that_keep_volume_it_brings_groups_nearest(monkeypatch):
    """The optimum of relevant component analysis, which it is without prior and ridge."""
    monkeypatch.setattr(module, "_PRIOR", 0)
    monkeypatch.setattr(module, "_RIDGE", 0.0)
    h, rng = sample()
    groups = np.arange(60) % 6

    def spread(z):
        return sum(np.square(z[groups == g] - z[groups == g].mean(axis=0)).sum() for g in range(6))

    z = refit(h, NONE, groups)
    best = np.linalg.lstsq(h - h.mean(axis=0), z, rcond=None)[0]
    best /= np.linalg.det(best) ** (1 / 5)
    least = spread(h @ best)
    for _ in range(50):
        other = best + 0.1 * rng.normal(size=(5, 5))
        other /= np.abs(np.linalg.det(other)) ** (1 / 5)
        assert spread(h @ other) > least


def test_a_direction_that_varies_inside_classes_is_made_short():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    h = np.stack([labels + 0.05 * rng.normal(size=200), 2 * rng.random(200)], axis=1)
    z = refit(h, Geometry(h).graph, labels)

    def ratio(x):
        return abs(np.diff([x[labels == c, 0].mean() for c in (0, 1)])[0]) / x[:, 1].std()

    assert 1.5 * ratio(h) < ratio(z) < 3**0.5 * ratio(h)  # the ridge allows no more in 2 dimensions


def test_few_answers_change_little_and_many_decide():
    h, _ = sample(n=200)
    graph, alone = Geometry(h).graph, np.arange(200)
    labels = np.argsort(np.argsort(h[:, 0])) // 20  # groups that are thin along one direction

    def moved(groups):
        before, after = (squared_distances(refit(h, graph, g)) for g in (alone, groups))
        return np.abs(after / before.sum() - before / before.sum()).sum()

    few, many = alone.copy(), labels + 1_000
    few[labels == 0] = np.where(np.cumsum(labels == 0)[labels == 0] <= 4, 1_000, few[labels == 0])
    assert 0 < moved(few) < 0.25 * moved(many)


@pytest.mark.parametrize(
    "h", [np.ones((60, 3)), np.zeros((60, 1)), np.full((60, 2), 1e200)], ids=["one", "zero", "big"]
)
def test_samples_that_are_all_equal_stay_so(h):
    z = refit(h, Geometry(h).graph, np.zeros(60, np.int64))
    assert np.ptp(z, axis=0).max() == 0
    assert np.isfinite(z).all()


def test_numbers_of_any_size_are_welcome():
    h, _ = sample()
    expected = refit(h, Geometry(h).graph, np.arange(60))
    for size in (1e-150, 1e150):
        z = refit(size * h, Geometry(size * h).graph, np.arange(60))
        np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-9)


def test_a_single_sample_is_left_as_it_is():
    z = refit(np.ones((1, 3)), Geometry(np.ones((1, 3))).graph, np.zeros(1, np.int64))
    np.testing.assert_array_equal(z, np.ones((1, 3)))


def test_directions_are_stretched_by_a_bounded_factor():
    """A constant feature with a little noise must not be blown up to be heard."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(60, 4)) * [1, 1, 1, 1e-6]
    z = refit(h, Geometry(h).graph, np.arange(60))
    assert z[:, 3].std() * np.abs(h).max() <= 1.01 * h[:, 3].std()
