"""From configs to objects: every config builds, every option is read, labels keep their place."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from pal_jax import data, experiment, graph, models, run, workdir
from pal_jax.active.oracles import AnswerFile
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.errors import UserError
from tests import references

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem[0] != "_")
SHAPES = {"fashion": (28, 28, 1), "cifar": (32, 32, 3)}


class Recorder:
    """A config that remembers which of its values were asked for by name."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getattr__(self, name):
        value = self._config[name]
        if isinstance(value, ConfigDict):
            return Recorder(value, self._read, f"{self._prefix}{name}.")
        self._read.add(self._prefix + name)
        return value

    __getitem__ = __getattr__

    def __contains__(self, name):
        return name in self._config

    def keys(self):
        return self._config.keys()

    def to_dict(self):
        return self._config.to_dict()


def get_config(name):
    return importlib.import_module(f"configs.{name}").get_config()


def npz(path, shape):
    """An npz of 640 samples of noise, and the name that data.name takes for it."""
    rng = np.random.default_rng(0)
    dtype = np.uint8 if len(shape) == 3 else np.float32
    x = rng.integers(0, 255, (640, *shape)).astype(dtype)
    np.savez(path, x=x, y=rng.integers(0, 10, 640))
    return f"arrays:{path}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name, tmp_path):
    config = get_config(name)
    shape = SHAPES.get(name.split("_")[0])
    if shape:
        config.data.name = npz(tmp_path / "x.npz", shape)
        config.data.limit = 0
        config.data.test_split = ""
        config.train.batch_size = min(512, config.train.batch_size)
    run = experiment.build(config.lock(), str(tmp_path / "run"))
    run.journal.close()  # pyright: ignore[reportOptionalMemberAccess]
    assert run.plan.total == config.train.steps


@pytest.mark.parametrize(
    ("steps", "rounds", "first", "expected"),
    [
        (600, 10, 0.0, (60, 60)),
        (601, 10, 0.0, (61, 60)),
        (1500, 10, 0.8, (1203, 33)),
        (3, 3, 0.8, (1, 1)),
        (5, 1, 0.5, (5, 5)),
    ],
)
def test_the_first_round_has_its_share_of_the_steps(steps, rounds, first, expected):
    config = get_config("default")
    config.train.update({"steps": steps, "rounds": rounds, "first": first})
    plan = experiment.build_plan(config)
    assert (plan.first, plan.total) == (expected[0], steps)
    assert plan.steps == expected[1] or rounds == 1


def test_a_raised_budget_adds_rounds_of_the_pace_of_the_first():
    config = get_config("default")
    config.train.update({"steps": 1500, "rounds": 10, "first": 0.8})  # 400 answers, 40 a round
    first = experiment.build_plan(config)
    config.asking.budget = 600
    plan = experiment.build_plan(config, [400])
    assert (plan.rounds, plan.judgements, plan.ends) == (14, 40, [1500, 1632])
    assert [plan.length(k) for k in (0, 1, 13)] == [first.length(0), first.steps, first.steps]
    assert [plan.budget_of(k) for k in (1, 9, 10, 13)] == [360, 360, 560, 560]
    assert [k for k in range(14) if plan.follows_an_end(k)] == [10]
    config.asking.per_round = 40  # 9 rounds of 40 spend the first budget, if not that of today
    assert experiment.build_plan(config, [400]).rounds == 14
    with pytest.raises(UserError, match=r"per_round=40 in 9 rounds spends less than .*=600"):
        experiment.build_plan(config)


def test_the_rate_falls_to_nothing_at_each_end_and_warms_up_once():
    config = get_config("default")
    config.train.update({"steps": 100, "warmup_steps": 10, "learning_rate": 1.0})
    once = experiment.build_rate(config, [100])
    raised = experiment.build_rate(config, [100, 120, 320])
    with jax.numpy_dtype_promotion("standard"):  # optax compares integers with floats
        rates = np.array(jax.vmap(raised)(jnp.arange(320)))
        first = np.array(jax.vmap(once)(jnp.arange(100)))
    np.testing.assert_array_equal(rates[:100], first)
    np.testing.assert_array_equal(rates[100:120], first[80:])
    np.testing.assert_array_equal(rates[120:220], np.ones(100, np.float32))
    np.testing.assert_array_equal(rates[230:], first[10:])


