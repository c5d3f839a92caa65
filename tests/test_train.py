"""The compiled step: one program for any number of devices and any answers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pal_jax import losses, models, sharding, train, views
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.sampler import Sampler
from pal_jax.errors import Interrupted, UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(64) % 4


def make(devices, *, traces=None, dtype="float32", learning_rate=0.05):
    """(state, step, embed) of a small real model on a mesh of `devices`."""
    mesh = sharding.data_mesh(devices)
    moments = {"mean": np.array([0.5], np.float32), "std": np.array([0.25], np.float32)}
    model = models.build("convnet", width=16, stem="cifar", projector=(32, 2, 16), dtype=dtype)
    optimizer = optax.sgd(learning_rate, momentum=0.9)
    variables = model.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1), jnp.float32))

    def loss(z, graph):
        if traces is not None:
            traces.append(z.shape)
        return losses.vicreg(z, graph, views=2)

    step = functools.partial(
        train.train_step,
        views=functools.partial(
            views.image_views,
            count=2,
            **moments,
            rotate=10.0,
            zoom=0.1,
            shift=0.1,
            flip=0.5,
            brightness=0.1,
            contrast=0.1,
            saturation=0.0,
            grayscale=0.0,
            noise=0.1,
        ),
        apply=model.apply,
        loss=loss,
        optimizer=optimizer,
    )
    prepare = functools.partial(views.normalise, **moments)
    embed = train.make_embed(model.apply, prepare, IMAGES, mesh, batch_size=24)
    state = train.init_state(variables, optimizer, mesh)
    return state, train.compile_step(step, mesh), embed


def run_steps(devices, steps=5, **options):
    state, step, embed = make(devices, **options)
    rng = np.random.default_rng(1)
    values = []
    for _ in range(steps):
        ids = rng.permutation(64)[:32]
        groups = rng.integers(0, 8, 32).astype(np.int32)
        state, metrics = step(state, jax.random.key(7), IMAGES[ids], groups)
        values.append(jax.device_get(metrics))
    return values, state, embed(state)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    one, state_one, _ = run_steps(1)
    eight, state_eight, embeddings = run_steps(8)
    assert len(jax.tree.leaves(state_eight.params)[0].sharding.device_set) == 8
    chex.assert_trees_all_close(eight, one, rtol=1e-5)
    chex.assert_trees_all_close(
        jax.device_get(state_eight), jax.device_get(state_one), rtol=1e-4, atol=1e-5
    )
    assert embeddings[0].shape[0] == 64


def test_new_answers_never_recompile():
    traces = []
    run_steps(8, steps=4, traces=traces)
    assert traces == [(64, 16)]


def test_the_batch_is_split_and_the_state_is_donated():
    state, step, _ = make(8)
    inputs = jax.device_put(IMAGES[:32], sharding.split_rows(sharding.data_mesh(8)))
    assert len({s.device for s in inputs.addressable_shards}) == 8
    assert inputs.addressable_shards[0].data.shape[0] == 4
    step(state, jax.random.key(0), inputs, np.zeros(32, np.int32))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_the_step_changes_what_it_should():
    values, state, _ = run_steps(1, steps=3)
    before, *_ = make(1)
    assert int(state.step) == 3
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, state.params)
    assert all(jax.tree.leaves(moved))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.batch_stats, state.batch_stats)
    assert jax.tree.leaves(moved)
    assert all(jax.tree.leaves(moved))
    assert all(np.isfinite(v["loss"]) and v["grad_norm"] > 0 for v in values)


def test_known_groups_change_the_gradient():
    """A step that ignored the groups would pass every test above."""
    ends = []
    for groups in (np.arange(32), np.arange(32) // 8):
        state, step, _ = make(1)
        state, _ = step(state, jax.random.key(0), IMAGES[:32], groups.astype(np.int32))
        ends.append(jax.device_get(state.params))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(*ends, rtol=1e-6)


def test_views_depend_on_key_and_step_only():
    values = []
    for key, start in ((0, 0), (0, 0), (1, 0), (0, 1)):
        state, step, _ = make(1)
        state = train.TrainState(
            jnp.asarray(start, jnp.int32), state.params, state.batch_stats, state.opt_state
        )
        _, metrics = step(state, jax.random.key(key), IMAGES[:32], np.arange(32, dtype=np.int32))
        values.append(float(metrics["loss"]))
    assert values[0] == values[1]
    assert len(set(values)) == 3


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_weights_and_loss():
    exact, _, _ = run_steps(1, steps=1)
    # Flax's BatchNorm multiplies bfloat16 activations by float32 scales on purpose.
    with jax.numpy_dtype_promotion("standard"):
        rounded, state, (h, z) = run_steps(1, steps=1, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert h.dtype == z.dtype == rounded[0]["loss"].dtype == np.float32
    assert rounded[0]["loss"] != exact[0]["loss"]
    np.testing.assert_allclose(rounded[0]["loss"], exact[0]["loss"], rtol=0.05)


def test_embedding_does_not_depend_on_the_chunks():
    state, _, embed = make(8)
    h, z = embed(state)
    assert h.shape[0] == z.shape[0] == 64
    assert np.isfinite(h).all()
    assert len(np.unique(h.round(5), axis=0)) > 32  # the padded last chunk is no constant


def plan(**changes):
    values = {
        "rounds": 3,
        "steps": 4,
        "batch_size": 16,
        "judgements": 5,
        "budget": 8,
        "at_once": 2,
        "log_every": 1,
        "save_every": 3,
    }
    return train.Plan(**(values | changes))


def fit(hooks, *, learning_rate=0.05, **changes):
    state, step, embed = make(1, learning_rate=learning_rate)
    sampler = Sampler(64, budget=20)
    end = train.fit(
        state,
        jax.random.key(0),
        sampler,
        LabelOracle(LABELS),
        IMAGES,
        step=step,
        embed=embed,
        plan=plan(**changes),
        hooks=hooks,
    )
    return end, sampler


def hooks(calls, stop=lambda: False):
    return train.Hooks(
        measure=lambda number, state, embeddings: calls.append(("round", number)),
        save=lambda state: calls.append(("save", int(state.step))),
        progress=lambda: None,
        asked=lambda spent: calls.append(("asked", spent)),
        log=lambda step, metrics: calls.append(("log", step)),
        stop=stop,
    )


def test_the_loop_asks_trains_measures_and_saves():
    calls = []
    state, sampler = fit(hooks(calls))
    assert int(state.step) == 12
    assert sampler.spent == 8  # 5, then what is left of the budget
    assert [c[1] for c in calls if c[0] == "asked"] == [2, 4, 5, 7, 8]
    assert [c for c in calls if c[0] == "round"] == [("round", 0), ("round", 1), ("round", 2)]
    assert [c[1] for c in calls if c[0] == "log"] == list(range(12))
    assert [c[1] for c in calls if c[0] == "save"] == [3, 4, 7, 8, 11, 12]
    # What was measured up to a save is logged before it.
    assert calls.index(("log", 2)) < calls.index(("save", 3)) < calls.index(("log", 3))


def test_screens_of_questions_spend_what_is_planned_and_leave_the_audit_its_share():
    state, _, embed = make(1)
    sampler = Sampler(64, budget=30, candidates=8)
    kept = plan(judgements=11, budget=22, at_once=20)
    for _ in range(3):
        train.ask(sampler, LabelOracle(LABELS), embed(state)[0], kept, hooks([]))
    assert sampler.spent == 22


def test_a_stop_in_a_round_saves_and_one_at_its_start_does_not():
    calls, polls = [], iter([False, False, True])
    with pytest.raises(Interrupted):
        fit(hooks(calls, stop=lambda: next(polls)))
    assert [c for c in calls if c[0] == "save"] == [("save", 2)]
    calls = []
    with pytest.raises(Interrupted):
        fit(hooks(calls, stop=lambda: True))
    assert calls == []


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved():
    calls = []
    with pytest.raises(UserError, match=r"learning_rate"):
        fit(hooks(calls), learning_rate=1e30)
    assert all(step < 3 for kind, step in calls if kind == "save")
