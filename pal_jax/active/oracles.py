"""Whatever answers questions: true labels, noise around another oracle, a file, a program."""

import collections
import contextlib
import dataclasses
import json
import math
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pal_jax.active.questions import (
    OPPOSITE,
    Answer,
    Oracle,
    Pair,
    Question,
    Relation,
    answer_from_dict,
    ordered,
    question_to_dict,
)
from pal_jax.errors import Interrupted, UserError, at_home

_LONGEST_LINE = 1 << 20  # characters; a program that never ends its line fills no memory
_LAST_LINES = 1.0  # seconds in which what a program has written still counts after a stop
_LOOK_UP = 0.2  # seconds that a program is waited for between two looks at `stop`
_KEPT = "the answers before it are kept; mend the program, and the same run goes on from them"
_LAST_WORDS = 5.0  # seconds a program has to end by itself after its last answer


class OracleError(UserError):
    """An oracle cannot answer, or stopped half-way; the answers it gave before it did so count."""


class LabelOracle:
    """Two samples are alike when their labels are equal; "not sure" where a label is -1.

    Args:
        labels: [n] int.
    """

    def __init__(self, labels: np.ndarray, name: str = "labels"):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"the label oracle needs one integer a sample, not {labels.dtype}{labels.shape}"
            )
        self.labels = labels
        self.name = name

    def __call__(self, questions: Sequence[Question], /) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        ids = (question.anchor, *question.candidates)
        if max(ids) >= len(self.labels):
            raise OracleError(f"there are {len(self.labels)} labels, none for {max(ids)}")
        anchor, *others = self.labels[list(ids)].tolist()
        relations = tuple(
            Relation.UNKNOWN
            if anchor < 0 or other < 0
            else (Relation.ALIKE if anchor == other else Relation.NOT_ALIKE)
            for other in others
        )
        return Answer(question, relations, self.name)


class NoisyOracle:
    """Another oracle, each of whose judgements flips with probability `flip`.

    Whether one flips is a function of (seed, pair, how often the pair was asked before): a run
    that stopped and goes on hears what it would have heard, and a pair that is asked again gets
    a fresh chance. "Not sure" never flips.

    Args:
        history: answers given earlier, by this oracle in a run that is being resumed.
    """

    def __init__(
        self,
        oracle: Oracle,
        flip: float,
        seed: int,
        history: Iterable[Answer] = (),
        name: str = "noisy",
    ):
        if not 0.0 <= flip < 0.5:
            raise UserError(f"flip is a probability below one half, not {flip}")
        self.oracle = oracle
        self.flip = flip
        self.seed = seed
        self.name = name
        self._asked: collections.Counter[Pair] = collections.Counter()
        for answer in history:
            self._asked.update(ordered(i, j) for i, j, _ in answer.judgements)

    def __call__(self, questions: Sequence[Question], /) -> Generator[Answer, None, None]:
        for answer in self.oracle(questions):
            yield self._garble(answer)

    def _garble(self, answer: Answer) -> Answer:
        relations = tuple(
            OPPOSITE[relation] if self._flips(ordered(i, j)) else relation
            for i, j, relation in answer.judgements
        )
        return Answer(answer.question, relations, self.name)

    def _flips(self, pair: Pair) -> bool:
        before = self._asked[pair]
        self._asked[pair] += 1
        return np.random.default_rng([self.seed, *pair, before]).random() < self.flip


