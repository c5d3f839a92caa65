"""The compiled step: one program for any number of devices and any answers."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import pal_active
from pal_jax import data, experiment, losses, models, sharding, train, views
from pal_jax.active.batches import Batch
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.sampler import Sampler
from pal_jax.errors import Interrupted, UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(64) % 4


def make(
    devices,
    *,
    fsdp=1,
    accumulate=1,
    traces=None,
    dtype="float32",
    learning_rate=0.05,
):
    """(state, step, feed, embed) of a small real model on a mesh of `devices`."""
    mesh = sharding.make_mesh(devices, fsdp=fsdp)
    moments = {"mean": np.array([0.5], np.float32), "std": np.array([0.25], np.float32)}
    model = models.build("convnet", width=16, projector=(32, 2, 16), dtype=dtype)
    apply = sharding.data_parallel(model.apply, mesh)
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
        apply=apply,
        loss=loss,
        optimizer=optimizer,
        accumulate=accumulate,
    )
    prepare = functools.partial(views.normalise, **moments)
    embed = train.make_embed(apply, prepare, IMAGES, mesh, batch_size=24)
    state = train.init_state(variables, optimizer, mesh)
    feed = train.make_feed(IMAGES, mesh)
    return state, train.compile_step(step, mesh, state), feed, embed


def key(number, state):
    """A key on the devices of `state`, which is what the loop is given."""
    mesh = jax.tree.leaves(state.params)[0].sharding.mesh
    return sharding.put_key(mesh, jax.random.key(number))


def run_steps(devices, steps=5, **options):
    state, step, feed, embed = make(devices, **options)
    rng = np.random.default_rng(1)
    values = []
    for _ in range(steps):
        batch = Batch(rng.permutation(64)[:32], rng.integers(0, 8, 32).astype(np.int32))
        state, metrics = step(state, key(7, state), *feed(batch))
        values.append(jax.device_get(metrics))
    return values, state, embed(state)


@pytest.fixture(scope="module")
def one_device():
    return run_steps(1, steps=20, learning_rate=0.01)


def test_the_devices_of_a_host_are_neighbours_whatever_their_order(monkeypatch):
    """Each host reads one stretch of rows; GPUs of two machines, or a TPU's wiring, mix them."""

    @dataclasses.dataclass(frozen=True)
    class Gpu:
        id: int
        process_index: int
        slice_index: int
        platform: str = "gpu"
        device_kind: str = "H100"

    gpus = [Gpu(number, number // 2 % 2, number // 2 % 2) for number in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: gpus)
    mesh = sharding.make_mesh(fsdp=2)
    assert mesh.shape == {"data": 4, "fsdp": 2}
    assert [gpu.process_index for gpu in mesh.devices.ravel()] == [0] * 4 + [1] * 4
    assert [gpu.id for gpu in sharding.make_mesh(4).devices.ravel()] == [0, 1, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 4), (8, 1)])
def test_any_number_of_devices_gives_the_same_run(devices, fsdp, one_device):
    values, state, embeddings = run_steps(devices, steps=20, fsdp=fsdp, learning_rate=0.01)
    expected, expected_state, expected_embeddings = one_device
    assert jax.tree.leaves(state.batch_stats)
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == devices
    chex.assert_trees_all_close(values, expected, rtol=1e-5)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)
    close(jax.device_get(state), jax.device_get(expected_state))
    close(embeddings, expected_embeddings)


def first_steps(devices, *, fsdp=1, dtype="float32"):
    """[20] metrics of the main command's first steps, which are at the full rate after 5 of them.

    Args:
        dtype: of the weights.
    """
    config = pal_active.get_config()
    config.train.warmup_steps = 5
    mesh = sharding.make_mesh(devices, fsdp=fsdp)
    pool, _ = experiment.build_data(config)
    assert isinstance(pool.inputs, np.ndarray)
    mean, std = data.channel_statistics(pool.inputs)
    model, optimizer = experiment.build_model(config), experiment.build_optimizer(config, [1500])
    variables = model.init(jax.random.key(0), jnp.zeros((2, *pool.inputs.shape[1:])))
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    state = train.init_state(variables, optimizer, mesh)
    step = functools.partial(
        train.train_step,
        views=experiment.build_views(config, mean, std, images=True),
        apply=sharding.data_parallel(model.apply, mesh),
        loss=experiment.build_loss(config),
        optimizer=optimizer,
    )
    step, feed = train.compile_step(step, mesh, state), train.make_feed(pool.inputs, mesh)
    sampler, values = Sampler(len(pool), budget=1), []
    for _ in range(20):
        batch = feed(sampler.batch(config.train.batch_size))
        state, metrics = step(state, key(7, state), *batch)
        values.append(jax.device_get(metrics))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(dtype)}
    return values


