"""Identities of the squared losses, and the work that no covariance-type loss may do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pal_jax import gram, losses, spectral
from pal_jax import graph as graph_lib
from tests import references


def symmetric(rng, n):
    w = rng.normal(size=(n, n))  # of both signs: the identities hold for any symmetric G
    return w + w.T


@pytest.mark.parametrize("shape", [(6, 2), (6, 9)])
def test_contrasting_is_whitening_plus_smoothness(rng, x64, shape):
    """|ZZ' - G|^2 = |Z'Z - I|^2 + 2 tr(Z'(I - G)Z) + |G|^2 - K."""
    z, g = rng.normal(size=shape), symmetric(rng, 6)
    n, k = shape
    right = ((z.T @ z - np.eye(k)) ** 2).sum()
    right += 2 * np.trace(z.T @ (np.eye(n) - g) @ z) + (g**2).sum() - k
    left = spectral.spectral_contrastive(jnp.asarray(z), jnp.asarray(g))
    np.testing.assert_allclose(left, right, rtol=1e-10)


def test_on_a_degree_1_graph_two_losses_are_one_problem(rng, x64):
    # VICReg^2 of sqrt(N) Z, at invariance 1, is SCL of Z up to the constant |G|^2 - K.
    z, g = rng.normal(size=(6, 3)), graph_lib.normalize(graph_lib.from_labels([0, 0, 1, 1, 1, 2]))
    contrastive = spectral.spectral_contrastive(jnp.asarray(z), g)
    constant = float((np.asarray(g) ** 2).sum()) - 3
    vicreg = spectral.vicreg_squared(jnp.sqrt(6.0) * jnp.asarray(z), g)
    np.testing.assert_allclose(contrastive, vicreg + constant, rtol=1e-6)


def test_the_pushed_pairs_estimate_the_population_without_bias(rng):
    # For independent rows of covariance C, E (z_i' z_j)^2 = tr(C^2): only pairs of different
    # samples have it, and pairs of one view would do too, but self-pairs are far larger.
    c = np.array([1.0, 0.5, 0.25])
    loss = jax.jit(functools.partial(spectral.spectral_contrastive, views=2, mu=1e6))
    empty = graph_lib.Edges(jnp.zeros((1, 2), jnp.int32), jnp.zeros(1), 12)
    draws = rng.normal(size=(4000, 12, 3)) * np.sqrt(c)
    values = jax.vmap(lambda z: 1e6 * loss(z, empty))(jnp.asarray(draws, jnp.float32))
    error = values.std() / np.sqrt(len(draws))
    assert abs(values.mean() - (c**2).sum()) < 4 * error


def test_degree_normalized_does_not_depend_on_the_weight_of_the_graph(rng):
    z, g = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), graph_lib.from_views(3, 2)
    loss = spectral.degree_normalized(spectral.barlow_twins_squared)
    np.testing.assert_allclose(loss(z, g), loss(z, 7 * g.dense()), rtol=1e-5)


def test_mu_without_views_is_refused():
    with pytest.raises(ValueError, match="give `views` as well"):
        spectral.spectral_contrastive(jnp.ones((4, 2)), jnp.ones((4, 4)), mu=2.0)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_squared_norm_of_a_gram_matrix(rng, x64, shape):
    x = rng.normal(size=shape)
    value, grad = jax.value_and_grad(gram.squared_norm)(jnp.asarray(x))
    np.testing.assert_allclose(value, ((x.T @ x) ** 2).sum(), rtol=1e-12)
    expected = references.gradient(lambda x: ((x.T @ x) ** 2).sum(), x)
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