@pytest.mark.slow
def test_every_option_is_read(tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"anchor": 0, "candidates": [1], "relations": ["alike"], "oracle": "me"}\n')
    variants = [
        {},
        {"loss.name": "simclr", "oracle.name": "noisy"},
        {"loss.name": "barlow_twins", "oracle.name": "file", "oracle.file": str(answers)},
        {"oracle.name": "program", "oracle.command": "true"},
        {"model.encoder": "mlp", "data.name": npz(tmp_path / "x.npz", (5,))},
        {"loss.name": "vicreg_squared", "data.holdout": 0.2},
        {"loss.name": "barlow_twins_squared", "model.encoder": "resnet18"},
    ]
    read = set()
    for number, changes in enumerate(variants):
        config = get_config("default")
        config.update_from_flattened_dict(changes)
        experiment.build(Recorder(config, read), str(tmp_path / str(number))).journal.close()  # pyright: ignore[reportOptionalMemberAccess]
    assert set(workdir.flatten(get_config("default").to_dict())) == read


@pytest.mark.parametrize(("amount", "count"), [(0.1, 100), (1.0, 1000), (7, 7), (30, 30)])
def test_known_labels_are_true_and_spread_over_the_classes(amount, count):
    labels = np.repeat(np.arange(5), 200)
    known = experiment.known_labels(labels, amount, seed=3)
    assert known is not None
    chosen = known >= 0
    assert chosen.sum() == count
    np.testing.assert_array_equal(known[chosen], labels[chosen])
    sizes = np.bincount(known[chosen], minlength=5)
    assert sizes.max() - sizes.min() <= 1
    other = experiment.known_labels(labels, amount, seed=4)
    assert other is not None
    assert (count == 1000) == np.array_equal(known, other)


def test_a_rare_class_gives_what_it_has():
    labels = np.array([0] * 50 + [1] * 2)
    known = experiment.known_labels(labels, 20, seed=0)
    assert known is not None
    assert (known == 1).sum() == 2
    assert (known == 0).sum() == 18


