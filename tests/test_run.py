"""The real command, from start to files, stopped at any moment and started again."""

import contextlib
import dataclasses
import html
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from tqdm import tqdm

from configs import pal_active
from pal_jax import data, evaluate, experiment, export, report, run
from pal_jax.active.journal import Journal
from pal_jax.active.questions import Answer, Relation
from pal_jax.active.sampler import Partition
from pal_jax.checkpoint import Checkpoints
from pal_jax.errors import Interrupted, UserError

ROOT = Path(__file__).parent.parent
# Small enough for a test: 300 digits, 4 rounds of 30 steps, 40 judgements, a refit every 7.
SMALL = [
    "--config=configs/pal_active.py",
    "--config.data.limit=300",
    "--config.train.batch_size=64",
    "--config.train.rounds=4",
    "--config.train.steps=120",
    "--config.train.first=0",
    "--config.train.warmup_steps=10",
    "--config.asking.budget=40",
    "--config.asking.audit=10",
    "--config.asking.refit=7",
    "--config.oracle.name=noisy",
    "--config.checkpoint.every=11",
    "--config.model.width=16",
]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """What one start of main.py compiled serves the next: the compiler is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def start(folder, *options):
    command = [sys.executable, "main.py", *SMALL, f"--workdir={folder}", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder, *options):
    process = start(folder, *options)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def files(folder):
    """What a user takes home, without the seconds it took."""
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("seconds")
    report, times = re.subn(
        r"(<dt>Time</dt><dd>)[^<]*", r"\1", (folder / "report.html").read_text()
    )
    assert times == 1
    names = (
        "metrics.jsonl",
        "answers.jsonl",
        "partition.csv",
        "contradictions.csv",
        "embeddings.npz",
        "config.json",
    )
    return {name: (folder / name).read_bytes() for name in names} | {
        "summary": summary,
        "report": report,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, table) of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(folder)


@pytest.mark.slow
def test_a_run_leaves_every_file(whole):
    folder, table = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["samples"] == 300
    assert summary["judgements"] == 40
    assert summary["groups"] >= 2
    assert 0.0 <= summary["error_rate"] < 0.5
    for name in ("partition_accuracy", "ari", "nmi", "knn_accuracy", "probe_accuracy"):
        assert 0 < summary[name] <= 1, name
    assert 0 <= summary["estimated_accuracy_low"] < summary["estimated_accuracy"] <= 1
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 40
    assert len((folder / "partition.csv").read_text().splitlines()) == 301
    with np.load(folder / "embeddings.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"ids", "h", "z"}
        assert len(arrays["ids"]) == len(arrays["h"]) == len(arrays["z"]) == 300
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "round" in line] == [0, 1, 2, 3]
    assert [line["judgements"] for line in lines if "round" in line] == [0, 10, 20, 30]
    assert list((folder / "tensorboard").iterdir())
    batch = "64 samples a step, 64 on each device"
    assert f"{batch} of 1 x cpu\n" in table
    assert batch in (folder / "report.html").read_text()
    assert "<svg" in (folder / "report.html").read_text()
    assert re.search(r"round +judgements +groups +partition accuracy +kNN accuracy +loss", table)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"it never came so far: {process.communicate()}")


def metrics_lines(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def answers(folder):
    path = folder / "journal.sqlite"
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_anywhere_it_ends_as_if_it_never_stopped(whole, tmp_path):
    folder = tmp_path / "run"
    stops = [
        (signal.SIGKILL, lambda: (folder / "config.json").exists()),
        (signal.SIGKILL, lambda: metrics_lines(folder) >= 2),
        (signal.SIGTERM, lambda: metrics_lines(folder) >= 5),
        (signal.SIGKILL, lambda: metrics_lines(folder) >= 7),
        (signal.SIGINT, lambda: metrics_lines(folder) >= 10),
        (signal.SIGKILL, lambda: (folder / "embeddings.npz").exists()),
    ]
    acknowledged = []
    for number, condition in stops:
        process = start(folder)
        wait_for(condition, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
        if answers(folder):
            journal = Journal(folder / "journal.sqlite")
            now = journal.answers()
            journal.close()
            assert now[: len(acknowledged)] == acknowledged
            acknowledged = now
    finish(folder)
    expected = files(whole[0])
    actual = files(folder)
    for name, content in expected.items():
        assert actual[name] == content, name


class Died(BaseException):
    """As sudden as a kill, for one process that tests many of them."""


WRITES = [
    (Journal, "append"),
    (Checkpoints, "save"),
    (run.Record, "add"),
    (export, "write_json"),
    (export, "write_answers"),
    (export, "write_partition"),
    (export, "write_embeddings"),
    (report, "write"),
]


def tiny_config(npz):
    """A config of a second, and its data in `npz`: 64 samples of 5 features in three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 3
    x = (4 * rng.normal(size=(3, 5))[y] + rng.normal(size=(64, 5))).astype(np.float32)
    np.savez(npz, x=x, y=y)
    config = pal_active.get_config()
    config.update_from_flattened_dict(
        {
            "data.name": f"arrays:{npz}",
            "model.encoder": "mlp",
            "model.width": 8,
            "model.projector": (8, 2, 8),
            "train.batch_size": 16,
            "train.rounds": 3,
            "train.steps": 12,
            "train.first": 0.0,
            "train.warmup_steps": 2,
            "train.log_every": 3,
            "checkpoint.every": 3,
            "asking.budget": 12,
            "asking.audit": 4,
            "asking.at_once": 2,
            "asking.refit": 5,
            "oracle.name": "noisy",
        }
    )
    return config


