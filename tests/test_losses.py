"""What a loss must be, asked of all of them; spectral ones included."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from pal_jax import graph as graph_lib
from pal_jax import losses, spectral
from tests import references

# name: (ours, the reference). Every contract below is asked of every line.
LOSSES = {
    "vicreg": (losses.vicreg, references.vicreg),
    "vicreg of 2 views": (
        functools.partial(losses.vicreg, views=2),
        functools.partial(references.vicreg, views=2),
    ),
    "simclr": (losses.simclr, references.simclr),
    "simclr at 0.1": (
        functools.partial(losses.simclr, temperature=0.1),
        functools.partial(references.simclr, temperature=0.1),
    ),
    "barlow_twins": (losses.barlow_twins, references.barlow_twins),
    "barlow_twins of 2 views": (
        functools.partial(losses.barlow_twins, views=2),
        functools.partial(references.barlow_twins, views=2),
    ),
    "spectral_contrastive": (spectral.spectral_contrastive, references.spectral_contrastive),
    "spectral_contrastive of 3 views": (
        functools.partial(spectral.spectral_contrastive, views=3, mu=1.5),
        functools.partial(references.spectral_between_views, views=3, mu=1.5),
    ),
    "vicreg_squared": (spectral.vicreg_squared, references.vicreg_squared),
    "vicreg_squared at 0.3": (
        functools.partial(spectral.vicreg_squared, invariance=0.3),
        functools.partial(references.vicreg_squared, invariance=0.3),
    ),
    "barlow_twins_squared": (spectral.barlow_twins_squared, references.barlow_twins_squared),
    "degree_normalized": (
        spectral.degree_normalized(spectral.vicreg_squared),
        lambda z, g: references.vicreg_squared(z, references.normalized(g)),
    ),
}
PRACTICAL = [
    name for name in LOSSES if not name.startswith(("spectral", "degree")) and "squared" not in name
]
every_loss = pytest.mark.parametrize("name", LOSSES)


def graphs(rng, n=12):
    """Dense references of every kind of graph a loss may get."""
    weighted = np.where(rng.random((n, n)) < 0.3, rng.random((n, n)), 0.0)
    isolated = weighted + weighted.T
    isolated[2], isolated[:, 2] = 0, 0
    return {
        "views": references.graph_of_views(n // 2, 2),
        "labels": references.graph_of_groups(np.arange(n) % (n // 3)),
        "weighted": weighted + weighted.T,
        "isolated row": isolated,
        "asymmetric": weighted,
    }


@every_loss
@pytest.mark.parametrize("shape", [(6, 2), (6, 7)], ids=["N > K", "N < K"])
def test_value_and_gradient_equal_the_definition(rng, x64, name, shape):
    ours, reference = LOSSES[name]
    z = rng.normal(size=shape)
    for kind, g in graphs(rng, n=6).items():
        value, grad = jax.jit(jax.value_and_grad(ours))(jnp.asarray(z), jnp.asarray(g))
        np.testing.assert_allclose(value, reference(z, g), rtol=1e-10, err_msg=kind)
        expected = references.gradient(lambda x, g=g: reference(x, g), z)
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6, err_msg=kind)


@every_loss
def test_gradients_agree_with_finite_differences(rng, x64, name):
    ours, _ = LOSSES[name]
    z, g = jnp.asarray(rng.normal(size=(12, 4))), graph_lib.from_groups(np.arange(12) % 5)
    check_grads(jax.jit(lambda z: ours(z, g)), (z,), order=1, modes=["rev"], rtol=1e-5)


def test_two_views_are_the_published_losses(rng, x64):
    a, b = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    z = jnp.asarray(np.concatenate([a, b]))
    views, directed = graph_lib.from_views(6, 2), graph_lib.from_views(6, 2, directed=True)
    pairs = [
        (losses.vicreg(z, views, views=2), references.published_vicreg(a, b)),
        (losses.simclr(z, views, temperature=0.2), references.published_nt_xent(a, b, 0.2)),
        (losses.barlow_twins(z, directed, views=2), references.published_barlow_twins(a, b)),
        (spectral.spectral_contrastive(z, views, views=2), references.published_spectral(a, b)),
        (
            spectral.spectral_contrastive(z, views, views=2, mu=4.0),
            references.published_spectral(a, b, mu=4.0),
        ),
    ]
    for ours, published in pairs:
        np.testing.assert_allclose(ours, published, rtol=1e-10)


def test_labels_make_simclr_supcon(rng, x64):
    z, labels = rng.normal(size=(9, 4)), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    ours = losses.simclr(jnp.asarray(z), graph_lib.from_labels(labels), temperature=0.3)
    np.testing.assert_allclose(ours, references.published_supcon(z, labels, 0.3), rtol=1e-10)


@every_loss
def test_groups_and_edges_are_the_dense_graph(rng, x64, name):
    ours, _ = LOSSES[name]
    z, ids = jnp.asarray(rng.normal(size=(12, 4))), np.array([5, 5, 5, 9, 9, -2, 5, 9, 0, 1, 1, 5])
    dense = references.graph_of_groups(ids)
    expected = jax.jit(jax.value_and_grad(ours))(z, jnp.asarray(dense))
    for g in (
        graph_lib.from_groups(ids),
        graph_lib.from_edges(12, np.argwhere(dense)),
        graph_lib.Dense(jnp.asarray(dense)),
    ):
        actual = jax.jit(jax.value_and_grad(ours))(z, g)
        chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-12)


@every_loss
@pytest.mark.parametrize(
    "z", [np.ones((12, 3)), np.zeros((12, 3)), np.eye(12)[:, :3]], ids=["ones", "zeros", "rows"]
)
def test_value_and_gradient_are_finite_at_the_corners(name, z):
    ours, reference = LOSSES[name]
    step = jax.jit(jax.value_and_grad(ours))
    one_edge = np.zeros((12, 12))
    one_edge[0, 1] = 1
    for g in (np.zeros((12, 12)), np.eye(12), np.ones((12, 12)), one_edge):
        value, grad = step(jnp.asarray(z, jnp.float32), jnp.asarray(g))
        chex.assert_tree_all_finite((value, grad))
        np.testing.assert_allclose(value, reference(z, g), rtol=2e-4, atol=1e-5)


@every_loss
def test_rows_may_be_permuted_with_the_graph(rng, name):
    ours = jax.jit(LOSSES[name][0])
    z = rng.normal(size=(12, 4)).astype(np.float32)
    g = graphs(rng)["weighted"].astype(np.float32)
    # Permute samples, the same way in each of the 6, 3 or 2 blocks that some losses see.
    order = np.array([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10])
    moved = ours(jnp.asarray(z[order]), jnp.asarray(g[order][:, order]))
    np.testing.assert_allclose(moved, ours(jnp.asarray(z), jnp.asarray(g)), rtol=1e-4)


@pytest.mark.parametrize("name", PRACTICAL)
def test_self_loops_teach_nothing(rng, name):
    ours = jax.jit(LOSSES[name][0])
    z = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    g = jnp.asarray(graphs(rng)["weighted"], jnp.float32)
    np.testing.assert_allclose(ours(z, g + 5 * jnp.eye(12)), ours(z, g), rtol=1e-4)


@pytest.mark.parametrize("loss", [losses.vicreg, losses.barlow_twins])
def test_shifting_z_changes_nothing(rng, loss):
    z = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    for g in (graph_lib.from_views(6, 2), jnp.asarray(graphs(rng)["weighted"], jnp.float32)):
        np.testing.assert_allclose(loss(z + 100, g), loss(z, g), rtol=1e-4)


@every_loss
def test_half_precision_is_computed_in_float32(rng, name):
    ours, _ = LOSSES[name]
    z = jnp.asarray(30 * rng.normal(size=(12, 4)), jnp.float16)
    value, grad = jax.jit(jax.value_and_grad(ours))(z, graph_lib.from_views(6, 2))
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.float16)
    expected = jax.jit(ours)(z.astype(jnp.float32), graph_lib.from_views(6, 2))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@every_loss
def test_eight_devices_are_one_device(rng, name):
    ours, _ = LOSSES[name]
    z = jnp.asarray(rng.normal(size=(48, 5)), jnp.float32)
    groups = jnp.asarray(np.tile(rng.integers(0, 1000, 24), 2) % 7, jnp.int32)
    traces = []

    def loss(z, groups):
        traces.append(1)
        return ours(z, graph_lib.from_groups(groups))

    step = jax.jit(jax.value_and_grad(loss))
    alone = step(z, groups)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = step(jax.device_put(z, rows), jax.device_put(groups, rows))
    assert len(sharded[1].sharding.device_set) == 8  # else the test tests nothing
    chex.assert_trees_all_close(
        jax.device_get(sharded), jax.device_get(alone), rtol=1e-5, atol=1e-6
    )
    before = len(traces)
    step(jax.device_put(z, rows), jax.device_put(groups + 1, rows))
    assert len(traces) == before  # new groups never compile anew


@every_loss
def test_bad_input_is_one_clear_error(rng, name):
    ours, _ = LOSSES[name]
    z, g = jnp.ones((12, 3)), jnp.ones((12, 12))
    for bad_z, bad_g, said in [
        (z[0], g, "must be \\[N, K\\]"),
        (z[:1], g[:1, :1], "2 rows or more"),
        (z.astype(jnp.int32), g, "must be floating"),
        (z, g[:6, :6], "6 rows and the embeddings have 12"),
        (z, g[:6], "must be \\[N, N\\]"),
        (z, graph_lib.from_views(5, 2), "10 rows and the embeddings have 12"),
    ]:
        with pytest.raises(ValueError, match=said):
            jax.jit(ours)(bad_z, bad_g)


@pytest.mark.parametrize("loss", [losses.vicreg, losses.barlow_twins, losses.simclr])
def test_negative_weights_are_refused_where_they_can_be_seen(loss):
    with pytest.raises(ValueError, match=r"2 edge weights are negative, the least -3\.0"):
        loss(jnp.ones((3, 2)), jnp.asarray([[1.0, -3, 0], [-3, 1, 0], [0, 0, 1]]))


@pytest.mark.parametrize("views", [0, 5, 8, 12])
@pytest.mark.parametrize(
    "loss", [losses.vicreg, losses.barlow_twins, spectral.spectral_contrastive]
)
def test_views_must_divide_the_rows(loss, views):
    with pytest.raises(ValueError, match="views="):
        loss(jnp.ones((12, 2)), jnp.ones((12, 12)), views=views)