class FileOracle:
    """Looks answers up in a file in the format of answers.jsonl.

    A judgement counts in both directions, and as often as it stands in the file: the majority
    of what is written about a pair wins. "Not sure" for pairs that the file does not decide.

    Args:
        names: [n] ids of the samples; see `read_answer_file`.

    Attributes:
        file: what was read.

    Raises:
        UserError: the file is not there, or line L of it is not an answer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str = "file",
        names: Sequence[str] | None = None,
    ):
        self.name = name
        self._votes: collections.Counter[Pair] = collections.Counter()
        value = {Relation.ALIKE: 1, Relation.NOT_ALIKE: -1, Relation.UNKNOWN: 0}
        self.file = read_answer_file(path, names)
        if names is not None:
            self.file = self.file.below(len(names))
        for answer in self.file.answers:
            for i, j, relation in answer.judgements:
                self._votes[ordered(i, j)] += value[relation]

    @property
    def pairs(self) -> int:
        """Of how many pairs something is written."""
        return len(self._votes)

    def __call__(self, questions: Sequence[Question], /) -> list[Answer]:
        return [
            Answer(question, tuple(self._relation(question.anchor, c) for c in question.candidates),
                   self.name)
            for question in questions
        ]  # fmt: skip

    def _relation(self, i: int, j: int) -> Relation:
        votes = self._votes.get(ordered(i, j), 0)
        if votes == 0:
            return Relation.UNKNOWN
        return Relation.ALIKE if votes > 0 else Relation.NOT_ALIKE


def answers_from_groups(
    groups: np.ndarray, name: str, rng: np.random.Generator, pairs: int = 3
) -> list[Answer]:
    """A partition as answers, to be believed as far as `name` is: `Sampler(prior=...)`.

    Random pairs of labelled samples, as many alike as not alike, so that a guess which is wrong
    here and there contradicts itself instead of gluing everything together.

    Args:
        groups: [n] int: earlier labels, metadata, or what another model thinks; -1 says nothing.
        pairs: a labelled sample, on average.
    """
    groups = np.asarray(groups)
    samples = np.flatnonzero(groups >= 0)
    _, group, size = np.unique(groups[samples], return_inverse=True, return_counts=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(size)[:-1])  # places in samples
    answers, seen = [], set()
    for number in range(pairs * len(samples) if len(samples) > 1 else 0):
        place = int(rng.integers(len(samples)))
        own = members[group[place]]
        i = j = int(samples[place])
        if number % 2:
            j = int(samples[own[rng.integers(len(own))]])
        elif len(own) < len(samples):
            k = rng.integers(len(samples) - len(own))  # the k-th of all others
            j = int(samples[k + np.searchsorted(own - np.arange(len(own)), k, side="right")])
        if i != j and ordered(i, j) not in seen:
            seen.add(ordered(i, j))
            relation = Relation.ALIKE if number % 2 else Relation.NOT_ALIKE
            answers.append(Answer(Question(i, (j,)), (relation,), name))
    return answers


class ProgramOracle:
    """Another program answers: a script, a crowd platform, a vision-language model.

    It is started once a call, reads one question a line as JSON from its standard input,
    {"anchor": 3, "candidates": [5, 8], "names": ["d.png", "f.png", "i.png"]}, until that is
    closed, and writes one answer a line to its standard output, in the same order:
    {"relations": ["alike", "not sure"]}. "anchor" and "candidates" may be repeated and must then
    be those of the question. Each line counts as soon as it is read; after the last one the
    program has 5 seconds (or `timeout`, if less) to end by itself before it is killed, with what
    it started. Its standard error goes to ours. No shell is involved.

    Args:
        command: the program and its arguments, as one would type them.
        timeout: finite seconds that it may take for each answer; then it is killed.
        stop: () -> whether to stop now: what the program has written by then counts, as far as it
            comes within a second; then it is killed.
        names: [n] what the program knows the samples by, such as the files of a folder; a
            question then names its anchor and its candidates, in this order. None: no "names".

    Raises:
        UserError: the command cannot be read, or the timeout is out of range.
        Interrupted: `stop` said so, while answers are read.
        OracleError: it cannot be started, is too slow, ends early or writes something else; all
            while its answers are read.
    """

    def __init__(
        self,
        command: str,
        timeout: float = 60.0,
        names: Sequence[str] | None = None,
        name: str = "program",
        stop: Callable[[], bool] = lambda: False,
    ):
        try:
            self.command = shlex.split(command)
        except ValueError as error:
            raise UserError(f"the command {command!r} cannot be read: {error}") from error
        if not self.command:
            raise UserError("the program oracle needs a command, such as 'python answer.py'")
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise UserError(
                f"the timeout of the program oracle is in seconds, finite and above 0, not "
                f"{timeout}; an hour is 3600"
            )
        self.shown = f"the program {command[:200]!r}"
        self.timeout = timeout
        self.names = names
        self.name = name
        self.stop = stop

    def __call__(self, questions: Sequence[Question], /) -> Generator[Answer, None, None]:
        if not questions:
            return
        asked = [json.dumps(self._describe(question)) for question in questions]
        process = self._start()
        # Writing and reading are threads: either may block for ever in the other program.
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=_feed, args=(process, asked), daemon=True),
            threading.Thread(target=_drain, args=(process, lines, len(asked)), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            yield from self._listen(process, lines, questions)
            self._exit_code(process)
        finally:  # also when the caller wants no more answers
            _end(process)
            for thread in threads:
                # A grandchild in a session of its own outlives this and may hold our pipes.
                thread.join(timeout=1.0)

    def _start(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a Ctrl-C is ours to handle
            )
        except OSError as error:
            raise OracleError(
                f"{self.shown} cannot be started: {error}; mend the command"
            ) from error

    def _exit_code(self, process: subprocess.Popen[str]) -> int | None:
        """Of a program that has said all; None when it does not end soon."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(_LAST_WORDS, self.timeout))

    def _describe(self, question: Question) -> dict[str, Any]:
        described = question_to_dict(question)
        if self.names is not None:
            ids = (question.anchor, *question.candidates)
            described["names"] = [str(self.names[i]) for i in ids]
        return described

    def _listen(
        self,
        process: subprocess.Popen[str],
        lines: "queue.SimpleQueue[str | None]",
        questions: Sequence[Question],
    ) -> Iterator[Answer]:
        last = math.inf  # when what it still writes does not count any more
        for position, question in enumerate(questions, 1):
            number = f"answer {position} of {len(questions)}"
            if last == math.inf and self.stop():
                last = time.monotonic() + _LAST_LINES
            try:
                line = self._line(lines, last)
            except queue.Empty:
                raise OracleError(
                    f"{self.shown} took more than {self.timeout:g} s for {number}; {_KEPT}, "
                    "with a longer oracle.timeout if it needs one"
                ) from None
            if line is None:
                code = self._exit_code(process)
                how = "closed its output" if code is None else f"ended with exit code {code}"
                raise OracleError(f"{self.shown} {how} before {number}; {_KEPT}")
            try:
                answer = self._parse(question, line)
            except UserError as error:
                raise OracleError(f"{self.shown}, {number}: {error}; {_KEPT}") from error
            yield answer

    def _line(self, lines: "queue.SimpleQueue[str | None]", last: float) -> str | None:
        """The next one, None at the end; queue.Empty where there is none in time.

        Args:
            last: time from which on nothing is waited for.
        """
        end = time.monotonic() + self.timeout
        while (now := time.monotonic()) < last:
            with contextlib.suppress(queue.Empty):
                return lines.get(timeout=max(min(end - now, _LOOK_UP), 0.0))
            if self.stop():
                raise Interrupted
            if end - now <= _LOOK_UP:
                raise queue.Empty
        raise Interrupted

    def _parse(self, question: Question, line: str) -> Answer:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"expected a line of JSON, read {line[:80]!r}") from None
        if not isinstance(entry, dict):
            raise UserError(f"expected an object with relations, read {line[:80]!r}")
        answer = answer_from_dict({**question_to_dict(question), **entry, "oracle": self.name})
        if answer.question != question:
            raise UserError(f"it answers {answer.question}, which was not asked")
        return answer