def one_life(folder, npz, monkeypatch, last=10**9, budget=12):
    """Builds and runs in this process until write number `last`; the number of writes done.

    Odd numbers die after the write, even ones instead of it.
    """
    config = tiny_config(npz)
    config.asking.budget = budget
    count = 0

    def dying(write):
        def wrapped(*arguments, **options):
            nonlocal count
            count += 1
            if count == last and last % 2 == 0:
                raise Died
            result = write(*arguments, **options)
            if count == last:
                raise Died
            return result

        return wrapped

    with (
        monkeypatch.context() as patch,
        # The strict settings of the tests are not those of a user's run.
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        built = experiment.build(config, str(folder))
        for owner, name in WRITES:
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with contextlib.suppress(Died):
            run.execute(built, lambda: False)
    return count


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_dies_at_any_write_goes_on(tmp_path, monkeypatch):
    npz = tmp_path / "x.npz"
    writes = one_life(tmp_path / "whole", npz, monkeypatch)
    assert writes > 20
    expected = files(tmp_path / "whole")
    for place in np.linspace(1, writes, 7).round().astype(int).tolist():
        folder = tmp_path / f"died at {place}"
        assert one_life(folder, npz, monkeypatch, last=place) >= place
        one_life(folder, npz, monkeypatch)
        actual = files(folder)
        for name, content in expected.items():
            assert actual[name] == content, (place, name)


def weights(folder, npz, budget):
    """All weights of the newest checkpoint of a `tiny_config`, end to end."""
    config = tiny_config(npz)
    config.asking.budget = budget
    built = experiment.build(config, str(folder))
    assert built.journal is not None
    with built.journal, Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        found = checkpoints.restore(built.state)
    assert found is not None
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found[0].params)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_larger_budget_goes_on_from_where_a_run_ended(tmp_path, monkeypatch):
    npz, folder = tmp_path / "x.npz", tmp_path / "run"
    one_life(folder, npz, monkeypatch)
    before = files(folder)
    shutil.copytree(folder, tmp_path / "copy")
    one_life(folder, npz, monkeypatch, budget=27)
    after = files(folder)
    assert before["summary"]["judgements"] == 12
    assert after["summary"]["judgements"] == 27
    assert after["summary"]["audits"] == 8  # of both audits
    for name in ("answers.jsonl", "metrics.jsonl"):
        assert after[name].startswith(before[name])
    rounds = [json.loads(line) for line in after["metrics.jsonl"].splitlines() if b"round" in line]
    assert [row["judgements"] for row in rounds] == [0, 4, 8, 16, 20, 23]
    assert [row["step"] for row in rounds] == [3, 7, 11, 15, 19, 23]
    then, now = weights(tmp_path / "copy", npz, 12), weights(folder, npz, 27)
    assert np.abs(now - then).max() > 1e-3  # what was added has trained

    # Stopped in any of the new rounds, before their first checkpoint too, and when raised early.
    writes = one_life(tmp_path / "copy", npz, monkeypatch, last=4, budget=27)
    assert writes >= 4
    one_life(tmp_path / "copy", npz, monkeypatch, last=11, budget=27)
    one_life(tmp_path / "copy", npz, monkeypatch, budget=27)
    one_life(tmp_path / "early", npz, monkeypatch, last=9)
    one_life(tmp_path / "early", npz, monkeypatch, budget=27)
    for other in ("copy", "early"):
        for name, content in files(tmp_path / other).items():
            assert content == after[name], (other, name)

    for budget in (12, 26):
        said = f"budget is 27 there and {budget} here, .* not lowered; give asking.budget=27 again"
        with pytest.raises(UserError, match=said):
            one_life(folder, npz, monkeypatch, budget=budget)
    with pytest.raises(UserError, match=r"budget=31 is 4 more than the 27 .* raise it to 32"):
        one_life(folder, npz, monkeypatch, budget=31)
    assert files(folder) == after
    one_life(folder, npz, monkeypatch, budget=32)  # a second time
    assert json.loads((folder / "config.json").read_text())["raised_from"] == [12, 27]
    assert files(folder)["summary"]["judgements"] == 32


