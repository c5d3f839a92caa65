import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pal_jax import models
from pal_jax.errors import UserError

KEY = jax.random.key(0)
# Every encoder at a size that a test can afford; a new one is tested by adding it here.
SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((5,), {"width": 16}),
    "convnet": ((8, 8, 1), {"width": 4}),
    "resnet18": ((8, 8, 3), {"width": 4}),
    "resnet50": ((32, 32, 3), {"width": 4, "stem": "imagenet"}),
    "vit_s": ((8, 8, 3), {"width": 64}),
}
SHAPES = {
    "mlp": 16,
    "convnet": 32,
    "resnet18": 32,
    "resnet50": 128,
    "vit_s": 64,
}


# Contracts hold for every encoder; the deep ones take their time to compile.
EVERY = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("resnet50", "vit_s") else [])
    for name in SMALL
]


@functools.cache
def variables_of(name: str):
    """The variables of a small model; they do not depend on the compute dtype."""
    shape, options = SMALL[name]
    model = models.build(name, projector=(12, 3, 6), **options)
    return jax.jit(model.init)(KEY, jnp.zeros((1, *shape)))


@functools.cache
def small(name: str, dtype: str = "float32"):
    """(jitted apply, variables, a batch of 16 rows)."""
    shape, options = SMALL[name]
    model = models.build(name, projector=(12, 3, 6), dtype=dtype, **options)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32))
    return jax.jit(model.apply, static_argnames="train"), variables_of(name), x


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_every_encoder_is_tested_here():
    assert set(SMALL) == set(models.ENCODERS)


@pytest.mark.parametrize(
    ("encoder", "shape", "options", "parameters"),
    [
        # torchvision without fc: resnet18 11,176,512, of which the 3x3 stem saves 64 * 3 * 40.
        ("resnet18", (32, 32, 3), {}, 11_168_832),
        ("resnet18", (224, 224, 3), {"stem": "imagenet"}, 11_176_512),
        ("resnet50", (224, 224, 3), {"stem": "imagenet"}, 23_508_032),
        # timm's vit_small_patch16_224 without head has 21,665,664: class token and 197 learned
        # positions of 384 are what ours does without.
        ("vit_s", (224, 224, 3), {"patch": 16}, 21_665_664 - 198 * 384),
    ],
    ids=str,
)
def test_parameters_are_as_many_as_published(encoder, shape, options, parameters):
    model = models.build(encoder, projector=(0, 0, 0), **options)
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
    assert count(variables["params"]) == parameters


@pytest.mark.parametrize("side", [8, 9, 16, 28, 32])
def test_convnet_takes_every_small_image(side):
    model = models.build("convnet", projector=(8, 2, 4))
    x = jnp.zeros((2, side, side, 3))
    variables = jax.eval_shape(model.init, KEY, x)
    h, z, _ = jax.eval_shape(functools.partial(model.apply, train=True), variables, x)
    assert h.shape == (2, 256)
    assert z.shape == (2, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EVERY)