@dataclasses.dataclass(frozen=True)
class AnswerFile:
    """What a file such as answers.jsonl says of the samples that are here.

    Args:
        answers: in their order.
        lines: of each of them in the file, from 1.
        left_out: how many more there are, about other samples.
    """

    answers: Sequence[Answer] = ()
    lines: Sequence[int] = ()
    left_out: int = 0

    def evenly(self, most: int) -> "AnswerFile":
        """At most so many of the answers, spread over the file."""
        count = min(len(self.answers), most)
        return self._at(np.linspace(0, len(self.answers) - 1, count).astype(int).tolist())

    def below(self, n: int) -> "AnswerFile":
        """The answers about samples of numbers below n; the others are left out."""
        questions = [answer.question for answer in self.answers]
        kept = [k for k, q in enumerate(questions) if max(q.anchor, *q.candidates) < n]
        more = len(self.answers) - len(kept)
        return dataclasses.replace(self._at(kept), left_out=self.left_out + more)

    def _at(self, places: Sequence[int]) -> "AnswerFile":
        answers, lines = [self.answers[k] for k in places], [self.lines[k] for k in places]
        return dataclasses.replace(self, answers=answers, lines=lines)


def read_answers(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> list[Answer]:
    """The answers alone of `read_answer_file`."""
    return list(read_answer_file(path, names).answers)


def read_answer_file(
    path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> AnswerFile:
    """Reads a JSON-lines file such as answers.jsonl; empty lines are skipped.

    Args:
        names: [n] ids of the samples. Answers with "names" are then about the samples of these
            names, whatever their numbers in the file, and what is about others is left out.
            None: numbers count.

    Raises:
        UserError: the file is not there, or says which line of it is not an answer.
    """
    row_of = None if names is None else {name: row for row, name in enumerate(names)}
    try:
        text = at_home(path).read_text("utf-8-sig")  # tools of Windows like to mark theirs
    except (OSError, UnicodeDecodeError) as error:
        reason = "not text in UTF-8" if isinstance(error, ValueError) else error.strerror
        raise UserError(
            f"no answers can be read from {path} ({reason}); name a file such as the answers.jsonl "
            "of a run"
        ) from error
    found: list[tuple[int, Answer | None]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entry = _json(line)
                answer = answer_from_dict(entry)
                if row_of is not None and "names" in entry:
                    answer = _by_name(answer, entry["names"], row_of)
                found.append((number, answer))
            except UserError as error:
                raise UserError(f"line {number} of {path} is not an answer: {error}") from error
    here = [(number, answer) for number, answer in found if answer is not None]
    lines, answers = [number for number, _ in here], [answer for _, answer in here]
    return AnswerFile(answers, lines, len(found) - len(here))


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # also numbers without end
        raise UserError(
            'each line must be JSON such as {"anchor": 3, "candidates": [5], "relations": '
            f'["alike"], "oracle": "me"}}, not {line[:80]!r}'
        ) from None


def _by_name(answer: Answer, names: Any, row_of: Mapping[str, int]) -> Answer | None:
    """The answer about the samples of these names, as far as they are there; None if it is not."""
    asked = 1 + len(answer.question.candidates)
    if not isinstance(names, list) or len(names) != asked or any(type(n) is not str for n in names):
        raise UserError(f"names must be those of its {asked} samples, not {str(names)[:80]}")
    rows = [row_of.get(name) for name in names]
    there = [
        (row, relation)
        for row, relation in zip(rows[1:], answer.relations, strict=True)
        if row is not None
    ]
    if rows[0] is None or not there:
        return None
    candidates, relations = zip(*there, strict=True)
    return Answer(Question(rows[0], candidates), relations, answer.oracle)


def _feed(process: subprocess.Popen[str], asked: Sequence[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin as stdin:
        # An error means that it has stopped reading; what it writes, or does not, is what counts.
        for line in asked:
            stdin.write(line + "\n")
            stdin.flush()


def _drain(
    process: subprocess.Popen[str], lines: "queue.SimpleQueue[str | None]", count: int
) -> None:
    """The first `count` lines, then None; more are read, as they would block it, and dropped."""
    assert process.stdout is not None
    with process.stdout as stdout:  # closed here: elsewhere that would wait for this thread
        while line := stdout.readline(_LONGEST_LINE):
            if count > 0:
                lines.put(line)
                count -= 1
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Stops it and what it started: a child left behind would keep our pipes open."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
