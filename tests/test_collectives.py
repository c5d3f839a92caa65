"""What eight devices say to each other, read off the compiled program."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pal_jax import gram, losses, spectral, streaming
from pal_jax import graph as graph_lib

ROWS, WIDTH = 256, 8
COLLECTIVE = re.compile(
    r" = (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def collectives(function, *shapes):
    """Entries of every array that value and gradient of a function move between the devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(jax.value_and_grad(function), in_shardings=rows, out_shardings=(None, rows))
    program = step.lower(*shapes).compile().as_text() or ""
    arrays = [
        [int(size) for size in shape.split(",") if size]
        for result in COLLECTIVE.findall(program)
        for shape in re.findall(r"\w+\[([\d,]*)\]", result)
    ]
    assert arrays  # else the rows were not spread, and the test tests nothing
    return [math.prod(shape) for shape in arrays]


Z = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
IDS = jax.ShapeDtypeStruct((ROWS,), jnp.int32)

LOSSES = {
    "vicreg": functools.partial(losses.vicreg, views=2),
    "simclr": losses.simclr,
    "simclr of any positive": functools.partial(losses.simclr, positives="any"),
    "barlow_twins": functools.partial(losses.barlow_twins, views=2),
    "spectral_contrastive": spectral.spectral_contrastive,
    "spectral_contrastive of 2 views": functools.partial(spectral.spectral_contrastive, views=2),
    "vicreg_squared": spectral.vicreg_squared,
    "barlow_twins_squared": spectral.barlow_twins_squared,
}


@pytest.mark.parametrize("name", LOSSES)
def test_nobody_moves_more_than_the_rows(name):
    def loss(z, ids):
        return LOSSES[name](z, graph_lib.from_groups(ids))

    assert max(collectives(loss, Z, IDS)) <= ROWS * WIDTH


@pytest.mark.parametrize("name", LOSSES)
def test_views_move_no_more_than_the_rows(name):
    g = graph_lib.from_views(ROWS // 2, 2)
    assert max(collectives(lambda z: LOSSES[name](z, g), Z)) <= ROWS * WIDTH


def test_tiles_move_no_more_than_the_rows(monkeypatch):
    monkeypatch.setattr(streaming, "SIZES", {"other": (64, 32)})
    assert max(collectives(lambda z: streaming.log_sums(z, 2.0).sum(), Z)) <= ROWS * WIDTH


def test_a_covariance_moves_only_itself():
    assert max(collectives(gram.squared_norm, Z)) == WIDTH * WIDTH


def test_a_loss_of_each_device_followed_by_a_mean_is_another_loss(rng):
    """The trap of docs/losses.md: rows are coupled, so the mean of the parts is not the whole."""
    a = rng.normal(size=(64, WIDTH))
    views = np.stack([a, a + 0.3 * rng.normal(size=a.shape)]).astype(np.float32)

    def loss(pair):  # [2, samples, K]
        g = graph_lib.from_views(pair.shape[1], 2)
        return losses.vicreg(jnp.asarray(pair.reshape(-1, WIDTH)), g, views=2)

    whole = jax.jit(loss)(views)
    parts = jax.jit(loss)
    mean = np.mean([parts(part) for part in np.split(views, 8, axis=1)])
    assert abs(mean - whole) > 0.05 * whole
