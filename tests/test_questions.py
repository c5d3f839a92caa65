import dataclasses
import json

import numpy as np
import pytest

from pal_jax.active.questions import (
    Answer,
    Question,
    Relation,
    answer_from_dict,
    answer_to_dict,
)
from pal_jax.errors import UserError


def test_json_round_trip_keeps_everything():
    answer = Answer(Question(3, (5, 8)), (Relation.ALIKE, Relation.UNKNOWN), "me")
    assert answer_from_dict(json.loads(json.dumps(answer_to_dict(answer)))) == answer


def test_numpy_ids_become_plain_integers_that_json_can_write():
    question = Question(np.int64(3), tuple(np.array([5, 8])))  # pyright: ignore[reportArgumentType]
    assert question == Question(3, (5, 8))
    assert type(question.anchor) is int
    assert type(question.candidates[0]) is int


def test_the_border_types_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Question(0, (1,)).anchor = 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("anchor", "candidates"),
    [(0, ()), (0, (0,)), (0, (1, 1)), (-1, (2,)), (0, (1.0,)), (0, ("1",)), (True, (2,))],
)
def test_questions_that_mean_nothing_are_refused(anchor, candidates):
    with pytest.raises(UserError):
        Question(anchor, candidates)


@pytest.mark.parametrize(
    ("relations", "oracle"),
    [
        ((), "me"),
        ((Relation.ALIKE,) * 2, "me"),
        (("alike",), "me"),
        ((True,), "me"),
        ((Relation.ALIKE,), ""),
        ((Relation.ALIKE,), None),
    ],
)
def test_answers_must_fit_their_question(relations, oracle):
    with pytest.raises(UserError):
        Answer(Question(0, (1,)), relations, oracle)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "{}",
        '{"anchor": 1, "candidates": [2], "relations": ["alike"]}',
        '{"anchor": 1, "candidates": 2, "relations": ["alike"], "oracle": "a"}',
        '{"anchor": 1, "candidates": [2], "relations": "alike", "oracle": "a"}',
        '{"anchor": 1, "candidates": [2], "relations": ["same"], "oracle": "a"}',
        '{"anchor": 1, "candidates": [2], "relations": [["alike"]], "oracle": "a"}',
        '{"anchor": 1.5, "candidates": [2], "relations": ["alike"], "oracle": "a"}',
        '{"anchor": [1], "candidates": [[2]], "relations": ["alike"], "oracle": "a"}',
        '{"anchor": 1, "candidates": [2], "relations": ["alike"], "oracle": 7}',
    ],
)
def test_foreign_text_gets_one_sentence(text):
    with pytest.raises(UserError):
        answer_from_dict(json.loads(text))
