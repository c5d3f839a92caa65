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


def tight(within: float, n: int = 600, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Classes at distance about 1, so many times as wide: what well-trained encoders give."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 8))
    labels = rng.integers(0, classes, n)
    return centres[labels] + within * rng.normal(size=(n, 8)), labels


@pytest.mark.parametrize("within", [1e-1, 1e-3, 1e-5, 1e-9, 0.0])
def test_the_kernel_is_one_however_tight_the_classes(within):
    """No eigenvalue below 0 but for rounding, and near neighbours are nearer than far ones."""
    z, labels = tight(within)
    for shares in (geometry._CLUSTERED, geometry._SMOOTH, (0.0, 1.0, 0.0)):
        everything = np.arange(len(z))
        kernel = Geometry(z).kernel(everything, everything, shares).astype(np.float64)
        assert np.isfinite(kernel).all()
        assert np.linalg.eigvalsh((kernel + kernel.T) / 2)[0] > -2e-3
        same = labels[:, None] == labels
        assert kernel[same].min() > kernel[~same].max() - 1e-6


@pytest.mark.parametrize("within", [1e-5, 1e-6])
def test_neighbours_of_tight_classes_are_those_of_all_distances(within):
    z, _ = tight(within, n=90, classes=3)
    distance = np.square(z[:, None] - z).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    index, _ = geometry.nearest(z, 5)
    np.testing.assert_array_equal(index, np.argsort(distance, axis=1)[:, :5])


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


def test_samples_with_more_copies_than_neighbours_have_a_graph():
    """A thousandth of a typical width is theirs: near one another, and near nobody else."""
    z = np.concatenate([np.zeros((13, 2)), 5.0 + np.random.default_rng(0).normal(size=(20, 2))])
    with np.errstate(invalid="raise"):
        graph = dense(geometry.neighbour_graph(*geometry.nearest(z, 10)))
    assert set(np.unique(graph[:13, :13])) == {0.0, 0.5, 1.0}  # not neighbours, of one, of both
    assert (graph[:13, :13].sum(axis=1) >= 5.0).all()
    assert (graph[:13, 13:] < 1e-9).all()


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


@pytest.mark.parametrize("shares", [geometry._CLUSTERED, geometry._SMOOTH])
def test_the_kernel_is_a_mixture_of_three_with_a_unit_diagonal(shares):
    points, z = Geometry(blobs(gap=3.0)), blobs(gap=3.0)
    square = np.square(z[:, None] - z).sum(axis=2)
    typical = np.median(np.sort(square, axis=1)[:, geometry._NEIGHBOURS])
    graph, near, wide = shares
    expected = graph * points.features @ points.features.T
    expected += near * np.exp(-square / typical)
    expected += wide * np.exp(-square / square.mean())
    np.fill_diagonal(expected, 1.0)
    assert sum(shares) == pytest.approx(1.0)
    everything = np.arange(90)
    found = points.kernel(everything, everything, shares)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.linalg.eigvalsh(expected).min() > -1e-9
    rows, columns = np.array([3, 80, 4]), np.array([4, 4, 7, 3])
    np.testing.assert_allclose(points.kernel(rows, columns, shares), found[rows][:, columns],
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(points.kernel(rows, slice(None), shares), found[rows], atol=1e-6)


def test_the_fields_are_of_the_two_mixtures():
    points = Geometry(blobs())
    for field, shares in zip(points.fields, (geometry._CLUSTERED, geometry._SMOOTH), strict=True):
        rows, columns = np.array([0, 5]), np.array([5, 6, 7])
        np.testing.assert_allclose(field.covariance(rows, columns),
                                   points.kernel(rows, columns, shares), atol=1e-6)  # fmt: skip


def test_edges_between_groups_are_summed():
    points = Geometry(blobs(gap=2.0))
    member = np.arange(90) % 4
    one = np.eye(5)[member]  # the fifth group is empty
    expected = one.T @ dense(points.graph.normalised()) @ one
    np.testing.assert_allclose(points.between(member, 5), expected, atol=1e-9)


def test_likeness_is_the_cosine_of_means_along_the_graph_and_through_space():
    points, z = Geometry(blobs(gap=2.0)), blobs(gap=2.0)
    member = np.arange(90) % 4
    one = np.eye(5)[member]
    square = np.square(z[:, None] - z).sum(axis=2)
    typical = np.median(np.sort(square, axis=1)[:, geometry._NEIGHBOURS])
    cells = np.eye(points.cells.max() + 1)[points.cells]
    centres = (cells.T @ z) / cells.sum(axis=0)[:, None]
    profiles = np.exp(-np.square(z[:, None] - centres).sum(axis=2) / typical)
    for found, rows in zip(points.likeness(member, 5), (points.features, profiles), strict=True):
        mean = one.T @ rows
        norm = np.linalg.norm(mean[:4], axis=1)
        expected = np.maximum(mean[:4] @ mean[:4].T / np.outer(norm, norm), 0.0)
        np.testing.assert_allclose(found[:4, :4], expected, atol=1e-4)
        assert (found[4] == 0.0).all()  # an empty group is like nothing
        assert (found[:, 4] == 0.0).all()
        assert (found <= 1.0 + 1e-6).all()


def test_the_core_is_the_most_central_of_each_community(monkeypatch):
    monkeypatch.setattr(geometry, "_CORE", 7)
    points = Geometry(blobs())
    similar = points.features @ points.features.T
    for community in range(3):
        mine = np.flatnonzero(points.communities == community)
        central = similar[np.ix_(mine, mine)].sum(axis=1)
        expected = mine[np.argsort(-central)[:7]]
        np.testing.assert_array_equal(np.flatnonzero(points.core & (points.communities ==
                                                                    community)),
                                      np.sort(expected))  # fmt: skip
        assert points.medoids[community] == expected[0]
    monkeypatch.setattr(geometry, "_CORE", 1000)
    assert Geometry(blobs()).core.all()


def test_pull_is_similarity_to_weighted_samples(rng):
    points, weight = Geometry(blobs()), rng.random(size=(90, 3))
    expected = points.features @ points.features.T @ weight
    np.testing.assert_allclose(points.pull(weight), expected, rtol=1e-3, atol=1e-3)


def test_what_follows_from_the_embedding_is_made_once():
    points, made = Geometry(blobs()), []

    def make():
        made.append(1)
        return np.arange(3)

    assert points.remember("a", make) is points.remember("a", make)
    assert len(made) == 1
    points.remember("b", make)
    assert len(made) == 2


def test_many_small_clusters_are_not_swallowed_by_few_cells():
    labels = np.repeat(np.arange(120), 15)
    centres = np.random.default_rng(0).normal(size=(120, 24))
    z = centres[labels] + 0.05 * np.random.default_rng(1).normal(size=(1_800, 24))
    found = Geometry(z)
    assert found.cells.max() + 1 > 100
    assert found.communities.max() + 1 > 90
    few = Geometry(centres[labels % 6] + 0.05 * np.random.default_rng(1).normal(size=(1_800, 24)))
    assert few.cells.max() + 1 <= 64
    assert few.communities.max() + 1 <= 12


def test_an_embedding_says_something_where_any_two_samples_differ():
    z = np.ones((5, 2))
    assert not Geometry(z).differ
    z[3, 1] += 1e-12
    assert Geometry(z).differ
