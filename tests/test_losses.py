"""What a loss must be, asked of all of them; spectral ones included."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pal_jax import graph as graph_lib
from pal_jax import losses, spectral
from tests import references

# name: (ours, the reference). The contracts below are asked of every line.
LOSSES = {
    "vicreg": (losses.vicreg, references.vicreg),
    "vicreg of 2 views": (
        functools.partial(losses.vicreg, views=2),
        functools.partial(references.vicreg, views=2),
    ),
    "simclr": (
        functools.partial(losses.simclr, temperature=0.2),
        functools.partial(references.simclr, temperature=0.2),
    ),
    "simclr of any positive": (
        functools.partial(losses.simclr, positives="any"),
        functools.partial(references.simclr, positives="any"),
    ),
    "simclr of pairs": (
        functools.partial(losses.simclr, positives="pairs"),
        functools.partial(references.simclr, positives="pairs"),
    ),
    "barlow_twins of 2 views": (
        functools.partial(losses.barlow_twins, views=2),
        functools.partial(references.barlow_twins, views=2),
    ),
    "spectral_contrastive": (spectral.spectral_contrastive, references.spectral_contrastive),
    "spectral_contrastive of 3 views": (
        functools.partial(spectral.spectral_contrastive, views=3, mu=1.5),
        functools.partial(references.spectral_between_views, views=3, mu=1.5),
    ),
    "vicreg_squared": (
        functools.partial(spectral.vicreg_squared, invariance=0.3),
        functools.partial(references.vicreg_squared, invariance=0.3),
    ),
    "barlow_twins_squared": (spectral.barlow_twins_squared, references.barlow_twins_squared),
    "degree_normalized": (
        spectral.degree_normalized(spectral.vicreg_squared),
        lambda z, g: references.vicreg_squared(z, references.normalized(g)),
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@functools.cache
def step(name):
    """Compiled once for all tests: (z, graph) -> value, gradient."""
    return jax.jit(jax.value_and_grad(LOSSES[name][0]))


def graphs(rng, n=24):
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
    reference = LOSSES[name][1]
    z = rng.normal(size=shape)
    for kind, g in graphs(rng, n=6).items():
        value, grad = step(name)(jnp.asarray(z), jnp.asarray(g))
        np.testing.assert_allclose(value, reference(z, g), rtol=1e-10, err_msg=kind)
        expected = references.gradient(lambda x, g=g: reference(x, g), z)
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6, err_msg=kind)


TWO_VIEWS = {
    "vicreg": (functools.partial(losses.vicreg, views=2), references.published_vicreg),
    "simclr": (
        functools.partial(losses.simclr, temperature=0.2),
        functools.partial(references.published_nt_xent, temperature=0.2),
    ),
    "barlow_twins": (
        functools.partial(losses.barlow_twins, views=2),
        references.published_barlow_twins,
    ),
    "spectral": (
        functools.partial(spectral.spectral_contrastive, views=2),
        references.published_spectral,
    ),
    "spectral at mu = 4": (
        functools.partial(spectral.spectral_contrastive, views=2, mu=4.0),
        functools.partial(references.published_spectral, mu=4.0),
    ),
}


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_two_views_are_the_published_loss(rng, name):
    ours, published = TWO_VIEWS[name]
    a, b = rng.normal(size=(2, 6, 5))
    g = graph_lib.from_views(6, 2, directed=name == "barlow_twins")
    z = np.concatenate([a, b])
    expected = references.precise_gradient(lambda z: published(*np.split(z, 2)), z)
    for x64, rtol in ((False, 1e-5), (True, 1e-10)):
        with jax.enable_x64(x64):
            value, grad = jax.jit(jax.value_and_grad(ours))(jnp.asarray(z, float), g)
        np.testing.assert_allclose(value, published(a, b), rtol=rtol)
        np.testing.assert_allclose(grad, expected, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize(
    ("positives", "published"),
    [
        ("each", references.published_supcon),
        ("any", references.published_solo_learn_simclr),
        ("pairs", references.published_optax_ntxent),
    ],
)
def test_several_positives_have_three_published_conventions(rng, positives, published):
    z, labels = rng.normal(size=(9, 4)), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    loss = jax.jit(functools.partial(losses.simclr, temperature=0.3, positives=positives))
    actual = loss(jnp.asarray(z, jnp.float32), graph_lib.from_labels(labels))
    np.testing.assert_allclose(actual, published(z, labels, 0.3), rtol=1e-5)
    # With one positive a row the three are one.
    pairs = np.arange(8) // 2
    actual = loss(jnp.asarray(z[:8], jnp.float32), graph_lib.from_labels(pairs))
    np.testing.assert_allclose(actual, references.published_supcon(z[:8], pairs, 0.3), rtol=1e-5)


@pytest.mark.parametrize("name", ["vicreg", "simclr", "barlow_twins of 2 views"])
def test_weights_of_the_graph_may_be_learnt(rng, x64, name):
    ours, reference = LOSSES[name]
    z, g = rng.normal(size=(6, 3)), rng.random((6, 6))
    grad = jax.jit(jax.grad(ours, argnums=1))(jnp.asarray(z), jnp.asarray(g))
    expected = references.gradient(lambda w: reference(z, w), g)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-7)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match=r"'al'.*any, each, pairs"):
        losses.simclr(jnp.ones((4, 2)), jnp.ones((4, 4)), positives="al")


APART = {
    **{
        f"simclr, {positives}": (
            functools.partial(losses.simclr, positives=positives),
            functools.partial(references.simclr, positives=positives),
        )
        for positives in ("each", "any", "pairs")
    },
    "spectral_contrastive": (spectral.spectral_contrastive, references.spectral_contrastive),
    "spectral_contrastive of 2 views": (
        functools.partial(spectral.spectral_contrastive, views=2),
        functools.partial(references.spectral_between_views, views=2),
    ),
}


@pytest.mark.parametrize("name", APART)
def test_pushed_pairs_may_have_weights(rng, x64, name):
    ours, reference = APART[name]
    z = rng.normal(size=(6, 3))
    w = np.where(rng.random((6, 6)) < 0.5, rng.random((6, 6)), 0.0)
    step = jax.jit(jax.value_and_grad(lambda z, g, w: ours(z, g, apart=w)))
    for kind, g in graphs(rng, n=6).items():
        value, grad = step(jnp.asarray(z), jnp.asarray(g), jnp.asarray(w))
        np.testing.assert_allclose(value, reference(z, g, apart=w), rtol=1e-10, err_msg=kind)
        expected = references.gradient(lambda x, g=g: reference(x, g, apart=w), z)
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6, err_msg=kind)
        # Weight 1 is the default; weight 0 leaves finite what has nothing to push.
        ones = step(jnp.asarray(z), jnp.asarray(g), jnp.ones((6, 6)))[0]
        np.testing.assert_allclose(ones, reference(z, g), rtol=1e-10, err_msg=kind)
        nothing = step(jnp.asarray(z), jnp.asarray(g), jnp.zeros((6, 6)))
        chex.assert_tree_all_finite(nothing)


@every_loss
@pytest.mark.parametrize(("views", "directed"), [(2, False), (3, False), (2, True), (3, True)])
def test_graphs_of_views_are_the_dense_graph(rng, name, views, directed):
    z = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    g = graph_lib.from_views(24 // views, views, directed=directed)
    dense = references.graph_of_views(24 // views, views, directed)
    value, grad = step(name)(z, jnp.asarray(dense, jnp.float32))
    atol = 1e-5 * float(jnp.abs(grad).max())
    chex.assert_trees_all_close(step(name)(z, g), (value, grad), rtol=1e-5, atol=atol)


@every_loss
def test_groups_and_edges_are_the_dense_graph(rng, name):
    z = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    ids = rng.integers(-2, 6, 24)
    dense = references.graph_of_groups(ids)
    value, grad = step(name)(z, jnp.asarray(dense, jnp.float32))
    atol = 1e-5 * float(jnp.abs(grad).max())
    for g in (graph_lib.from_groups(ids), graph_lib.from_edges(24, np.argwhere(dense))):
        chex.assert_trees_all_close(step(name)(z, g), (value, grad), rtol=1e-5, atol=atol)


@every_loss
@pytest.mark.parametrize(
    "z", [np.ones((24, 4)), np.zeros((24, 4)), np.eye(24)[:, :4]], ids=["ones", "zeros", "rows"]
)
def test_value_and_gradient_are_finite_at_the_corners(name, z):
    reference = LOSSES[name][1]
    one_edge = np.zeros((24, 24))
    one_edge[0, 1] = 1
    for g in (np.zeros((24, 24)), np.eye(24), np.ones((24, 24)), one_edge):
        value, grad = step(name)(jnp.asarray(z, jnp.float32), jnp.asarray(g, jnp.float32))
        chex.assert_tree_all_finite((value, grad))
        np.testing.assert_allclose(value, reference(z, g), rtol=2e-4, atol=1e-5)


@every_loss
def test_rows_may_be_permuted_with_the_graph(rng, name):
    z = rng.normal(size=(24, 4)).astype(np.float32)
    g = graphs(rng)["weighted"].astype(np.float32)
    # The same permutation of samples in each of the 2 or 3 blocks that some losses see.
    order = (np.arange(24).reshape(12, 2)[:, ::-1]).ravel()
    value, grad = step(name)(jnp.asarray(z), jnp.asarray(g))
    moved = step(name)(jnp.asarray(z[order]), jnp.asarray(g[order][:, order]))
    chex.assert_trees_all_close(moved, (value, grad[order]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vicreg", "simclr", "barlow_twins of 2 views"])
def test_self_loops_teach_nothing(rng, name):
    z = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    g = jnp.asarray(graphs(rng)["weighted"], jnp.float32)
    actual, expected = step(name)(z, g + 5 * jnp.eye(24)), step(name)(z, g)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins of 2 views"])
def test_shifting_z_changes_nothing(rng, name):
    z = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    for g in (graph_lib.from_views(12, 2), jnp.asarray(graphs(rng)["weighted"], jnp.float32)):
        actual, expected = step(name)(z + 100, g), step(name)(z, g)
        chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vicreg", "simclr", "spectral_contrastive"])
def test_half_precision_is_computed_in_float32(rng, name):
    z = jnp.asarray(30 * rng.normal(size=(24, 4)), jnp.float16)
    value, grad = step(name)(z, graph_lib.from_views(12, 2))
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.float16)
    expected = step(name)(z.astype(jnp.float32), graph_lib.from_views(12, 2))
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)


@every_loss
def test_eight_devices_are_one_device(rng, name):
    ours, _ = LOSSES[name]
    z = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    groups = jnp.asarray(np.tile(rng.integers(0, 7, 12), 2), jnp.int32)
    traces = []

    def loss(z, groups):
        traces.append(1)
        return ours(z, graph_lib.from_groups(groups))

    run = jax.jit(jax.value_and_grad(loss))
    alone = step(name)(z, graph_lib.from_groups(groups))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = run(jax.device_put(z, rows), jax.device_put(groups, rows))
    assert len(sharded[1].sharding.device_set) == 8  # else the test tests nothing
    atol = 1e-5 * float(jnp.abs(alone[1]).max())  # of a gradient that is a sum over pairs
    chex.assert_trees_all_close(
        jax.device_get(sharded), jax.device_get(alone), rtol=1e-5, atol=atol
    )
    views = graph_lib.from_views(12, 2)
    chex.assert_trees_all_close(
        jax.device_get(step(name)(jax.device_put(z, rows), views)),
        jax.device_get(step(name)(z, views)),
        rtol=1e-5,
        atol=atol,
    )
    before = len(traces)
    run(jax.device_put(z, rows), jax.device_put(groups + 1, rows))
    assert len(traces) == before  # new groups never compile anew


@every_loss
def test_nan_propagates(rng, name):
    z = rng.normal(size=(24, 4)).astype(np.float32)
    g = graphs(rng)["weighted"].astype(np.float32)
    assert np.isfinite(step(name)(jnp.asarray(z), jnp.asarray(g))[0])
    z[3, 1] = np.nan
    assert np.isnan(step(name)(jnp.asarray(z), jnp.asarray(g))[0])
    z[3, 1], g[2, 5] = 0.0, np.nan
    assert np.isnan(step(name)(jnp.asarray(z), jnp.asarray(g))[0])


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
