import numpy as np
import pytest

from pal_jax.active import geometry
from pal_jax.active.geometry import Geometry


def blobs(n: int = 90, groups: int = 3, gap: float = 8.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)) + gap * np.eye(4)[np.arange(n) % groups]


def dense(graph: geometry.Graph) -> np.ndarray:
    n = len(graph.indptr) - 1
    out = np.zeros((n, n))
    out[graph.rows(), graph.indices] = graph.weights
    return out


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_neighbours_are_those_of_all_distances(monkeypatch, shift):
    monkeypatch.setattr(geometry, "_CHUNK", 7 * 90)  # several blocks, the last one smaller
    z = blobs() + shift
    distance = np.square(z[:, None] - z).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    index, square = geometry.nearest(z, 5)
    expected = np.argsort(distance, axis=1)[:, :5]
    np.testing.assert_array_equal(index, expected)
    scale = np.abs(z).max() ** 2
    np.testing.assert_allclose(square * scale, np.sort(distance, axis=1)[:, :5], rtol=1e-6)


def test_the_graph_has_the_published_weights():
    z, k = blobs(30), 4
    distance = np.sqrt(np.square(z[:, None] - z).sum(axis=2))
    width = np.sort(distance, axis=1)[:, k]
    weights = np.exp(-np.square(distance) / np.outer(width, width))
    near = (distance <= width[:, None]) & ~np.eye(30, dtype=bool)
    expected = (np.where(near, weights, 0.0) + np.where(near, weights, 0.0).T) / 2
    np.testing.assert_allclose(
        dense(geometry.neighbour_graph(*geometry.nearest(z, k))), expected, atol=1e-12
    )


def test_sparse_product_is_the_dense_one(monkeypatch, rng):
    monkeypatch.setattr(geometry, "_BLOCK", 13)
    graph = geometry.neighbour_graph(*geometry.nearest(blobs(), 3))
    x = rng.normal(size=(90, 5))
    np.testing.assert_allclose(graph.matmul(x), dense(graph) @ x, atol=1e-12)
    assert graph.matmul(x.astype(np.float32)).dtype == np.float32


def test_rows_without_an_edge_stay_zero(rng):
    graph = geometry.Graph(np.array([0, 0, 1, 2]), np.array([2, 1]), np.array([3.0, 3.0]))
    np.testing.assert_allclose(graph.normalised().weights, [1.0, 1.0])
    assert (graph.matmul(rng.normal(size=(3, 2)))[0] == 0.0).all()


def test_features_are_the_kernel_with_unit_diagonal():
    points = Geometry(blobs())
    s = dense(points.graph.normalised())
    kernel = np.linalg.inv(np.eye(90) - 0.99 * s)
    scale = 1.0 / np.sqrt(kernel.diagonal())
    expected = scale[:, None] * kernel * scale
    np.testing.assert_allclose(points.features @ points.features.T, expected, atol=1e-9)


def test_iterated_eigenpairs_are_the_exact_ones(monkeypatch):
    rng = np.random.default_rng(0)
    graph = geometry.neighbour_graph(*geometry.nearest(rng.normal(size=(400, 6)), 8)).normalised()
    exact, vectors = geometry.top_eigenpairs(graph, 40)
    monkeypatch.setattr(geometry, "_DENSE", 0)
    values, others = geometry.top_eigenpairs(graph, 40)
    np.testing.assert_allclose(values, exact, atol=1e-4)
    overlap = np.square(vectors[:, :20].T @ others).sum(axis=1)  # rotations do not matter
    np.testing.assert_allclose(overlap, 1.0, atol=1e-4)


def test_communities_are_the_blobs_and_medoids_lie_in_them():
    points = Geometry(blobs())
    labels = np.arange(90) % 3
    table = points.communities[:, None] == points.communities
    np.testing.assert_array_equal(table, labels[:, None] == labels)
    assert sorted(points.communities[points.medoids].tolist()) == [0, 1, 2]


def test_cliques_joined_by_a_thread_are_two_communities():
    between = np.kron(np.eye(2), np.ones((3, 3))) - np.eye(6)
    between[2, 3] = between[3, 2] = 0.1
    label = geometry.merge_by_modularity(between)
    np.testing.assert_array_equal(label[:, None] == label, np.kron(np.eye(2), np.ones((3, 3))) > 0)
    np.testing.assert_array_equal(geometry.merge_by_modularity(np.zeros((3, 3))), [0, 1, 2])
