"""The optima: nothing is below them, gradient descent ends in them, all kinds of graph agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from pal_jax import closed_form, spectral
from pal_jax import graph as graph_lib
from tests import references

SQUARED = {
    "spectral_contrastive": spectral.spectral_contrastive,
    "vicreg_squared": spectral.vicreg_squared,
    "barlow_twins_squared": spectral.barlow_twins_squared,
}
REFERENCES = {name: getattr(references, name) for name in SQUARED}
every_loss = pytest.mark.parametrize("name", SQUARED)


def weighted_graph(rng, n=10):
    w = np.where(rng.random((n, n)) < 0.5, rng.random((n, n)), 0.0)
    return references.normalized(w + w.T + np.eye(n))


def optimum(g, k, name):
    """The least value, from eigenvalues alone."""
    if name == "spectral_contrastive":
        values = np.linalg.eigvalsh(g)[::-1]
        return (values**2).sum() - (np.maximum(values[:k], 0) ** 2).sum()
    if name == "vicreg_squared":
        l = np.linalg.eigvalsh(references.laplacian(g))[:k]  # noqa: E741
        s = np.maximum(1 - l, 0)
        return ((s - 1) ** 2 + 2 * l * s).sum()
    return max(0, k - (np.linalg.eigvalsh(g) > 1e-9).sum())


def descend(loss, start):
    """The least value that a quasi-Newton method finds."""
    step = jax.jit(jax.value_and_grad(lambda x: loss(x.reshape(start.shape))))

    def at(x):
        value, grad = step(jnp.asarray(x))
        return float(value), np.asarray(grad)

    return scipy.optimize.minimize(at, start.ravel(), jac=True, method="L-BFGS-B").fun


@every_loss
def test_gradient_descent_on_free_rows_ends_in_the_closed_form(rng, x64, name):
    g = weighted_graph(rng)
    z = closed_form.spectral_embedding(g, 3, loss=name)
    value = REFERENCES[name](z, g)
    np.testing.assert_allclose(value, optimum(g, 3, name), rtol=1e-8, atol=1e-10)
    reached = descend(lambda z: SQUARED[name](z, jnp.asarray(g)), rng.normal(size=(10, 3)))
    np.testing.assert_allclose(reached, value, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("normalized", [False, True])
def test_all_kinds_of_graph_have_one_optimum(rng, name, normalized):
    groups = graph_lib.from_groups([0, 0, 1, 1, 1, 2, 3, 3, 1])
    groups = graph_lib.normalize(groups) if normalized else groups
    dense = np.asarray(groups, float)
    pairs = np.argwhere(dense)
    weights = jnp.asarray(dense[tuple(pairs.T)], jnp.float32)
    edges = graph_lib.Edges(jnp.asarray(pairs, jnp.int32), weights, 9)
    for k in (2, 4, 6, 9, 11):  # fewer and more than groups, than rows
        expected = optimum(dense, min(k, 9), name) + (name != "spectral_contrastive") * max(
            k - 9, 0
        )
        for g in (groups, edges, jnp.asarray(dense)):
            z = closed_form.spectral_embedding(g, k, loss=SQUARED[name])
            assert z.shape == (9, k)
            value = REFERENCES[name](z, dense)
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-5)


@every_loss
@pytest.mark.parametrize("n", [505, 512, 600])
def test_many_equal_eigenvalues_are_all_found(n, name):
    """A graph of labels has C times 1 and N - C times 0."""
    for classes, k in ((3, 4), (3, 64), (7, 20)):
        g = graph_lib.normalize(graph_lib.from_labels(np.arange(n) % classes))
        dense = np.asarray(g, float)
        for invariance in (1.0, 0.5):
            z = closed_form.spectral_embedding(dense, k, loss=name, invariance=invariance)
            assert z.shape == (n, k)
            rest = n * (1 - invariance) if name == "vicreg_squared" else 0.0
            first = 1.0 if name == "spectral_contrastive" else n
            expected = np.where(np.arange(k) < classes, first, rest)
            np.testing.assert_allclose(z.T @ z, np.diag(expected), atol=1e-4)


@pytest.mark.parametrize(("m", "k"), [(505, 20), (512, 4), (600, 9)])
def test_a_linear_fit_of_features_that_tell_all_apart_has_its_width(m, k):
    """Phi = I: of S^(-1/2) ... S^(-1/2), 7 eigenvalues are 1 and all others 1 / 2."""
    g = graph_lib.normalize(graph_lib.from_labels(np.arange(m) % 7))
    w = closed_form.fit_linear(np.eye(m), g, k, invariance=0.5, ridge=0)
    assert w.shape == (m, k)
    expected = np.where(np.arange(k) < 7, 1.0, 0.5)
    np.testing.assert_allclose(w.T @ w / m, np.diag(expected), atol=1e-6)


def test_weak_invariance_also_learns_within_groups():
    groups = graph_lib.from_groups([0, 0, 1, 1, 1, 1, 1, 2])
    dense = np.asarray(groups, float)
    for k in (2, 4, 6, 8):
        z = closed_form.spectral_embedding(groups, k, loss="vicreg_squared", invariance=0.25)
        expected = closed_form.spectral_embedding(dense, k, loss="vicreg_squared", invariance=0.25)
        value, least = (references.vicreg_squared(rows, dense, 0.25) for rows in (z, expected))
        np.testing.assert_allclose(value, least, rtol=1e-10, atol=1e-10)


def test_large_sparse_graphs_are_never_dense(rng, monkeypatch):
    for kind in (graph_lib.Groups, graph_lib.Edges):
        monkeypatch.setattr(kind, "dense", None)
    n = 20_000
    groups = graph_lib.normalize(graph_lib.from_groups(rng.integers(0, 50, n)))
    z = closed_form.spectral_embedding(groups, 50, loss="vicreg_squared")
    np.testing.assert_allclose(z.T @ z / n, np.eye(50), atol=1e-6)
    # Two communities in one connected part: the second eigenvector tells them apart.
    side = np.arange(2000) % 2
    pairs = rng.integers(0, 2000, (40_000, 2))
    likely = np.where(side[pairs[:, 0]] == side[pairs[:, 1]], 1.0, 0.2) > rng.random(40_000)
    edges = graph_lib.normalize(graph_lib.from_edges(2000, pairs[likely]))
    z = closed_form.spectral_embedding(edges, 2)
    assert np.abs(np.mean((z[:, 1] > 0) == side) - 0.5) > 0.45


def test_labels_make_the_linear_probe_least_squares_classification(rng, x64):
    y = rng.integers(0, 3, 40)
    phi, target = rng.normal(size=(40, 6)), np.eye(3)[y]
    g = graph_lib.normalize(graph_lib.from_labels(y))
    h = phi @ closed_form.fit_linear(phi, g, 5, ridge=0)
    assert np.linalg.matrix_rank(h, tol=1e-6) == 3  # the number of classes, of 5 columns
    by_embedding = h @ np.linalg.lstsq(h, target, rcond=1e-6)[0]
    by_features = phi @ np.linalg.lstsq(phi, target)[0]
    np.testing.assert_allclose(by_embedding, by_features, atol=1e-6)
    # With free rows, those of one class coincide.
    z = closed_form.spectral_embedding(g, 3)
    np.testing.assert_allclose(z, [z[np.argmax(y == c)] for c in y], atol=1e-6)


def test_a_linear_model_trained_by_descent_reaches_fit_linear(rng, x64):
    phi = jnp.asarray(rng.normal(size=(30, 5)))
    g = graph_lib.normalize(graph_lib.from_groups(rng.integers(0, 8, 30)))

    def loss(w):
        return spectral.vicreg_squared(phi @ w, g, invariance=0.7)

    w = closed_form.fit_linear(phi, g, 3, invariance=0.7, ridge=0)
    reached = descend(loss, rng.normal(size=(5, 3)))
    np.testing.assert_allclose(reached, loss(jnp.asarray(w)), rtol=1e-5)


def test_a_kernel_is_its_features_and_landmarks_approach_it(rng):
    x = rng.normal(size=(60, 3))
    g = graph_lib.normalize(graph_lib.from_groups(rng.integers(0, 20, 60)))
    by_features = x @ closed_form.fit_linear(x, g, 2, ridge=1e-3)
    a = closed_form.fit_kernel(x @ x.T, x @ x.T, g, 2, ridge=1e-3)
    np.testing.assert_allclose(np.abs(x @ x.T @ a), np.abs(by_features), atol=1e-6)

    def value(m):
        k = closed_form.gaussian_kernel(x, x[:m], 2.0)
        a = closed_form.fit_kernel(k, k[:m], g, 2)
        return references.vicreg_squared(k @ a, np.asarray(g, float))

    exact, nystrom, coarse = value(60), value(40), value(5)
    assert exact <= nystrom + 1e-6
    assert nystrom < coarse


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: closed_form.spectral_embedding(np.eye(3), 2, loss="vicreg"), "vicreg_squared"),
        (lambda: closed_form.spectral_embedding(np.eye(3), 0), "k=0"),
        (lambda: closed_form.spectral_embedding(np.triu(np.ones((3, 3))), 2), "symmetric"),
        (lambda: closed_form.fit_linear(np.ones((4, 2)), np.eye(3), 1), r"must be \[3, M\]"),
        (lambda: closed_form.fit_linear(np.ones((3, 2)), np.eye(3), 3), "1 to 2; got k=3"),
        (lambda: closed_form.fit_linear(np.ones((3, 2)), np.eye(3), 1, ridge=0), "ridge"),
        (lambda: closed_form.fit_kernel(np.eye(3), np.eye(2), np.eye(3), 1), "of one kernel"),
    ],
)
def test_bad_input_is_one_clear_error(call, said):
    with pytest.raises(ValueError, match=said):
        call()
