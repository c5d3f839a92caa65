"""By simulation: of one batch, the plug-in estimates are too large and the others are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pal_jax import graph as graph_lib
from pal_jax import losses, spectral

BATCHES, SAMPLES = 20_000, 6
C = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.7]])


@pytest.fixture(scope="module")
def batches():
    """[batches, N, K]: two noisy views of Gaussian samples, so that rows of a sample depend."""
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(BATCHES, 1, SAMPLES, 3)) @ np.linalg.cholesky(0.8 * C).T
    noise = rng.normal(size=(BATCHES, 2, SAMPLES, 3)) @ np.linalg.cholesky(0.2 * C).T
    return jnp.asarray((sample + noise).reshape(BATCHES, 2 * SAMPLES, 3), jnp.float32)


def bias(loss, batches, truth):
    """Mean excess over the population's value, and its standard error."""
    values = np.asarray(jax.jit(jax.vmap(loss))(batches), np.float64)
    return values.mean() - truth, values.std() / np.sqrt(len(values))


def off_diagonal(c):
    return (c**2).sum() - (np.diag(c) ** 2).sum()


VIEWS = graph_lib.from_views(SAMPLES, 2)
MEAN_OF_VIEWS = graph_lib.normalize(VIEWS)
# Of the mean of two views: covariance C of the rows, 0.8 C between them.
BETWEEN = 0.9 * C

# name: (plug-in, unbiased, value of the population)
ESTIMATORS = {
    "vicreg": (
        functools.partial(losses.vicreg, graph=VIEWS, views=2, invariance=0, variance=0),
        functools.partial(
            losses.vicreg, graph=VIEWS, views=2, invariance=0, variance=0, unbiased=True
        ),
        2 * off_diagonal(C) / 3,
    ),
    "vicreg_squared": (
        functools.partial(spectral.vicreg_squared, graph=MEAN_OF_VIEWS, invariance=0),
        functools.partial(spectral.vicreg_squared, graph=MEAN_OF_VIEWS, invariance=0, views=2),
        ((C - np.eye(3)) ** 2).sum(),
    ),
    "barlow_twins_squared": (
        functools.partial(spectral.barlow_twins_squared, graph=MEAN_OF_VIEWS),
        functools.partial(spectral.barlow_twins_squared, graph=MEAN_OF_VIEWS, views=2),
        ((BETWEEN - np.eye(3)) ** 2).sum(),
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_plug_in_is_biased_and_the_other_is_not(batches, name):
    plug_in, unbiased, truth = ESTIMATORS[name]
    excess, error = bias(plug_in, batches, truth)
    assert excess > 10 * error
    excess, error = bias(unbiased, batches, truth)
    assert abs(excess) < 4 * error
    assert error < 0.02  # else nothing was shown


def test_the_stated_size_of_the_bias(batches):
    one_view = batches[:, :SAMPLES]
    graph = graph_lib.from_views(SAMPLES, 1)
    stated = (np.trace(C) ** 2 + (C**2).sum()) / SAMPLES
    plug_in = functools.partial(spectral.vicreg_squared, graph=graph, invariance=0)
    excess, error = bias(plug_in, one_view, ((C - np.eye(3)) ** 2).sum())
    assert abs(excess - stated) < 4 * error

    whitened = one_view @ jnp.asarray(np.linalg.inv(np.linalg.cholesky(C)).T, jnp.float32)
    plug_in = functools.partial(losses.vicreg, graph=graph, invariance=0, variance=0)
    # Off the diagonal 6 of 9 entries, each with var var / (B - 1); the loss has 2 / K of their sum.
    excess, error = bias(plug_in, whitened, 0.0)
    assert abs(excess - 2 / 3 * 6 / (SAMPLES - 1)) < 4 * error


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(losses.vicreg, views=2, unbiased=True),
        functools.partial(spectral.vicreg_squared, views=5),
        functools.partial(spectral.barlow_twins_squared, views=5),
    ],
)
def test_too_few_samples_are_refused(loss):
    with pytest.raises(ValueError, match=r"views=5|4 samples or more"):
        loss(jnp.ones((6, 2)), jnp.ones((6, 6)))
