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
from pal_jax.errors import UserError

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
    each = [names.get(g, "") for g in groups.tolist()]
    export.write_partition(path, np.array(HOSTILE), groups, probability, each)

    back = export.read_partition(path)
    assert back.ids == HOSTILE
    np.testing.assert_array_equal(back.groups, groups)
    np.testing.assert_array_equal(back.probability, probability)  # exactly
    assert back.names == [names.get(g, "") for g in groups.tolist()]

    text = path.read_bytes().decode("utf-8-sig")
    assert text.startswith("id,group,probability,name\r\ncats/1.png,0,")
    cells = [cell.strip(' "\t') for line in text.split("\n") for cell in line.split(",")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\uff1d"))]


def test_a_spreadsheet_knows_the_encoding_and_may_leave_it_out(tmp_path):
    path = tmp_path / "partition.csv"
    export.write_partition(path, ["猫", "b"], np.array([0, 1]), np.array([1.0, 0.5]), ["ä", ""])
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfid,")
    path.write_bytes(content.removeprefix(b"\xef\xbb\xbf"))
    assert export.read_partition(path).ids == ["猫", "b"]
    assert export.read_partition(path).names == ["ä", ""]


def test_a_name_that_was_typed_is_read_as_it_was_typed(tmp_path):
    path = tmp_path / "partition.csv"
    for name in ("'tis", "-1", "cats, mostly"):
        path.write_text(f'id,group,probability,name\na,0,1.0,"{name}"\n')
        for _ in range(2):
            (typed,) = export.names_typed_into(path, ["a"])
            assert typed == name
            export.write_partition(path, ["a"], np.array([3]), np.array([0.5]), [typed])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id;group;probability;name\na;0;1,0;cats\n", "row 1"),
        ("id,group,probability,name\na,0,1.0\n", "row 2"),
        ("id,group,probability,name\na,0,1.0,cats,mine\n", "row 2"),
        ("id,group,probability,name\na,cats,1.0,\n", "row 2"),
        ("id,group,probability,name\n1,0,1.0,cats\n", "sample '1'"),
        ("", "row 1"),
        ('id,group,probability,name\na,0,1.0,"' + 200_000 * "x", "field"),
        ("id,group,probability,name\na,0,1.0,caf\udce9\n", "utf-8"),
    ],
)
def test_a_partition_that_is_none_any_more_says_so(tmp_path, text, told):
    path = tmp_path / "partition.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=told):
        export.names_typed_into(path, ["a"])


def test_what_is_moved_aside_overwrites_nothing(tmp_path):
    for number, name in enumerate(("x.csv.old", "x.csv.old2", "x.csv.old3")):
        (tmp_path / "x.csv").write_text(str(number))
        assert export.move_aside(tmp_path / "x.csv") == tmp_path / name
        assert (tmp_path / name).read_text() == str(number)


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
    export.write_contradictions(path, ["a", "+b", "c"], found, answers, prior_lines=[4, 7])
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert path.read_bytes().decode("utf-8-sig").splitlines() == [
        "first,second,said,oracle,answer,against",
        "a,'+b,not alike,'=ann,3,1 2",
        "'+b,c,alike,prior,prior:7,prior:4 prior:7 2",
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