@pytest.mark.parametrize("width", [2, 9])
def test_products_of_moments(rng, x64, width):
    x, y = rng.normal(size=(4, width)), rng.normal(size=(6, width))
    expected = np.vdot(x.T @ x, y.T @ y)
    np.testing.assert_allclose(gram.product(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-12)
    s = (y @ y.T) ** 2
    same = np.arange(6)[:, None] % 3 == np.arange(6)[None, :] % 3
    actual = gram.between_samples(jnp.asarray(y), 2)
    np.testing.assert_allclose(actual, s[~same].sum(), rtol=1e-12)


def moment_graphs(rng):
    """Kind -> graph of 6 rows; those that may be asymmetric are."""
    w = np.where(rng.random((6, 6)) < 0.5, rng.random((6, 6)), 0.0)
    pairs = np.argwhere(w)
    views = graph_lib.from_views(2, 3).astype(jnp.float64)
    scale = jnp.asarray(rng.random(6))
    return {
        "dense": graph_lib.Dense(jnp.asarray(w)),
        "edges": graph_lib.Edges(jnp.asarray(pairs, jnp.int32), jnp.asarray(w[tuple(pairs.T)]), 6),
        "groups": graph_lib.from_groups([0, 0, 1, 0, 1, 2]),
        "views": views,
        "views of weight": views.scaled(scale, scale),
        "later views": graph_lib.from_views(2, 3, directed=True),
        "earlier views": graph_lib.from_views(2, 3, directed=True).T,
    }


@pytest.mark.parametrize("loops", [False, True])
def test_gradient_of_a_moment(rng, x64, loops):
    """For any cotangent; those of the losses are symmetric where G is."""
    z, c = rng.normal(size=(6, 3)), rng.normal(size=(3, 3))
    for kind, g in moment_graphs(rng).items():
        dense = np.asarray(g) if loops else references.without_loops(np.asarray(g))

        def loss(z, g):
            return jnp.vdot(jnp.asarray(c), gram.moment(z, g, loops=loops))

        value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(z), g.astype(jnp.float64))
        np.testing.assert_allclose(value, np.vdot(c, z.T @ dense @ z), rtol=1e-10, err_msg=kind)
        expected = dense @ z @ c.T + dense.T @ z @ c
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12, err_msg=kind)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7)], ids=["N > K", "N < K"])
def test_scatter_of_the_centred_rows(rng, x64, shape):
    z, c = rng.normal(size=shape) + 5, rng.normal(size=shape[1])

    def reference(z):
        x = z - z.mean(axis=0)
        s = x.T @ x
        return 0.3 * (references.without_loops(s) ** 2).sum() + c @ np.diag(s)

    def loss(z):
        off, diagonal = gram.scatter(z)
        return 0.3 * off + jnp.asarray(c) @ diagonal

    value, grad = jax.value_and_grad(loss)(jnp.asarray(z))
    np.testing.assert_allclose(value, reference(z), rtol=1e-10)
    np.testing.assert_allclose(grad, references.gradient(reference, z), rtol=1e-5, atol=1e-6)


def largest_array(function, *args):
    """Entries of the largest array of a function, its inner functions included."""

    def sizes(jaxpr):
        yield from (v.aval.size for v in jaxpr.invars)
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*args).jaxpr))


COVARIANCE_TYPE = {
    "vicreg": functools.partial(losses.vicreg, views=2),
    "barlow_twins": functools.partial(losses.barlow_twins, views=2),
    "spectral_contrastive": spectral.spectral_contrastive,
    "between views": functools.partial(spectral.spectral_contrastive, views=2),
    "vicreg_squared": spectral.degree_normalized(spectral.vicreg_squared),
    "barlow_twins_squared": spectral.barlow_twins_squared,
}


@pytest.mark.parametrize("kind", ["groups", "edges", "views", "directed views"])
@pytest.mark.parametrize("name", COVARIANCE_TYPE)
def test_nothing_is_n_by_n(name, kind):
    z = jnp.ones((256, 8))
    g = graph_lib.from_views(128, 2, directed=kind in ("edges", "directed views"))
    g = g.plain() if kind in ("groups", "edges") else g
    step = jax.value_and_grad(COVARIANCE_TYPE[name])
    assert 256 * 8 <= largest_array(step, z, g) <= 2 * 256 * 8
    # The same question of a dense graph must see its array, or the test tests nothing.
    assert largest_array(step, z, g.dense()) >= 256 * 256
