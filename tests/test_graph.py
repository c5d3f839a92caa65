"""Graphs: every kind is the same matrix, whatever the ids, labels and edges."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pal_jax import graph as graph_lib
from tests import references

ids_of_7 = hnp.arrays(np.int64, 7, elements=st.integers(-3, 3) | st.integers(2**40, 2**40 + 1))
# Not subnormal: XLA flushes those to zero.
weights = st.just(0.0) | st.floats(1e-3, 1)
dense_7 = hnp.arrays(np.float64, (7, 7), elements=weights)
quick = hypothesis.settings(max_examples=25, deadline=None)


def operations(g, z):
    """All that a loss may ask of a graph."""
    return {
        "matmul": g.matmul(z),
        "transposed": g.T.matmul(z),
        "degree": g.degree(),
        "diagonal": g.diagonal(),
        "inner": g.inner(z),
        "energy": g.energy(z),
        "squared_norm": g.squared_norm(),
        "dense": g.dense(),
        "normalized": graph_lib.normalize(g).dense(),
        "laplacian": graph_lib.laplacian(g).matmul(z),
        "with views": graph_lib.with_views(g, 2).dense(),
        "block": g.block(jnp.int32(g.rows - 3), 5)[:3],  # the last two rows are past the end
    }


compiled = jax.jit(operations)
groups_dense = jax.jit(lambda ids: graph_lib.from_groups(ids).dense())


@jax.jit
def edges_dense(edges, weights):
    g = graph_lib.from_edges(5, edges, weights)
    return g.dense(), g.squared_norm()


def expected_operations(g, z):
    return {
        "matmul": g @ z,
        "transposed": g.T @ z,
        "degree": g.sum(axis=1),
        "diagonal": np.diag(g),
        "inner": np.vdot(z, g @ z),
        "energy": references.energy(z, g),
        "squared_norm": (g**2).sum(),
        "dense": g,
        "normalized": references.normalized(g),
        "laplacian": references.laplacian(g) @ z,
        "with views": np.kron(np.ones((2, 2)), g),
        "block": g[-3:],
    }


def check_operations(g, dense):
    z = np.random.default_rng(0).normal(size=(len(dense), 3))
    with jax.enable_x64(True):
        actual = compiled(g.astype(np.float64), jnp.asarray(z))
    for name, expected in expected_operations(dense, z).items():
        np.testing.assert_allclose(actual[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


@hypothesis.given(ids=ids_of_7, scale=hnp.arrays(np.float64, 7, elements=weights))
@quick
def test_groups_are_their_dense_graph(ids, scale):
    dense = references.graph_of_groups(ids)
    check_operations(graph_lib.from_groups(ids), dense)
    with jax.enable_x64(True):
        scaled = graph_lib.from_groups(ids).scaled(jnp.asarray(scale), jnp.asarray(scale))
    check_operations(scaled, scale[:, None] * dense * scale)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("samples", "views"), [(3, 1), (3, 2), (2, 4)])
def test_views_are_their_dense_graph(rng, samples, views, directed, turned):
    dense = references.graph_of_views(samples, views, directed)
    g = graph_lib.from_views(samples, views, directed)
    scale = np.append(rng.random(samples * views - 1), 0.0)  # one row without an edge
    with jax.enable_x64(True):
        scaled = g.astype(np.float64).scaled(jnp.asarray(scale), jnp.asarray(scale))
        plain = g.plain()
    weighted = scale[:, None] * dense * scale
    if turned:
        dense, weighted, g, scaled, plain = dense.T, weighted.T, g.T, scaled.T, g.T.plain()
    check_operations(g, dense)
    check_operations(plain, dense)
    check_operations(scaled, weighted)


@hypothesis.given(dense=dense_7)
@quick
def test_edges_and_dense_are_the_same_graph(dense):
    edges = np.argwhere(np.ones((7, 7)))
    with jax.enable_x64(True):
        by_edges = graph_lib.Edges(jnp.asarray(edges, jnp.int32), jnp.asarray(dense.ravel()), 7)
        check_operations(by_edges, dense)
        check_operations(graph_lib.as_graph(dense), dense)


@hypothesis.given(
    edges=hnp.arrays(np.int32, (9, 2), elements=st.integers(0, 4)),
    weight=hnp.arrays(np.float32, 9, elements=st.just(0.0) | st.floats(0.125, 1, width=32)),
)
@quick
def test_a_pair_counts_once_in_whatever_order_it_is_named(edges, weight):
    expected = np.zeros((5, 5), np.float32)
    for (i, j), w in zip(edges, weight, strict=True):
        expected[i, j] = expected[j, i] = max(expected[i, j], w)
    dense, norm = edges_dense(edges, weight)
    np.testing.assert_array_equal(dense, expected)
    # Entries are distinct, or |G|^2 would be wrong.
    np.testing.assert_allclose(norm, (expected**2).sum(), rtol=1e-6)


@hypothesis.given(ids=hnp.arrays(np.int32, 7, elements=st.integers(-3, 100)))
@quick
def test_traced_ids_are_the_same_graph(ids):
    np.testing.assert_array_equal(groups_dense(ids), references.graph_of_groups(ids))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("samples", "views"), [(1, 1), (4, 1), (4, 2), (3, 4)])
def test_views_of_one_sample_are_alike(samples, views, directed):
    g = graph_lib.from_views(samples, views, directed=directed)
    expected = references.graph_of_views(samples, views, directed)
    np.testing.assert_array_equal(np.asarray(g), expected)


def test_labels_join_known_rows_only():
    labels = np.array([7, 7, -1, 3, 7, -1, 3])
    np.testing.assert_array_equal(
        graph_lib.from_labels(labels),
        references.graph_of_groups([7, 7, "a", 3, 7, "b", 3]),
    )
    known = np.array([True, False, True, True, True, True, False])
    expected = references.graph_of_groups([7, "a", -1, 3, 7, -1, "b"])
    np.testing.assert_array_equal(graph_lib.from_labels(labels, known), expected)
    traced = jax.jit(lambda y, k: graph_lib.from_labels(y, k).dense())(labels, known)
    np.testing.assert_array_equal(traced, expected)


def test_labels_beyond_int32_are_labels():
    labels = np.array([3_000_000_000, 3_000_000_000, 5, -1, -1])
    expected = references.graph_of_groups([0, 0, 1, 2, 3])
    np.testing.assert_array_equal(graph_lib.from_labels(labels), expected)


def test_labels_of_all_normalise_to_a_projection_of_their_rank():
    labels = np.array([0, 1, 1, 2, 0, 1])
    p = np.asarray(graph_lib.normalize(graph_lib.from_labels(labels)))
    y = np.eye(3)[labels]
    np.testing.assert_allclose(p, y @ np.linalg.inv(y.T @ y) @ y.T, atol=1e-6)
    np.testing.assert_allclose(p @ p, p, atol=1e-6)


def test_the_laplacian_measures_differences(rng, x64):
    w = rng.random((6, 6))
    z = rng.normal(size=(6, 2))
    l = graph_lib.laplacian(jnp.asarray(w + w.T))  # noqa: E741 (the formula's letter)
    np.testing.assert_allclose(
        2 * np.trace(z.T @ np.asarray(l) @ z), references.energy(z, w + w.T), rtol=1e-12
    )


def test_functions_return_the_kind_they_were_given():
    array = jnp.ones((4, 4), int)  # integer: becomes floating
    assert isinstance(graph_lib.normalize(array), jax.Array)
    assert graph_lib.normalize(array).dtype == jnp.float32
    for g in (
        graph_lib.from_views(2, 2),
        graph_lib.from_edges(4, [[0, 1]]),
        graph_lib.Dense(array),
    ):
        assert isinstance(graph_lib.normalize(g), type(g))
        assert graph_lib.degree(g).shape == (4,)


@pytest.mark.parametrize("kind", ["dense", "groups", "edges"])
def test_normalising_has_a_finite_gradient_at_isolated_rows(kind):
    def value(w):
        g = {
            "dense": lambda: graph_lib.Dense(jnp.diag(w)),
            "groups": lambda: graph_lib.Groups(jnp.arange(3), w),
            "edges": lambda: graph_lib.Edges(jnp.asarray([[0, 0], [1, 1], [2, 2]]), w, 3),
        }[kind]()
        return graph_lib.normalize(g).dense().sum()

    total, grad = jax.value_and_grad(value)(jnp.asarray([1.0, 0.0, 4.0]))
    assert total == 2
    assert np.isfinite(grad).all()


def test_groups_that_nearly_agree_keep_their_digits():
    # |z_i - z_j|^2 as a difference of squares would be 100 % wrong here in float32.
    z = np.full((6, 2), 100.0) + 1e-3 * np.arange(12).reshape(6, 2)
    z = z.astype(np.float32)
    g = graph_lib.from_views(3, 2)
    expected = references.energy(z.astype(float), references.graph_of_views(3, 2))
    np.testing.assert_allclose(g.astype(jnp.float32).energy(jnp.asarray(z)), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: graph_lib.from_views(0, 2), "samples=0"),
        (lambda: graph_lib.from_groups(np.zeros((2, 2), int)), "one integer a row"),
        (lambda: graph_lib.from_groups(np.zeros(0, int)), "one integer a row"),
        (lambda: graph_lib.from_groups(np.zeros(3)), "must be integers; got float"),
        (lambda: graph_lib.from_edges(3, [[0, 3]]), r"edge \(0, 3\) leaves the rows 0 to 2"),
        (lambda: graph_lib.from_edges(3, [[0, 1]], [-1.0]), "negative"),
        (lambda: graph_lib.from_edges(3, [[0, 1]], [1.0, 2.0]), "1 edges need as many weights"),
        (lambda: graph_lib.from_edges(3, [0, 1]), r"\[E, 2\] integers"),
        (lambda: graph_lib.as_graph(jnp.ones((3, 2))), r"must be \[N, N\]"),
    ],
)
def test_bad_input_is_one_clear_error(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_an_empty_list_of_edges_is_the_empty_graph():
    g = graph_lib.from_edges(3, np.zeros((0, 2), int))
    np.testing.assert_array_equal(np.asarray(g), np.zeros((3, 3)))
