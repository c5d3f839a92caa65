"""Files that are whole, the same in every run, and give back what went in."""

import json
import math
import os
import time

import numpy as np
import pytest

from pal_jax import export
from pal_jax.active.questions import Answer, Question, Relation, answer_from_dict
from pal_jax.active.relations import Contradiction

HOSTILE = [
    "cats/1.png",
    "=cmd|'/c calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "'quoted'",
    "''=1",
    "  =1+1",
    "\t=1+1",
    "\uff1d1+1",
    'a,"b";c',
    "two\nlines\rthree",
    "",
    " ",
    "\u202egnp.exe",
    "<img src=x onerror=alert(1)>",
    "x" * 10_000,
    "äöü 猫",
]


def test_a_partition_reads_back_and_holds_no_formula(tmp_path, rng):
    path, n = tmp_path / "partition.csv", len(HOSTILE)
    groups, probability = np.arange(n) % 3, rng.random(n).astype(np.float32)
    names = {0: "=HYPERLINK(0)", 2: "'sevens', I think"}
    export.write_partition(path, np.array(HOSTILE), groups, probability, names)

    back = export.read_partition(path)
    assert back.ids == HOSTILE
    np.testing.assert_array_equal(back.groups, groups)
    np.testing.assert_array_equal(back.probability, probability)  # exactly
    assert back.names == [names.get(g, "") for g in groups.tolist()]

    text = path.read_bytes().decode()
    assert text.startswith("id,group,probability,name\r\ncats/1.png,0,")
    cells = [cell.strip(' "\t') for line in text.split("\n") for cell in line.split(",")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\uff1d"))]


def test_answers_read_back_in_their_order(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = [
        Answer(Question(5, (1, 2)), (Relation.ALIKE, Relation.UNKNOWN), "ann\n\u2028{"),
        Answer(Question(0, (1,)), (Relation.NOT_ALIKE,), "labels"),
    ]
    export.write_answers(path, answers, [f"{row}.png" for row in range(99)])
    lines = path.read_text().splitlines()
    assert [answer_from_dict(json.loads(line)) for line in lines] == answers
    assert json.loads(lines[1])["relations"] == ["not alike"]


def test_contradictions_name_lines_of_the_answers(tmp_path):
    path = tmp_path / "contradictions.csv"
    answers = [Answer(Question(0, (1,)), (Relation.ALIKE,), "=ann")] * 3
    found = [
        Contradiction((0, 1), Relation.NOT_ALIKE, 2, (0, 1)),
        Contradiction((1, 2), Relation.ALIKE, -1, (-2, -1, 1)),
    ]
    export.write_contradictions(path, ["a", "+b", "c"], found, answers)
    assert path.read_bytes().decode().splitlines() == [
        "first,second,said,oracle,answer,against",
        "a,'+b,not alike,'=ann,3,1 2",
        "'+b,c,alike,prior,prior,prior 2",
    ]


def test_embeddings_read_back_without_pickle(tmp_path, rng):
    path = tmp_path / "embeddings.npz"
    ids = np.array(["b", "äöü 猫", "a"], dtype=object)
    h, z = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(4, 3)).T
    export.write_embeddings(path, ids, h, z)
    with np.load(path, allow_pickle=False) as back:
        assert back.files == ["ids", "h", "z"]
        assert back["ids"].tolist() == ids.tolist()
        np.testing.assert_array_equal(back["h"], h, strict=True)
        np.testing.assert_array_equal(back["z"], z)


def test_the_same_content_is_the_same_bytes_at_any_time(tmp_path, monkeypatch, rng):
    h = rng.normal(size=(3, 5))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    export.write_embeddings(tmp_path / "first", ["a", "b", "c"], h, h)
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    export.write_embeddings(tmp_path / "second", ["a", "b", "c"], h, h)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_json_takes_numpy_and_says_null_for_nan(tmp_path):
    value = {"a": np.float32(0.5), "b": [np.int64(3), math.nan, math.inf], "c": np.arange(2), 1: ()}
    export.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": [3, None, None], "c": [0, 1], "1": []}
    assert text.endswith("}\n")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    export.write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]
