"""What crosses the border between sampler, oracle and journal: frozen, checked, JSON-able."""

import dataclasses
import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from pal_jax.errors import UserError

Pair = tuple[int, int]  # two sample or group ids, the smaller first


class Relation(enum.Enum):
    """What is known of a pair of samples: three states, never a bool."""

    ALIKE = "alike"
    NOT_ALIKE = "not alike"
    UNKNOWN = "not sure"


OPPOSITE = {
    Relation.ALIKE: Relation.NOT_ALIKE,
    Relation.NOT_ALIKE: Relation.ALIKE,
    Relation.UNKNOWN: Relation.UNKNOWN,
}


@dataclasses.dataclass(frozen=True)
class Question:
    """Which of `candidates` are like `anchor`? One candidate makes it a yes/no question.

    Args:
        anchor: sample id.
        candidates: sample ids, at least one, all different and none of them the anchor.

    Raises:
        UserError: an id is no integer or negative, or the candidates are not as said above.
    """

    anchor: int
    candidates: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "anchor", _sample_id(self.anchor))
        object.__setattr__(self, "candidates", tuple(map(_sample_id, self.candidates)))
        if not self.candidates:
            raise UserError(f"the question about sample {self.anchor} has no candidates; name one")
        if len({self.anchor, *self.candidates}) != 1 + len(self.candidates):
            raise UserError(
                f"the question about sample {self.anchor} names a sample twice in "
                f"{list(self.candidates)}; candidates must differ from the anchor and each other"
            )


@dataclasses.dataclass(frozen=True)
class Answer:
    """`relations[m]` is the relation of the anchor to candidate m, as `oracle` sees it.

    Raises:
        UserError: not one relation for each candidate, or no name of an oracle.
    """

    question: Question
    relations: tuple[Relation, ...]
    oracle: str

    def __post_init__(self):
        object.__setattr__(self, "relations", tuple(self.relations))
        asked, got = len(self.question.candidates), len(self.relations)
        if asked != got:
            raise UserError(
                f"the answer about sample {self.question.anchor} has {got} relations for "
                f"{asked} candidates; give one for each"
            )
        if not all(isinstance(relation, Relation) for relation in self.relations):
            raise UserError(f"{self.relations!r} holds something that is not a Relation")
        if not isinstance(self.oracle, str) or not self.oracle:
            raise UserError(f"an answer needs the name of its oracle, not {self.oracle!r}")

    @property
    def judgements(self) -> list[tuple[int, int, Relation]]:
        """(anchor, candidate, relation) one by one: what a budget counts."""
        return [
            (self.question.anchor, candidate, relation)
            for candidate, relation in zip(self.question.candidates, self.relations, strict=True)
        ]


class Oracle(Protocol):
    """Whatever answers: one answer for each question, in the order of the questions.

    Each answer counts as soon as it is handed out, so an oracle that takes its time, or may fail,
    is best a generator; where answers come at once, a list will do.
    """

    def __call__(self, questions: Sequence[Question], /) -> Iterable[Answer]: ...


def ordered(i: int, j: int) -> Pair:
    """The pair of i and j, however they are given."""
    return (i, j) if i < j else (j, i)


def question_to_dict(question: Question) -> dict[str, Any]:
    """{"anchor": 3, "candidates": [5, 8]}: a line of what a program oracle reads."""
    return {"anchor": question.anchor, "candidates": list(question.candidates)}


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """The question's dict with "relations" and "oracle": a line of answers.jsonl."""
    return {
        **question_to_dict(answer.question),
        "relations": [relation.value for relation in answer.relations],
        "oracle": answer.oracle,
    }


def answer_from_dict(entry: Any) -> Answer:
    """The inverse of `answer_to_dict`; keys it does not know are left alone.

    Raises:
        UserError: says what is missing or wrong, for text from files and other programs.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"an answer is an object with an anchor, not {_short(entry)}")
    missing = [key for key in ("anchor", "candidates", "relations", "oracle") if key not in entry]
    if missing:
        raise UserError(f"the answer {_short(entry)} lacks {', '.join(missing)}")
    for key in ("candidates", "relations"):
        if not isinstance(entry[key], list):
            raise UserError(f"{key} of the answer {_short(entry)} must be a list")
    question = Question(entry["anchor"], tuple(entry["candidates"]))
    return Answer(question, tuple(map(_relation, entry["relations"])), entry["oracle"])


def _relation(value: Any) -> Relation:
    try:
        return Relation(value)
    except ValueError:
        names = ", ".join(repr(relation.value) for relation in Relation)
        raise UserError(f"unknown relation {_short(value)}; there are: {names}") from None


def _sample_id(value: Any) -> int:
    """An exact integer: 3 and numpy.int64(3), not 3.0, True or "3"."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < 0:
        raise UserError(f"a sample id is an integer from 0 up, not {_short(value)}")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