def test_a_stop_at_the_end_waits_for_one_figure_and_not_for_all(rng, monkeypatch):
    done = []
    for name in ("knn_accuracy", "logistic_probe", "ridge_probe"):
        monkeypatch.setattr(evaluate, name, lambda *_, name=name, **__: done.append(name))
    pool = data.Dataset("few", np.zeros((9, 2)), np.arange(9).astype(str), np.arange(9) % 3)
    ended = types.SimpleNamespace(pool=pool, looked_at=0, neighbours=3)
    partition = Partition(np.arange(9) % 3, np.ones(9))
    pauses = iter([None, None])

    def pause():
        if next(pauses, "stop") is not None:
            raise Interrupted

    with pytest.raises(Interrupted):
        run._final_scores(ended, (None, None), rng.normal(size=(9, 2)), partition, pause)  # pyright: ignore[reportArgumentType]
    assert done == ["knn_accuracy", "logistic_probe"]


@pytest.mark.parametrize(("looked_at", "measured"), [(0, None), (9, None), (4, 4)])
def test_figures_of_a_part_of_the_samples_say_so(rng, looked_at, measured):
    pool = data.Dataset("few", np.zeros((9, 2)), np.arange(9).astype(str), np.arange(9) % 2)
    ended = types.SimpleNamespace(pool=pool, looked_at=looked_at, neighbours=3)
    h, partition = rng.normal(size=(9, 2)), Partition(np.arange(9) % 3, np.ones(9))
    scores = run._final_scores(ended, (None, None), h, partition, lambda: None)  # pyright: ignore[reportArgumentType]
    assert scores.get("samples_measured") == measured
    rows = h[[0, 2, 5, 8]] if measured else h  # evenly, first and last included
    rank = evaluate.effective_rank(rows.astype(np.float32))
    assert scores["effective_rank"] == pytest.approx(rank)


@pytest.mark.slow
def test_a_finished_run_can_be_started_again(whole):
    before = files(whole[0])
    finish(whole[0])
    assert files(whole[0]) == before