def test_biases_and_norms_do_not_decay():
    config = get_config("default")
    config.train.weight_decay = 0.5
    config.train.warmup_steps = 1
    params = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    zero = jax.tree.map(np.zeros_like, params)
    for name in experiment.OPTIMIZERS:
        config.train.optimizer = name
        optimizer = experiment.build_optimizer(config, [config.train.steps])
        state = optimizer.init(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            _, state = optimizer.update(zero, state, params)
            updates, _ = optimizer.update(zero, state, params)
        moved = jax.tree.map(lambda u: bool(np.abs(u).max() > 0), updates)
        assert moved == {"kernel": True, "bias": False}, name


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins"])
def test_a_loss_of_views_is_told_how_many_there_are(rng, name):
    config = get_config("default")
    config.loss.name, config.views.count = name, 3
    z = rng.normal(size=(12, 4)) + np.repeat(rng.normal(size=(3, 4)), 4, axis=0)
    ids = np.tile([0, 1, 1, 2], 3)
    g = references.graph_of_groups(ids)
    actual = experiment.build_loss(config)(jnp.asarray(z, jnp.float32), graph.from_groups(ids))
    reference = getattr(references, name)
    options = dict(config.loss[name])
    np.testing.assert_allclose(actual, reference(z, g, views=3, **options), rtol=1e-4)
    assert abs(reference(z, g, views=1, **options) / actual - 1) > 1e-3


def vit_params():
    """The parameters of a small ViT, all ones."""
    model = models.build("vit_s", width=64, projector=(16, 2, 8), dtype="float32", patch=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((2, 8, 8, 3), np.float32))
    return jax.tree.map(lambda shape: np.ones(shape.shape, np.float32), shapes["params"])


@pytest.mark.parametrize("name", experiment.OPTIMIZERS)
def test_the_biases_of_an_attention_are_biases(name):
    """They are [heads, 64]; they neither decay nor have a trust ratio, and move at bias_rate."""
    config = get_config("default")
    config.train.update({"optimizer": name, "weight_decay": 0.5, "warmup_steps": 1})
    params = vit_params()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    biases = np.array([path[-1].key in ("bias", "scale") for path in paths])
    ranks = np.array([leaf.ndim for leaf in jax.tree.leaves(params)])
    assert set(ranks[biases]) == {1, 2}

    def updates(gradients, bias_rate):
        config.train.bias_rate = bias_rate
        optimizer = experiment.build_optimizer(config, [config.train.steps])
        state, moved = optimizer.init(params), None
        with jax.numpy_dtype_promotion("standard"):
            for _ in range(2):
                moved, state = optimizer.update(gradients, state, params)
        return np.array([np.abs(leaf).max() for leaf in jax.tree.leaves(moved)])

    decay = updates(jax.tree.map(np.zeros_like, params), 1.0)
    np.testing.assert_array_equal(decay == 0, biases)
    one, tenth = updates(params, 1.0), updates(params, 0.1)
    np.testing.assert_allclose(tenth, np.where(biases, 0.1 * one, one), rtol=1e-6)
    if name == "lars":  # of a gradient of ones, twice with momentum: the rate itself
        assert len(np.unique(one[biases])) == 1


def test_biases_and_norms_can_have_a_rate_of_their_own():
    """0.0048 where kernels have 0.2, as in the paper of Barlow Twins: LARS leaves vectors alone."""
    config = get_config("imagenet.resnet50_barlow_twins")
    config.train.warmup_steps = 1
    params = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    moved, updates = [], None
    for rate in (1.0, config.train.bias_rate):
        config.train.bias_rate = rate
        optimizer = experiment.build_optimizer(config, [config.train.steps])
        state = optimizer.init(params)
        with jax.numpy_dtype_promotion("standard"):
            for _ in range(2):
                updates, state = optimizer.update(params, state, params)
        moved.append(jax.device_get(updates))
    np.testing.assert_allclose(moved[1]["kernel"], moved[0]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(moved[1]["bias"], 0.024 * moved[0]["bias"], rtol=1e-6)
    np.testing.assert_allclose(moved[0]["bias"], -config.train.learning_rate, rtol=1e-6)


def test_prior_answers_are_not_taken_for_those_of_whoever_answers_now(tmp_path):
    """Whose name they bear, and how far they are believed, is said for them alone."""
    path = tmp_path / "prior.jsonl"
    path.write_text(
        '{"anchor": 0, "candidates": [1], "relations": ["alike"], "oracle": "labels"}\n'
    )
    config = get_config("pal_active")
    config.oracle.prior = str(path)
    nine = data.Dataset("nine", np.zeros((9, 2), np.float32), np.arange(9).astype(str))
    (answer,) = experiment.build_prior(config, nine).answers
    assert answer.oracle == "prior:labels"
    sampler = experiment.build_sampler(
        config, 9, None, [answer], strategy="most_informative", journal=None
    )
    assert sampler.trust.of("labels") == 0.0
    assert sampler.trust.of(answer.oracle) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "changes"),
    [
        ({7: 1}, {}),
        ({60: 0, 61: 1}, {"data.limit": 48}),
        ({3: 0, 4: 1, 5: 1}, {"data.holdout": 0.1}),
        ({k: k % 2 for k in range(1, 30)}, {"evaluate.limit": 3}),
    ],
    ids=["one", "none after the limit", "none held out", "none looked at"],
)
def test_a_run_with_hardly_any_labels_ends_with_what_can_be_measured(tmp_path, known, changes):
    y = np.full(64, -1)
    y[list(known)] = list(known.values())
    x = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    config = get_config("ssl")
    small = {
        "data.name": f"arrays:{tmp_path}/x.npz", "data.holdout": 0.0, "model.encoder": "mlp",
        "model.width": 8, "model.projector": (8, 2, 8), "train.batch_size": 16,
        "train.rounds": 2, "train.steps": 4, "train.warmup_steps": 1,
    }  # fmt: skip
    config.update_from_flattened_dict(small | changes)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run.execute(experiment.build(config, str(tmp_path / "run")), lambda: False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert np.isfinite(summary["effective_rank"])
    assert ("knn_accuracy" in summary) == (changes == {"data.holdout": 0.1})
    assert ("partition_accuracy" in summary) == (
        "evaluate.limit" in changes or "data.holdout" in changes
    )


def test_a_run_goes_on_by_another_path_to_the_same_data_and_says_what_is_other(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    for name, rows in (("one", x), ("two", x), ("more", np.vstack([x, x])), ("other", x + 1)):
        np.savez(tmp_path / f"{name}.npz", x=rows)
    config = get_config("ssl")
    config.model.encoder, config.train.batch_size, config.data.holdout = "mlp", 8, 0.0

    def build(name):
        config.data.name = f"arrays:{tmp_path}/{name}.npz"
        experiment.build(config, str(tmp_path / "run")).journal.close()  # pyright: ignore[reportOptionalMemberAccess]

    build("one")
    build("two")
    with pytest.raises(UserError, match=r"its data were others, 20 samples and not 40; .*prior"):
        build("more")
    with pytest.raises(UserError, match=r"its data were others; choose another --workdir"):
        build("other")


def test_a_workdir_may_lie_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.locate("~/run", "") == (tmp_path / "run", tmp_path / "run")
    assert workdir.locate("here", "~/journal") == (Path("here"), tmp_path / "journal")


def test_a_raised_budget_is_written_by_who_holds_the_journal_and_is_none_where_nobody_asks(
    tmp_path,
):
    np.savez(tmp_path / "x.npz", x=np.arange(60, dtype=np.float32).reshape(20, 3))
    config = get_config("default")
    config.update_from_flattened_dict(
        {"data.name": f"arrays:{tmp_path}/x.npz", "model.encoder": "mlp", "train.batch_size": 8,
         "oracle.name": "program", "oracle.command": "true",
         "checkpoint.journal": f"{tmp_path}/journal"}
    )  # fmt: skip
    stamps = tmp_path / "run" / "config.json", tmp_path / "journal" / "journal.json"

    def build(budget, folder="run"):
        config.asking.budget = budget
        return experiment.build(config, str(tmp_path / folder))

    def close(built):
        assert built.journal is not None
        built.journal.close()

    first = build(400)
    with pytest.raises(UserError, match="in use by another process"):
        build(600)
    assert [json.loads(stamp.read_text()).get("raised_from") for stamp in stamps] == [None, None]
    close(first)
    for _ in range(2):
        close(build(600))
        assert [json.loads(stamp.read_text())["raised_from"] for stamp in stamps] == [[400], [400]]
    config.oracle.name = "none"
    config.checkpoint.journal = ""
    close(build(400, "ssl"))
    with pytest.raises(UserError, match=r"asking\.budget is 400 there and 600 here; choose"):
        build(600, "ssl")


def test_a_run_goes_on_with_the_prior_answers_that_it_began_with(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.arange(60, dtype=np.float32).reshape(20, 3))
    config = get_config("ssl")
    config.update_from_flattened_dict(
        {"data.name": f"arrays:{tmp_path}/x.npz", "data.holdout": 0.0, "model.encoder": "mlp",
         "train.batch_size": 8, "oracle.prior": f"{tmp_path}/prior.jsonl"}
    )  # fmt: skip

    def build(folder, said, space=""):
        line = (
            f'{{"anchor": 0, "candidates": [1],{space} "relations": ["{said}"], "oracle": "me"}}\n'
        )
        (tmp_path / "prior.jsonl").write_text(line)
        experiment.build(config, str(tmp_path / folder)).journal.close()  # pyright: ignore[reportOptionalMemberAccess]
        return json.loads((tmp_path / folder / "config.json").read_text())

    first = build("run", "alike")
    build("run", "alike", "  ")  # the same answers, written otherwise
    with pytest.raises(
        UserError, match=r"run belongs to another run: its oracle\.prior held other"
    ):
        build("run", "not alike")
    told = workdir.disagreement(first, build("other", "not alike"))
    assert told is not None
    assert told.startswith("process 0 has data.prior=")


def test_what_may_be_unexpected_of_the_data_is_told(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for k in range(4):
            Image.new("RGB", (9, 9), (60 * k, 9, 9)).save(tmp_path / folder / f"{k}.png")
    (tmp_path / "a" / "old.tif").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("")
    config = get_config("ssl")
    config.data.name = f"folder:{tmp_path}"
    config.data.holdout = 0.0
    pool, _ = experiment.build_data(config)
    assert pool.class_names == ("a", "b")
    skipped, classes = experiment.notes(config, pool, {})
    assert "1 files or folders are left out, such as a/old.tif: not bmp" in skipped
    assert "2 subfolders (a, b) are taken for classes" in classes
    config.data.labels = False
    pool, _ = experiment.build_data(config)
    assert pool.labels is None
    answers = [Answer(Question(0, (1,)), (Relation.ALIKE,), "me")] * 3_000
    prior = AnswerFile(answers, range(1, 3_001))
    _, told = experiment.notes(config, pool, {"prior": prior})
    assert "of 3,000 prior answers 1,000 are believed" in told
    assert prior.evenly(1_000).lines[::999] == [1, 3_000]


def test_answers_about_samples_that_are_not_here_are_told(tmp_path):
    path = tmp_path / "answers.jsonl"
    said = {"anchor": 0, "candidates": [9], "relations": ["alike"], "oracle": "me"}
    names = (["0", "1"], ["8", "9"], ["2", "3"], ["nobody", "0"])
    lines = [json.dumps(said | {"names": pair}) + "\n\n" for pair in names]
    path.write_text("\ufeff" + "".join(lines))
    nine = data.Dataset("nine", np.arange(9.0)[:, None], np.arange(9).astype(str))
    config = get_config("pal_active")
    config.oracle.prior = config.oracle.file = str(path)
    config.oracle.name = "file"
    prior, make_oracle = experiment.build_prior(config, nine), experiment.build_oracle(config, nine)
    assert prior.lines == [1, 5]
    files = experiment.answer_files(prior, make_oracle)
    told = f"2 of 4 answers in {path} are about samples that are not here"
    assert experiment.notes(config, nine, files) == (told, told)
    path.write_text("".join(lines) + json.dumps(said))  # by number, and there is no tenth
    files = experiment.answer_files(AnswerFile(), experiment.build_oracle(config, nine))
    assert experiment.notes(config, nine, files) == (told.replace("2 of 4", "3 of 5"),)


def test_the_batch_of_all_and_of_each_device_are_facts_of_a_run():
    config = get_config("ssl")
    config.train.batch_size = 96
    assert experiment.facts(config)["batch"] == "96 samples a step, 12 on each device"  # of 8


def test_of_a_large_pool_a_part_is_measured_and_this_is_told():
    config = get_config("ssl")

    def pool(samples):
        inputs = np.arange(samples, dtype=np.float32)[:, None]
        return data.Dataset("large", inputs, np.arange(samples).astype(str))

    assert experiment.notes(config, pool(20_000), {}) == ()
    (told,) = experiment.notes(config, pool(20_001), {})
    assert "20,000 of the 20,001 samples" in told
    config.evaluate.limit = 0
    assert experiment.notes(config, pool(20_001), {}) == ()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_samples_that_are_all_the_same_are_told(dtype):
    config = get_config("ssl")
    inputs = np.full((9, 4, 4, 1) if dtype is np.uint8 else (9, 3), 7, dtype)
    pool = data.Dataset("nine", inputs, np.arange(9).astype(str))
    (told,) = experiment.notes(config, pool, {})
    assert told.startswith("all 9 samples of digits are the same")
    inputs[8] = 6
    assert experiment.notes(config, pool, {}) == ()


@pytest.mark.parametrize(
    ("oracle", "given", "rate"),
    [("labels", None, 0.0), ("program", None, None), ("noisy", None, None), ("file", 0.1, 0.1),
     ("labels", -1.0, None), ("program", 0.0, 0.0)],
)  # fmt: skip
def test_true_labels_alone_are_taken_for_right(oracle, given, rate):
    config = get_config("pal_active")
    config.oracle.name, config.asking.error_rate = oracle, given
    experiment.check(config)
    sampler = experiment.build_sampler(config, 9, None, [], strategy="random", journal=None)
    assert sampler.trust.error_rate == rate


@pytest.mark.parametrize("devices", [3, 8])
def test_batches_must_split_over_the_devices(devices):
    config = get_config("default")
    config.train.batch_size = 100
    with pytest.raises(UserError, match=f"{devices} devices"):
        experiment.check_sizes(config, 1000, devices)


def test_a_workdir_goes_on_only_with_its_own_run(tmp_path):
    config = get_config("ssl")
    experiment.build(config, str(tmp_path)).journal.close()  # pyright: ignore[reportOptionalMemberAccess]
    stamp = json.loads((tmp_path / "config.json").read_text())
    assert stamp["config"]["graph.labelled"] == 0.0
    config.data.data_dir = "elsewhere"
    config.checkpoint.every = 7
    config.train.fsdp = 2
    experiment.build(config, str(tmp_path)).journal.close()  # pyright: ignore[reportOptionalMemberAccess]
    config.graph.labelled = 0.3
    with pytest.raises(UserError, match=r"graph\.labelled is 0\.0 there and 0\.3 here"):
        experiment.build(config, str(tmp_path))
