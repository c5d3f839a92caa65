"""benchmarks/knowing.py, and what it shows of the engine: that it knows what it knows."""

import sys

import numpy as np
import pytest

from benchmarks import knowing


def test_calibration_error_by_hand():
    """Two bins: 3 samples at 0.9 of which 2 are right, one at 0.1 that is wrong."""
    probability = np.array([0.9, 0.9, 0.9, 0.1])
    correct = np.array([True, True, False, False])
    assert knowing.calibration_error(probability, correct) == pytest.approx((0.7 + 0.1) / 4)
    assert knowing.calibration_error(np.ones(5), np.ones(5, bool)) == 0.0


def test_surplus_groups_are_wrong():
    groups, y = np.array([0, 0, 1, 2, 2]), np.array([1, 1, 1, 0, 1])
    assert knowing.right(groups, y).tolist() == [True, True, False, True, False]


def test_a_class_is_found_where_one_group_is_mostly_it_and_holds_most_of_it():
    y = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    assert knowing.classes_found(y, y) == 3
    assert knowing.classes_found(np.zeros(8, int), y) == 0  # no majority
    assert knowing.classes_found(np.arange(8), y) == 0  # scattered
    assert knowing.classes_found(np.array([0, 0, 0, 1, 1, 1, 1, 1]), y) == 2


@pytest.mark.parametrize("classes", [2, 10, 250])
def test_pools_have_a_rarest_class_of_five(classes):
    x, y = knowing.pool(classes, 0)
    size = np.bincount(y)
    assert len(size) == classes
    assert size.min() == knowing.RAREST
    assert x.shape == (len(y), 64)
    assert abs(len(y) - knowing.POOL) < 0.05 * knowing.POOL


def test_guesses_are_about_a_third_and_as_wrong_as_asked():
    y = np.arange(900) % 9
    told = knowing.guesses(y, 0.0, 0)
    named = {i for answer in told for pair in answer.judgements for i in pair[:2]}
    assert len(named) <= 300
    for answer in told:
        for i, j, relation in answer.judgements:
            assert (y[i] == y[j]) == (relation.value == "alike")
    wrong = [
        (y[i] == y[j]) != (relation.value == "alike")
        for answer in knowing.guesses(y, 0.3, 0)
        for i, j, relation in answer.judgements
    ]
    assert 0.1 < np.mean(wrong) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "breast_cancer", "wine"])
def test_with_a_few_audits_probabilities_are_shares(data):
    rows = list(knowing.calibration([data], seeds=1))[1:]
    with_audit = {int(row[1]): float(row[-1].split()[0]) for row in rows if row[2] != "0"}
    assert with_audit[50] < 0.05
    assert with_audit[100] < 0.03
    assert with_audit[200] < 0.03


@pytest.mark.slow
def test_prior_labels_save_answers_and_bad_ones_cost_little():
    none, good, bad = (
        [float(cell.split()[0]) for cell in row[-2:]]
        for row in list(knowing.prior(["digits"], seeds=1))[1:]
    )
    assert max(good) <= 0.2 * max(none)
    assert all(b <= 1.2 * n for b, n in zip(bad, none, strict=True))


@pytest.mark.slow
def test_few_and_many_classes_are_found(monkeypatch):
    monkeypatch.setattr(knowing, "POOL", 1_500)
    monkeypatch.setattr(knowing, "CLASSES", (2, 10, 50, 250))
    monkeypatch.setattr(knowing, "LOOKS", (0, 50, 200, 400))
    curves: dict[int, list[int]] = {}
    for row in list(knowing.classes([], 0))[1:]:
        curves.setdefault(int(row[0]), []).append(int(row[4]))
    assert curves[2][1] == 2  # five samples beside all others: found within 50 answers
    assert curves[10][2] >= 9
    assert curves[50][0] < 30
    assert curves[50][-1] >= 45
    assert curves[250][-1] > curves[250][0]


def test_the_command_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["knowing", "calibration", "--data", "iris", "--seeds", "1"])
    knowing.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "calibration"
    assert len(lines) == 2 + 2 + 6
    assert len({line.count("|") for line in lines[2:]}) == 1
    monkeypatch.setattr(sys, "argv", ["knowing", "no_such"])
    with pytest.raises(SystemExit):
        knowing.main()
    assert "there are: calibration, prior, classes" in capsys.readouterr().err
