"""benchmarks/questions.py: what is measured, and that every method runs."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import drawing, floor, loop, questions, rivals, scale
from benchmarks.judge import Judge, SpentError, accuracy, checks_up_to, majority, oracle_of
from pal_jax.active.journal import Journal
from pal_jax.active.questions import Question, Relation
from pal_jax.active.relations import Relations

ROOT = Path(__file__).parent.parent
CHECKS = [0, 10, 40]


def blobs(rng, samples=60, classes=3):
    y = np.arange(samples) % classes
    return 10 * np.eye(4)[y] + rng.normal(size=(samples, 4)), y


def answers(oracle, pairs):
    return [answer.relations[0] is Relation.ALIKE
            for i, j in pairs for answer in oracle([Question(i, (j,))])]  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([7, 7, 7, 1, 1, 1], 1.0),
        ([0, 0, 1, 2, 2, 2], 5 / 6),  # pure, but one group more than there are classes
        ([0, 1, 2, 3, 4, 5], 2 / 6),
        ([0, 0, 0, 0, 0, 0], 3 / 6),  # one group stands for one class only
        ([0, 0, 1, 1, 1, 0], 4 / 6),
    ],
)
def test_surplus_groups_are_errors(groups, expected):
    assert accuracy(np.array(groups), np.array([5, 5, 5, 9, 9, 9])) == pytest.approx(expected)


def test_every_judgement_counts_and_the_partition_is_looked_at_in_between():
    judge = Judge(oracle_of(np.array([0, 0, 1]), 0.0, False, 0), np.array([0, 0, 1]), [0, 2])
    assert judge(0, 1)
    assert judge(0, 1)  # a repeat costs as much
    judge.show(lambda: np.array([0, 0, 1]))
    with pytest.raises(SpentError):
        judge(0, 2)
    assert judge.spent == 2
    assert judge.finish() == [pytest.approx(2 / 3), 1.0]


def test_a_majority_stops_when_it_is_certain():
    labels = np.array([0, 0])
    judge = Judge(oracle_of(labels, 0.0, False, 0), labels, [99])
    assert majority(judge, 0, 1, votes=3)
    assert judge.spent == 2
    assert majority(judge, 0, 1, votes=1)
    assert judge.spent == 3


def test_sticky_errors_repeat_and_the_others_do_not():
    labels = np.zeros(40, np.int64)
    pairs = [(i, j) for i in range(40) for j in range(i)]
    wrong = {}
    for sticky in (False, True):
        oracle = oracle_of(labels, 0.2, sticky, seed=1)
        first, second = answers(oracle, pairs), answers(oracle, pairs)
        assert np.mean(first) == pytest.approx(0.8, abs=0.05)
        wrong[sticky] = np.mean(np.array(first) != second)
    assert wrong[True] == 0
    assert wrong[False] == pytest.approx(2 * 0.2 * 0.8, abs=0.05)


def test_checks_grow_with_the_answers():
    checks = checks_up_to(1000, [0, 25, 5000])
    assert checks[:3] == [0, 2, 4]
    assert 25 in checks
    assert checks[-1] == 1000
    assert max(np.diff(checks)) <= 1000 / 25


@pytest.mark.parametrize("flip", [0.0, 0.1])
@pytest.mark.parametrize("method", [*questions.ENGINES, *rivals.RIVALS])
def test_each_method_groups_blobs(method, flip, rng):
    if package := rivals.missing(method):
        pytest.skip(f"{package} is an optional dependency of the benchmarks")
    x, y = blobs(rng)
    curve = questions.measure(method, x, y, flip, False, 0, CHECKS)
    assert len(curve["answers"]) == len(curve["accuracy"])
    assert curve["answers"][0] == 0
    if method not in ("random_pairs", "cobras") and not flip:
        assert curve["accuracy"][-1] > 0.95
    again = questions.measure(method, x, y, flip, False, 0, CHECKS)
    assert again["accuracy"] == curve["accuracy"]


def test_labels_are_bought_from_the_likeliest_class_on(rng):
    y = np.array([0, 1, 2, 2])
    x = np.eye(4)
    judge = Judge(oracle_of(y, 0.0, False, 0), y, [99])
    labels = rivals.Labels(x, judge, votes=1)
    for sample, cost in ((0, 0), (1, 1), (2, 2)):
        before = judge.spent
        labels.buy(sample, [0, 1][: labels.known])
        assert judge.spent - before == cost
    labels.buy(3, [2, 0, 1])
    assert judge.spent == 4
    assert labels.classes == [0, 1, 2, 2]


def test_answers_needed_are_those_at_the_first_look_that_is_good_enough():
    curve = {"answers": [0, 10, 20], "accuracy": [0.1, 0.96, 0.99]}
    assert questions.needed(curve, 0.95) == 10
    assert questions.needed(curve, 0.999) is None
    assert questions.after(curve, 19) == 0.96
    assert questions.needed_cell([curve, curve], 0.95) == "10 ± 0"
    assert questions.needed_cell([curve], 0.999) == "never"


def test_a_curve_keeps_the_looks_at_which_it_changed():
    curve = {"answers": [0, 2, 4, 6], "accuracy": [0.5, 0.5, 0.7, 0.5]}
    kept = questions.changes(curve)
    assert kept == {"answers": [0, 4, 6], "accuracy": [0.5, 0.7, 0.5]}
    assert [questions.after(kept, a) for a in curve["answers"]] == curve["accuracy"]


def test_the_floor_is_low_where_the_features_decide_and_high_where_they_do_not(rng):
    x, y = blobs(rng, samples=300)
    assert floor.leave_one_out_bits(x, y) < 0.05 * len(y)
    assert floor.leave_one_out_bits(x, rng.permutation(y)) > np.log2(3) * len(y) * 0.95
    assert floor.capacity(0.0) == 1
    assert floor.capacity(0.11) == pytest.approx(0.5, abs=1e-3)


def test_the_command_keeps_its_curves_and_draws_them(tmp_path, monkeypatch, capsys, rng):
    x, y = blobs(rng)
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    saved, picture = tmp_path / "curves.json", tmp_path / "curves.png"
    command = ["questions", "--data", str(tmp_path / "blobs.npz"), "--methods", "pal", "scan",
               "--answers", "0", "20", "--seeds", "2", "--flip", "0", "0.1",
               "--save", str(saved), "--plot", str(picture)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    questions.main()
    first = json.loads(saved.read_text())
    assert set(first["blobs"]) == {"clean", "10 % wrong"}
    assert set(first["blobs"]["clean"]) == {"pal", "scan"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out

    monkeypatch.setattr(questions, "measure", None)  # nothing is measured twice
    questions.main()
    assert json.loads(saved.read_text()) == first
    assert capsys.readouterr().out == printed
    assert "| pal |" in printed
    assert "information floor" in printed


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("loop --data nosuch --seeds 1", "--data nosuch is none of digits, "),
        ("loop --data {tmp}/x.npy --seeds 1", "x.npy is none of digits, "),
        ("datasets {tmp} {tmp}/out.npz", "is no finished run: {tmp}/embeddings.npz: No such file"),
        ("input --records 16", "--records 16 is not even the 32 of one batch"),
        ("input --data digits", "'digits' cannot be streamed"),
    ],
)
def test_what_a_benchmark_cannot_take_is_one_sentence(command, told, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    name, *options = command.format(tmp=tmp_path).split()
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert told.format(tmp=tmp_path) in done.stderr.splitlines()[-1]


def test_a_quoted_row_says_that_it_is_quoted():
    row = questions.quoted_row("digits", "clean", [0, 25], [0.95])
    assert row == "| cobras (quoted, not measured here) |  | 0.42 |  |  |"


def test_drawing_survives_without_the_noisy_panel(tmp_path):
    curve = {"answers": [0, 10, 100], "accuracy": [0.5, 0.7, 0.9], "budget": [400]}
    drawing.draw({"clean": {"scan": {"0": curve}, "spectral": {"0": curve}}}, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


TINY = {
    "asking.budget": 50,  # 40 of them for the audit
    "data.limit": 200,
    "model.width": 16,
    "train.batch_size": 64,
    "train.rounds": 3,
    "train.steps": 12,
    "train.warmup_steps": 2,
}


@pytest.mark.slow
def test_the_loop_is_looked_at_after_answers_and_after_training(tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        trained = loop.trained_curve(loop.Way(5, TINY, rounds=True), 0, [0, 4, 8, 10], print)
        first = loop.trained_curve(loop.Way(0, TINY | {"train.rounds": 2}), 0, [0, 4, 8, 10], print)
    # Two rounds of five answers; each round ends with training, and so does the one before them.
    assert trained["answers"] == [0, 4, 5, 8, 10, 10]
    assert first["answers"] == [0, 4, 8, 10]
    assert all(0 < score <= 1 for score in trained["accuracy"] + first["accuracy"])
    x, y = blobs(np.random.default_rng(0))
    np.savez(tmp_path / "x.npz", x=x, y=y)
    alone = loop.features_curve(loop.Way(5), str(tmp_path / "x.npz"), 0, [0, 4, 10], print)
    assert alone["answers"] == [0, 4, 10]
    assert alone["accuracy"][-1] > 0.9


def test_the_largest_fall_is_below_what_was_reached_before():
    curves = [{"accuracy": [0.5, 0.9, 0.8, 0.95]}, {"accuracy": [0.2, 0.4, 0.6]}]
    assert loop.falls(curves) == "0.100"


def test_the_scan_of_scale_is_right_and_groups_the_samples(rng):
    _, y = scale.mixture(200, 4, 1.0, seed=0)
    log = scale.scan(y, rng)
    answers = [next(log) for _ in range(600)]
    relations = Relations(200)
    relations.add(answers)
    np.testing.assert_array_equal(relations.groups(), np.unique(y, return_index=True)[1][y])
    said = [relation for answer in answers for relation in answer.relations]
    assert 0.7 < np.mean([relation is Relation.ALIKE for relation in said]) < 0.9


def test_scale_measures_all_its_columns_and_draws_them(tmp_path, monkeypatch):
    for name, value in {"TOLD": 20, "ASKED": 5, "WARM": 10, "BATCH": 16}.items():
        monkeypatch.setattr(scale, name, value)
    rows = []
    for n, flip in ((100, 0.0), (200, 0.1)):
        x, y = scale.mixture(n, 4, 1.0, seed=0)
        folder = tmp_path / str(n)
        folder.mkdir()
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        with Journal(folder / "journal") as journal:
            log = scale.scan(y, np.random.default_rng(1), flip)
            journal.append([next(log) for _ in range(150)])
        rows.append({**scale.measure(folder, flip), "gib": 1.0, "neighbours": 1.0})
    assert all(value >= 0.0 for row in rows for value in row.values())
    lines = scale.table([dict.fromkeys(rows[0], 2.0**k) | {"n": 10.0**k} for k in (1, 2)])
    assert lines.count("n^0.30") == len(scale.COLUMNS)  # log10 of 2
    scale.draw(rows, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_scale_finds_where_an_accuracy_is_reached(tmp_path):
    assert scale.first([0, 10, 20], [0.2, 0.4, 0.8], 0.6) == 15
    assert scale.first([0, 10], [0.7, 0.8], 0.6) == 0
    assert scale.first([0, 10], [0.2, 0.4], 0.6) == float("inf")
    assert scale.spread([15.2, float("inf")]) == "15 never"
    x, y = scale.mixture(120, 3, 0.5, seed=0)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for exact in (120, 60):
        found = scale.curve(tmp_path / "data.npz", exact, [0, 10, 30], seed=0)
        assert found["accuracy"][-1] > 0.95