@pytest.mark.slow
def test_what_was_said_at_the_start_and_is_not_followed_is_named_by_its_line(tmp_path):
    config = tiny_config(tmp_path / "x.npz")
    said = [(0, 3, "alike"), (0, 1, "alike"), (1, 2, "not sure")]  # the second is not true
    config.oracle.prior = str(tmp_path / "prior.jsonl")
    lines = [
        json.dumps({"anchor": i, "candidates": [j], "relations": [r], "oracle": "me"})
        for i, j, r in said
    ]
    (tmp_path / "prior.jsonl").write_text("\n\n" + "\n".join(lines))
    config.oracle.name = "labels"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run.execute(experiment.build(config, str(tmp_path / "run")), lambda: False)
    table = (tmp_path / "run" / "contradictions.csv").read_text("utf-8-sig").splitlines()
    assert table[1].startswith("0,1,alike,prior,prior:4,")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["contradictions"], summary["prior_contradictions"]) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("error_rate", [0.0, -1.0])
def test_an_oracle_that_always_says_yes_is_told_of_everywhere(tmp_path, capfd, error_rate):
    config = tiny_config(tmp_path / "x.npz")
    config.asking.budget = 44
    config.asking.error_rate = error_rate

    def yes(questions):
        return [Answer(q, (Relation.ALIKE,) * len(q.candidates), "yea") for q in questions]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        built = experiment.build(config, str(tmp_path / "run"))
        built = dataclasses.replace(built, make_oracle=lambda answers, stop: yes)
        run.execute(built, lambda: False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    warning = summary["warnings"][0]
    assert re.match(r'yea said "yes" \d+ times and never "no": ', warning)
    assert warning in html.unescape((tmp_path / "run" / "report.html").read_text())
    out, _ = capfd.readouterr()
    table, end = out.split("64 samples in")
    assert table.count('yea said "yes"') == 1  # at the round from which on it is so
    assert warning in end


def test_an_answer_leaves_no_line_where_nobody_watches():
    log = io.StringIO()
    with tqdm(total=9, file=log, mininterval=99) as bar:
        before = log.getvalue()
        run._show_judgements(bar, 7)
        assert log.getvalue() == before
    assert "judgements=7" in log.getvalue()


@pytest.mark.slow
def test_names_of_groups_outlive_a_rerun_and_a_file_that_was_broken_is_kept(whole, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(whole[0], folder)
    path = folder / "partition.csv"
    text = path.read_bytes()
    path.write_bytes(text.replace(b",\r\n", b",nulls\r\n", 1))
    finish(folder)
    assert path.read_bytes() == text.replace(b",\r\n", b",nulls\r\n", 1)
    broken = text.replace(b",", b";").replace(b";\r\n", b";nulls\r\n", 1)
    path.write_bytes(broken)
    out = finish(folder)
    assert (folder / "partition.csv.old").read_bytes() == broken
    assert f"not carried over, and it is now {path}.old: row 1 of {path} is " in out
    assert path.read_bytes() == text


@pytest.mark.slow
def test_evaluation_labels_reach_neither_sampler_nor_loss(tmp_path):
    """With answers from a file, wrong labels change the scores and nothing else."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(4, 6))
    labels = np.arange(200) % 4
    x = (centres[labels] + rng.normal(size=(200, 6))).astype(np.float32)
    answers = [
        {
            "anchor": i,
            "candidates": [j],
            "relations": ["alike" if labels[i] == labels[j] else "not alike"],
            "oracle": "me",
        }
        for i in range(200)
        for j in range(i)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    results = []
    for name, y in (("true", labels), ("shuffled", rng.permutation(labels)), ("none", None)):
        arrays = {"x": x} if y is None else {"x": x, "y": y}
        np.savez(tmp_path / f"{name}.npz", **arrays)  # pyright: ignore[reportArgumentType]
        finish(
            tmp_path / name,
            f"--config.data.name=arrays:{tmp_path}/{name}.npz",
            "--config.data.limit=0",
            "--config.model.encoder=mlp",
            "--config.train.rounds=2",
            "--config.train.steps=20",
            "--config.oracle.name=file",
            f"--config.oracle.file={tmp_path}/answers.jsonl",
        )
        results.append(files(tmp_path / name))
    for other in results[1:]:
        for name in ("answers.jsonl", "partition.csv", "embeddings.npz"):
            assert other[name] == results[0][name], name
    assert results[1]["summary"]["knn_accuracy"] < results[0]["summary"]["knn_accuracy"]
    assert "knn_accuracy" not in results[2]["summary"]