@pytest.mark.slow
def test_the_main_command_differs_on_many_devices_by_rounding_that_relus_amplify():
    """A sum in another order turns the sign of a unit here and there, and so all later steps."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        one = first_steps(1)
        for devices, fsdp in ((2, 1), (4, 4), (8, 1)):
            other = first_steps(devices, fsdp=fsdp)
            chex.assert_trees_all_close(other[0], one[0], rtol=1e-6)
            for name, rtol in (("loss", 1e-3), ("grad_norm", 2e-2)):
                actual, expected = ([step[name] for step in steps] for steps in (other, one))
                np.testing.assert_allclose(actual, expected, rtol=rtol)


class DoubleNumpy:
    """jax.numpy whose float32 is double."""

    float32 = jnp.float64

    def __getattr__(self, name):
        return getattr(jnp, name)


@pytest.mark.slow
def test_in_double_precision_the_main_command_is_the_same_on_many_devices(monkeypatch, x64):
    """So rounding is all that differs: a gradient or a moment of parts of the batch would show."""
    monkeypatch.setattr(models, "jnp", DoubleNumpy())
    monkeypatch.setitem(models.DTYPES, "float32", jnp.float64)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        one = first_steps(1, dtype="float64")
        for devices, fsdp in ((4, 4), (8, 1)):
            other = first_steps(devices, fsdp=fsdp, dtype="float64")
            chex.assert_trees_all_close(other, one, rtol=1e-12)


def bytes_of(tree, device):
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


def test_the_step_does_not_sort_the_groups_that_the_sampler_has_numbered():
    state, step, feed, _ = make(2)
    batch = feed(Batch(np.arange(32), np.zeros(32, np.int32)))
    program = step.lower(state, key(0, state), *batch).compile().as_text()  # pyright: ignore[reportFunctionMemberAccess]
    assert " all-reduce(" in program
    assert " sort(" not in program


def test_fsdp_splits_weights_and_optimiser_state_and_keeps_them_split():
    state, step, feed, _ = make(8, fsdp=4)
    after, _ = step(state, key(0, state), *feed(Batch(np.arange(32), np.zeros(32, np.int32))))
    whole, *_ = make(1)
    for part in ("params", "opt_state"):
        total = bytes_of(getattr(whole, part), jax.devices()[0])
        for device in jax.devices():
            assert bytes_of(getattr(after, part), device) < 1.05 * total / 4


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 2)])
def test_a_batch_in_parts_is_the_same_batch(devices, fsdp):
    """Without BatchNorm exactly; the loss, which couples all rows, never sees a part."""
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(6, 16)).astype(np.float32)}
    x = rng.normal(size=(64, 6)).astype(np.float32)
    groups = rng.integers(0, 20, 64).astype(np.int32)

    def encode(variables, x, train):
        z = jnp.tanh(x @ variables["params"]["W"])
        return z, z, {}

    def after_a_step(devices, fsdp, accumulate):
        mesh, optimizer = sharding.make_mesh(devices, fsdp=fsdp), optax.sgd(0.1)
        state = train.init_state({"params": params}, optimizer, mesh)
        step = functools.partial(
            train.train_step,
            views=lambda key, x: jnp.concatenate([x, 0.9 * x, x[:, ::-1]]),
            apply=sharding.data_parallel(encode, mesh),
            loss=functools.partial(losses.simclr, temperature=0.3),
            optimizer=optimizer,
            accumulate=accumulate,
        )
        batch = train.make_feed(x, mesh)(Batch(np.arange(64), groups))
        state, metrics = train.compile_step(step, mesh, state)(state, key(0, state), *batch)
        return jax.device_get((state.params, metrics))

    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
    close(after_a_step(devices, fsdp, accumulate=4), after_a_step(1, 1, accumulate=1))


def test_the_running_moments_of_parts_are_those_of_the_whole():
    """Each part moves them from where they were before the step, and their mean counts."""
    _, whole, _ = run_steps(1, steps=1)
    _, parts, _ = run_steps(1, steps=1, accumulate=4)
    before, *_ = make(1)
    flat = [jax.tree.leaves(jax.device_get(s.batch_stats)) for s in (before, whole, parts)]
    # The first layer sees the same input in both: its means agree, and all have moved as far.
    np.testing.assert_allclose(flat[2][0], flat[1][0], rtol=1e-4, atol=1e-6)
    for start, one, other in zip(*flat, strict=True):
        ratio = np.linalg.norm(other - start) / np.linalg.norm(one - start)
        assert 0.7 < ratio < 1.4


def temporary_bytes(accumulate, samples=1024):
    state, step, *_ = make(8, accumulate=accumulate)
    inputs = jax.ShapeDtypeStruct((samples, *IMAGES.shape[1:]), np.uint8)
    groups = jax.ShapeDtypeStruct((samples,), np.int32)
    lower = step.lower  # pyright: ignore[reportFunctionMemberAccess]
    program = lower(state, key(0, state), inputs, groups).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_parts_need_less_memory():
    assert temporary_bytes(8) < 0.25 * temporary_bytes(1)


def test_new_answers_never_recompile():
    traces = []
    run_steps(8, steps=4, traces=traces)
    assert traces == [(64, 16)]


def test_the_batch_is_split_and_the_state_is_donated():
    state, step, feed, _ = make(8)
    inputs, groups = feed(Batch(np.arange(32)[::-1], np.arange(32, dtype=np.int32)))
    np.testing.assert_array_equal(inputs, IMAGES[31::-1])
    assert len({s.device for s in inputs.addressable_shards}) == 8
    assert inputs.addressable_shards[0].data.shape[0] == 4
    step(state, key(0, state), inputs, groups)
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
        state, step, feed, _ = make(1)
        batch = feed(Batch(np.arange(32), groups.astype(np.int32)))
        state, _ = step(state, key(0, state), *batch)
        ends.append(jax.device_get(state.params))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(*ends, rtol=1e-6)


def test_views_depend_on_key_and_step_only():
    values = []
    fresh, step, feed, _ = make(1)
    for number, start in ((0, 0), (0, 0), (1, 0), (0, 1)):
        state = jax.tree.map(jnp.copy, fresh)
        state = dataclasses.replace(state, step=state.step + start)
        batch = feed(Batch(np.arange(32), np.arange(32, dtype=np.int32)))
        _, metrics = step(state, key(number, state), *batch)
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
    state, _, _, embed = make(8)
    h, z = embed(state)
    assert h.shape[0] == z.shape[0] == 64
    assert np.isfinite(h).all()
    assert len(np.unique(h.round(5), axis=0)) > 32  # the padded last chunk is no constant


def plan(**changes):
    values = {
        "rounds": 3,
        "first": 4,
        "steps": 4,
        "batch_size": 16,
        "judgements": 5,
        "budget": 8,
        "stop": 0.0,
        "at_once": 2,
        "log_every": 1,
        "save_every": 3,
    }
    return train.Plan(**(values | changes))


def buy(sampler, embeddings, plan, number=1, asked=None, stop=lambda: False):
    asked = [] if asked is None else asked
    oracle = LabelOracle(LABELS)
    train.buy_round(sampler, oracle, embeddings, plan, number, asked=asked.append, stop=stop)


def test_asking_ends_once_the_bound_is_high_enough():
    z = np.eye(4)[LABELS] * 20 + np.random.default_rng(0).normal(size=(len(LABELS), 4))
    sampler = Sampler(len(LABELS), budget=1_000)
    enough = plan(judgements=60, budget=1_000, stop=0.9)
    spent = []
    for _ in range(6):
        buy(sampler, z, enough)
        spent.append(sampler.spent)
    assert spent[-1] == spent[-2] < 200  # the later rounds bought nothing
    audit = sampler.audit(LabelOracle(LABELS), z, 0)
    assert audit is not None
    assert audit.estimated_accuracy_low >= 0.9


def fit(hooks, *, asked=None, learning_rate=0.05, **changes):
    state, step, feed, embed = make(1, learning_rate=learning_rate)
    sampler, whole = Sampler(64, budget=20), plan(**changes)
    end = train.fit(
        state,
        key(0, state),
        sampler,
        lambda number, embeddings: buy(sampler, embeddings, whole, number, asked),
        step=step,
        feed=feed,
        embed=embed,
        plan=whole,
        hooks=hooks,
    )
    return end, sampler


def hooks(calls, stop=lambda: False):
    return train.Hooks(
        measure=lambda number, state, embeddings: calls.append(("round", number)),
        save=lambda state: calls.append(("save", int(jax.device_get(state.step)))),
        progress=lambda: None,
        log=lambda step, metrics: calls.append(("log", step)),
        stop=stop,
    )


def test_the_loop_asks_trains_measures_and_saves():
    calls, asked = [], []
    state, sampler = fit(hooks(calls), asked=asked)
    assert int(state.step) == 12
    assert sampler.spent == 8  # 5, then what is left of the budget
    assert asked == [2, 4, 5, 7, 8]
    assert [c for c in calls if c[0] == "round"] == [("round", 0), ("round", 1), ("round", 2)]
    assert [c[1] for c in calls if c[0] == "log"] == list(range(12))
    assert [c[1] for c in calls if c[0] == "save"] == [3, 4, 7, 8, 11, 12]
    # What was measured up to a save is logged before it.
    assert calls.index(("log", 2)) < calls.index(("save", 3)) < calls.index(("log", 3))


def test_the_first_round_may_be_longer_than_the_others():
    calls, asked = [], []
    state, _ = fit(hooks(calls), asked=asked, first=7, steps=2, save_every=100)
    assert int(state.step) == 11
    assert [c[1] for c in calls if c[0] == "save"] == [7, 9, 11]
    assert asked == [2, 4, 5, 7, 8]
    longer = plan(first=7, steps=2)
    places = [longer.place(step) for step in range(longer.total + 1)]
    counted = [(n, i) for n in range(3) for i in range(longer.length(n))]
    assert places == [*counted, (3, 0)]


def train_round(state, steps, step, feed):
    train._train_round(
        state,
        key(0, state),
        Sampler(64, budget=20),
        range(steps),
        step=step,
        feed=feed,
        plan=plan(save_every=100),
        hooks=hooks([]),
    )


def test_the_host_waits_for_no_step_before_it_has_dispatched_the_next():
    """A step of half a second is still under way at the next batch, and at the next step."""
    under_way, metrics = {"feed": [], "step": []}, None

    def look(place):
        if metrics is not None:
            under_way[place].append(not metrics["loss"].is_ready())

    @jax.jit
    def slow(state, key, inputs, groups):
        x = jnp.full((256, 256), state.step.astype(jnp.float32))
        loss = jax.lax.fori_loop(0, 1000, lambda _, x: jnp.tanh(x @ x), x).sum()
        return dataclasses.replace(state, step=state.step + 1), {"loss": loss, "grad_norm": loss}

    def step(*arguments):
        nonlocal metrics
        look("step")
        state, metrics = slow(*arguments)
        return state, metrics

    state, _, feed, _ = make(1)

    def watched_feed(batch):
        look("feed")
        return feed(batch)

    train_round(state, 6, step, watched_feed)
    for place in ("feed", "step"):
        assert len(under_way[place]) == 5
        assert sum(under_way[place]) >= 3  # of five: a busy machine may keep the host waiting


def test_a_batch_that_did_not_cross_by_itself_ends_the_round():
    """What stands around the step in the loop, not in a test, forbids all that is implicit."""
    state, step, feed, _ = make(1)
    with pytest.raises(RuntimeError, match="host-to-device"):
        train_round(state, 2, step, lambda batch: jax.device_get(feed(batch)))


def test_nothing_crosses_to_the_devices_unasked(monkeypatch):
    """All of the loop runs with implicit transfers forbidden, and the guard does bite."""
    with jax.transfer_guard("disallow"), pytest.raises(RuntimeError, match="host-to-device"):
        _ = jnp.zeros(2) + np.ones(2, np.float32)
    calls = []
    state, step, feed, embed = make(8)
    device_key = key(0, state)
    with jax.transfer_guard("disallow"):
        state = train._train_round(
            state,
            device_key,
            Sampler(64, budget=20),
            range(6),
            step=step,
            feed=feed,
            plan=plan(),
            hooks=hooks(calls),
        )
        embed(state)
    assert [c[1] for c in calls if c[0] == "log"] == list(range(6))


def test_screens_of_questions_spend_what_is_planned_and_leave_the_audit_its_share():
    state, _, _, embed = make(1)
    sampler = Sampler(64, budget=30, candidates=8)
    kept = plan(judgements=11, budget=22, at_once=20)
    for _ in range(3):
        buy(sampler, embed(state)[0], kept)
    assert sampler.spent == 22


def test_a_stop_ends_the_asking():
    sampler, polls = Sampler(64, budget=20), iter([False, False, True])
    embeddings = np.random.default_rng(0).normal(size=(64, 3))
    with pytest.raises(Interrupted):
        buy(sampler, embeddings, plan(at_once=1), stop=lambda: next(polls))
    assert sampler.spent == 2


def test_a_stop_in_a_round_saves_and_one_at_its_start_does_not():
    calls, polls = [], iter([False, False, True])
    with pytest.raises(Interrupted):
        fit(hooks(calls, stop=lambda: next(polls)))
    assert [c for c in calls if c[0] == "save"] == [("save", 2)]
    calls = []
    with pytest.raises(Interrupted):
        fit(hooks(calls, stop=lambda: True))
    assert calls == []


def test_weights_that_a_last_step_ruins_end_the_run_before_they_are_measured_or_saved():
    calls = []
    with pytest.raises(UserError, match=r"diverged at step 0 \(its embedding is not finite\)"):
        fit(hooks(calls), learning_rate=1e38, rounds=1, first=1)
    assert calls == [("log", 0)]


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved():
    calls = []
    with pytest.raises(UserError, match=r"learning_rate"):
        fit(hooks(calls), learning_rate=1e30)
    assert all(step < 3 for kind, step in calls if kind == "save")


def test_a_state_is_never_saved_that_a_step_without_a_log_has_ruined():
    calls = []
    with pytest.raises(UserError, match=r"diverged at step 2"):
        fit(hooks(calls), learning_rate=1e30, first=8, log_every=100)
    assert calls == [("log", 0)]
