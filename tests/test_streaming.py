"""The tiled softmax is the dense one, for any size, temperature and length of rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pal_jax import graph as graph_lib
from pal_jax import losses, spectral, streaming
from tests.test_spectral import largest_array


def reference(x, c):
    """sum_i c_i log sum_{k!=i} exp(x_i . x_k) and its gradient, float64."""
    s = x @ x.T
    np.fill_diagonal(s, -np.inf)
    top = s.max(axis=1, keepdims=True)
    out = np.log(np.exp(s - top).sum(axis=1)) + top[:, 0]
    p = c[:, None] * np.exp(s - out[:, None])
    return c @ out, (p + p.T) @ x


def tiled(bound, tile):
    def weighted(x, c):
        return c @ streaming.tiled_log_sums(x, bound, tile)

    return jax.jit(jax.value_and_grad(weighted))


@pytest.mark.parametrize("n", [2, 8, 9, 31])
@pytest.mark.parametrize("bound", [None, 4.0], ids=["online maximum", "constant shift"])
def test_tiles_of_any_number_of_rows(rng, x64, n, bound):
    x, c = rng.normal(size=(n, 3)), rng.normal(size=n)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 2  # so |s| <= 4
    value, grad = reference(x, c)
    actual = tiled(bound, 8)(jnp.asarray(x), jnp.asarray(c))
    np.testing.assert_allclose(actual[0], value, rtol=1e-12)
    np.testing.assert_allclose(actual[1], grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bound", [None, 4.0], ids=["maximum", "constant shift"])
def test_all_pairs_at_once(rng, x64, bound):
    x, c = rng.normal(size=(9, 3)), rng.normal(size=9)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 2
    value, grad = reference(x, c)
    step = jax.value_and_grad(lambda x: jnp.vdot(c, streaming.dense_log_sums(x, bound)))
    actual = step(jnp.asarray(x))
    np.testing.assert_allclose(actual[0], value, rtol=1e-12)
    np.testing.assert_allclose(actual[1], grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 300.0])
def test_any_temperature_and_any_length_of_rows_in_float32(rng, scale):
    x = (scale * rng.normal(size=(40, 6)) * np.linspace(0.1, 1, 40)[:, None]).astype(np.float32)
    c = np.ones(40)
    value, grad = reference(x.astype(float), c)
    dense = jax.value_and_grad(lambda x: jnp.sum(streaming.dense_log_sums(x, None)))
    for actual in (
        tiled(None, 16)(jnp.asarray(x), jnp.asarray(c, jnp.float32)),
        dense(jnp.asarray(x)),
    ):
        np.testing.assert_allclose(actual[0], value, rtol=1e-5)
        # exp of a float32 similarity of size s is right to s * 1e-7.
        np.testing.assert_allclose(actual[1], grad, atol=1e-5 * np.abs(grad).max() + 1e-6)


def test_padding_of_the_last_tile_never_overflows():
    """One row opposite to all others: its log sum is so low that exp(0 - it) is infinite."""
    x = np.tile([6.0, 0.0, 8.0], (9, 1)).astype(np.float32)  # similarities of 100 and -100
    x[4] *= -1
    value, grad = reference(x.astype(float), np.ones(9))
    assert value < 1e4
    actual = tiled(None, 8)(jnp.asarray(x), jnp.ones(9))
    np.testing.assert_allclose(actual[0], value, rtol=1e-5)
    np.testing.assert_allclose(actual[1], grad, atol=1e-5 * np.abs(grad).max())


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_a_large_batch_is_tiled_and_equal_to_the_dense_one(rng, monkeypatch, temperature):
    z = jnp.asarray(rng.normal(size=(300, 8)), jnp.float32)
    g = graph_lib.from_views(150, 2)

    def step(z, g):
        return losses.simclr(z, g, temperature=temperature)

    monkeypatch.setattr(streaming, "SIZES", {"other": (300, 32)})
    dense = jax.jit(jax.value_and_grad(step))(z, g)
    monkeypatch.setattr(streaming, "SIZES", {"other": (100, 32)})
    assert largest_array(jax.value_and_grad(step), z, g) < 300 * 300 / 4
    jax.clear_caches()  # the same function again, now in its other form
    streamed = jax.jit(jax.value_and_grad(step))(z, g)
    scale = float(jnp.abs(dense[1]).max())
    chex.assert_trees_all_close(streamed, dense, rtol=1e-6, atol=1e-6 * scale)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(jax.value_and_grad(step), in_shardings=(rows, rows))(z, g)
    chex.assert_trees_all_close(
        jax.device_get(sharded), jax.device_get(dense), rtol=1e-5, atol=1e-5 * scale
    )


def test_blocks_of_rows_are_the_whole(rng, monkeypatch):
    z = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
    g = graph_lib.from_groups(rng.integers(0, 9, 50))
    w = jnp.asarray(rng.random((50, 50)), jnp.float32)

    def step():
        def value(z):
            pairs = losses.simclr(z, g, positives="pairs")
            return pairs + 1e-3 * spectral.spectral_contrastive(z, g, apart=w)

        return jax.jit(jax.value_and_grad(value))(z)

    whole = step()
    monkeypatch.setattr(streaming, "STRIP_ENTRIES", 7 * 50)  # 7 rows; 50 is no multiple
    chex.assert_trees_all_close(step(), whole, rtol=1e-4, atol=1e-5)


def test_blocks_of_rows_stay_small(monkeypatch):
    monkeypatch.setattr(streaming, "STRIP_ENTRIES", 8 * 512)
    step = jax.value_and_grad(lambda z, g: losses.simclr(z, g, positives="any"))
    assert largest_array(step, jnp.ones((512, 8)), graph_lib.from_views(256, 2)) <= 8 * 512