def test_outputs_are_float32_of_the_promised_shape(name, dtype):
    apply, variables, x = small(name, dtype)
    shape, options = SMALL[name]
    model = models.build(name, projector=(12, 3, 6), dtype=dtype, **options)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        variables, jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    h, z, stats = apply(variables, x, train=True)
    chex.assert_shape(h, (16, SHAPES[name]))
    chex.assert_shape(z, (16, 6))
    assert {h.dtype, z.dtype, *(s.dtype for s in jax.tree.leaves(stats))} == {jnp.dtype("float32")}
    chex.assert_trees_all_equal_shapes(stats, variables["batch_stats"])


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_is_close_to_float32(name):
    """Of float32 parameters, at 8 bits of mantissa; and not equal, or it would not be in use."""
    apply, variables, x = small(name)
    expected = apply(variables, x, train=True)[0]
    actual = small(name, "bfloat16")[0](variables, x, train=True)[0]
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("name", EVERY)
def test_a_trained_row_depends_on_the_batch_and_an_embedded_one_does_not(name):
    apply, variables, x = small(name)
    h, z, stats = apply(variables, x, train=False)
    chex.assert_trees_all_equal(stats, variables["batch_stats"])
    others = x.at[4:].multiply(-2.0)
    beside = apply(variables, others, train=False)
    np.testing.assert_allclose(beside[0][:4], h[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(beside[1][:4], z[:4], rtol=1e-4, atol=1e-5)
    together = apply(variables, x, train=True)[1]
    assert np.abs(apply(variables, others, train=True)[1][:4] - together[:4]).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_running_statistics_approach_those_of_the_batch(name):
    """After many updates on one batch, embedding it equals training on it."""
    apply, variables, x = small(name)
    _, expected, stats = apply(variables, x, train=True)
    before = apply(variables, x, train=False)[1]
    for _ in range(160):
        stats = apply({**variables, "batch_stats": stats}, x, train=True)[2]
    after = apply({**variables, "batch_stats": stats}, x, train=False)[1]
    assert np.abs(before - expected).max() > 0.01
    np.testing.assert_allclose(after, expected, atol=5e-3)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_and_reach_what_they_must(name):
    apply, variables, x = small(name)

    @jax.jit
    def gradient(params, x):
        def objective(params):
            return jnp.square(apply({**variables, "params": params}, x, train=True)[1] - 1).mean()

        return jax.grad(objective)(params)

    def is_dead(grads):
        return {
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
            if not np.abs(leaf).max() > 0
        }

    chex.assert_tree_all_finite(gradient(variables["params"], jnp.zeros_like(x)))
    # Blocks start as the identity (last scale 0), which holds back the gradient of what is inside.
    awake = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    grads = gradient(awake, x)
    chex.assert_tree_all_finite(grads)
    # Softmax does not change when all its keys move alike, so their bias has a gradient of 0.
    assert {path for path in is_dead(grads) if "['key']['bias']" not in path} == set()


def test_a_residual_net_starts_as_its_shortcuts():
    """With the last scale of each block at 0, what a block's convolutions do cannot be seen."""
    apply, variables, x = small("resnet18")
    params = variables["params"]
    block = params["encoder"]["BasicBlock_1"]
    other = {**block, "Conv_0": jax.tree.map(lambda leaf: leaf * -3 + 1, block["Conv_0"])}
    changed = {**params, "encoder": {**params["encoder"], "BasicBlock_1": other}}
    np.testing.assert_allclose(
        apply({**variables, "params": changed}, x, train=True)[0],
        apply(variables, x, train=True)[0],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("projector", "parameters"),
    [
        ((0, 0, 0), 0),  # z is h
        ((99, 1, 6), 16 * 6),  # linear
        ((12, 2, 6), 16 * 12 + 2 * 12 + 12 * 6),
        ((12, 3, 6), 16 * 12 + 12 * 12 + 2 * 2 * 12 + 12 * 6),  # VICReg: two hidden, one out
    ],
)
def test_projector_has_the_layers_asked_for(projector, parameters):
    model = models.build("mlp", width=16, projector=projector)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32))
    variables = model.init(KEY, x)
    assert count(variables["params"].get("projector", {})) == parameters
    h, z, _ = model.apply(variables, x, train=True)
    if not projector[1]:
        np.testing.assert_array_equal(h, z)


def test_a_projector_of_no_layers_on_a_vit_has_no_batch_statistics():
    model = models.build("vit_s", width=64, projector=(0, 0, 0))
    x = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(model.init, KEY, x)
    assert set(variables) == {"params"}
    for train in (False, True):
        apply = functools.partial(model.apply, train=train)
        assert jax.eval_shape(apply, variables, x)[2] == {}


@pytest.mark.slow
def test_positions_tell_patches_apart():
    """Without them a ViT could not tell an image from one with its patches swapped."""
    apply, variables, x = small("vit_s")
    swapped = jnp.concatenate([x[:, 4:], x[:, :4]], axis=1)
    h, other = (apply(variables, images, train=False)[0] for images in (x, swapped))
    assert np.abs(h - other).max() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_statistics_are_those_of_the_global_batch(name):
    """Eight devices with two rows each must not normalise two rows each."""
    apply, variables, x = small(name)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, P("data")))
    whole = jax.device_put(variables, NamedSharding(mesh, P()))
    actual = apply(whole, spread, train=True)
    assert len(actual[1].sharding.device_set) == 8
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(apply(variables, x, train=True)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet8"}, "did you mean 'resnet18'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"stem": "cifar10"}, "did you mean 'cifar'"),
        ({"projector": (0, 2, 8)}, "sizes must be positive"),
        ({"projector": (8, -1, 8)}, "sizes must be positive"),
        ({"projector": (-1, 2, 8)}, r"model\.projector=\(-1, 2, 8\) cannot work; its sizes"),
        ({"width": -1}, "sizes must be positive"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        models.build(**({"encoder": "mlp"} | options))


@pytest.mark.parametrize(
    ("encoder", "options", "shape", "message"),
    [
        ("vit_s", {"patch": 3}, (8, 8, 3), "multiples of its patch"),
        ("vit_s", {"width": 100}, (8, 8, 3), "multiple of 64"),
        ("convnet", {}, (7,), "needs images"),
        ("resnet18", {}, (7,), "needs images"),
        ("vit_s", {}, (7,), "needs images"),
    ],
    ids=str,
)
def test_inputs_that_an_encoder_cannot_take_are_refused(encoder, options, shape, message):
    model = models.build(encoder, **options)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
