import collections
import dataclasses
import json
import os
import sys
import time

import numpy as np
import pytest

from pal_jax import export
from pal_jax.active import oracles
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.questions import Question, Relation, answer_to_dict
from pal_jax.errors import Interrupted, UserError

LABELS = np.array([0, 0, 1, 1, 2, -1])
QUESTIONS = [Question(0, (1, 2)), Question(2, (3,)), Question(4, (5, 0, 1))]
TRUTH = oracles.LabelOracle(LABELS)(QUESTIONS)

# A program that answers by LABELS, the way a user would write one.
PROGRAM = f"""
import json, sys
labels = {LABELS.tolist()}
for line in sys.stdin:
    q = json.loads(line)
    a = labels[q["anchor"]]
    relations = [
        "not sure" if min(a, labels[c]) < 0 else "alike" if a == labels[c] else "not alike"
        for c in q["candidates"]
    ]
    print(json.dumps({{"relations": relations}}), flush=True)
"""


def program(text: str, tmp_path, **settings) -> oracles.ProgramOracle:
    path = tmp_path / "with a space.py"
    path.write_text(text)
    return oracles.ProgramOracle(f"'{sys.executable}' '{path}'", **settings)


def test_a_program_is_told_the_names_of_the_samples(tmp_path):
    text = """
import json, sys
for line in sys.stdin:
    anchor, *others = json.loads(line)["names"]
    same = ["alike" if name[0] == anchor[0] else "not alike" for name in others]
    print(json.dumps({"relations": same}), flush=True)
"""
    names = ["cat/1.png", "dog/1.png", "cat/2.png"]
    (answer,) = program(text, tmp_path, names=names)([Question(0, (1, 2))])
    assert answer.relations == (Relation.NOT_ALIKE, Relation.ALIKE)


def answer_file(tmp_path) -> oracles.FileOracle:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(answer_to_dict(answer)) + "\n\n" for answer in TRUTH))
    return oracles.FileOracle(path)


ORACLES = {
    "labels": lambda _: oracles.LabelOracle(LABELS),
    "noisy": lambda _: oracles.NoisyOracle(oracles.LabelOracle(LABELS), 0.0, seed=0),
    "file": answer_file,
    "program": lambda tmp_path: program(PROGRAM, tmp_path),
}


@pytest.mark.parametrize("name", ORACLES)
def test_oracle_contract(name, tmp_path):
    oracle = ORACLES[name](tmp_path)
    assert list(oracle([])) == []
    for questions in (QUESTIONS, QUESTIONS[::-1]):  # called again; order is that of the questions
        answers = list(oracle(questions))
        assert [answer.question for answer in answers] == questions
        by_question = {answer.question: answer.relations for answer in TRUTH}
        assert [a.relations for a in answers] == [by_question[q] for q in questions]
        assert {answer.oracle for answer in answers} == {name}


def test_a_number_without_end_is_no_answer_and_no_traceback(tmp_path):
    (tmp_path / "long.jsonl").write_text('{"anchor": ' + 5_000 * "9" + "}\n")
    with pytest.raises(UserError, match="line 1"):
        oracles.read_answers(tmp_path / "long.jsonl")


@pytest.mark.parametrize("labels", [[0, 1, 0, -1, 1, 0, 2], [0, 0, 0], [0, 1, 2, 3], [-1, 0]])
def test_a_partition_as_answers_is_random_pairs_half_of_them_alike(labels):
    """Against the same draws, each from a list of all samples that could be drawn."""
    told = oracles.answers_from_groups(labels, "guess", np.random.default_rng(0))
    groups, rng, expected = np.array(labels), np.random.default_rng(0), {}
    samples = np.flatnonzero(groups >= 0)
    for number in range(3 * len(samples) if len(samples) > 1 else 0):
        i = rng.choice(samples)
        alike = number % 2 == 1
        others = [j for j in samples if (groups[j] == groups[i]) == alike]
        j = rng.choice(others) if others else i
        if i != j:
            expected.setdefault(frozenset((int(i), int(j))), alike)
    found = {
        frozenset((i, j)): relation is Relation.ALIKE
        for answer in told
        for i, j, relation in answer.judgements
    }
    assert found == expected
    assert len(told) == len(found)


def test_answers_are_about_the_samples_that_they_name(tmp_path):
    """Pictures were added, and one was taken away."""
    before, after = ["a", "b", "c", "d"], ["0", "a", "c", "d"]
    told = LabelOracle(np.array([0, 0, 1, 1]))(
        [Question(0, (1, 2)), Question(2, (3,)), Question(1, (3,)), Question(3, (1,))]
    )
    path = tmp_path / "answers.jsonl"
    export.write_answers(path, told, before)
    assert oracles.read_answers(path) == oracles.read_answers(path, before) == told
    found = oracles.read_answers(path, after)
    assert [(a.question.anchor, a.question.candidates, a.relations) for a in found] == [
        (1, (2,), (Relation.NOT_ALIKE,)),
        (2, (3,), (Relation.ALIKE,)),
    ]
    (answer,) = oracles.FileOracle(path, names=after)([Question(3, (2, 1))])
    assert answer.relations == (Relation.ALIKE, Relation.UNKNOWN)
    path.write_text(
        '{"anchor": 0, "candidates": [1], "relations": ["alike"], "oracle": "me", "names": ["a"]}'
    )
    with pytest.raises(UserError, match=r"line 1 .* names"):
        oracles.read_answers(path, after)


@pytest.mark.parametrize("pause", [60.0, 0.05], ids=["then thinks", "goes on and on"])
def test_a_program_that_is_stopped_keeps_what_it_has_written(tmp_path, pause):
    """It answers six of 400 at once, then waits before each."""
    (tmp_path / "slow.py").write_text(
        "import sys, time\n"
        "for number, line in enumerate(sys.stdin.readlines()):\n"
        f"    time.sleep({pause} if number > 5 else 0)\n"
        '    print(\'{"relations": ["alike"]}\', flush=number >= 5)\n'
    )
    told, begin = [], time.monotonic()
    program = oracles.ProgramOracle(
        f"{sys.executable} {tmp_path}/slow.py", stop=lambda: len(told) > 0
    )
    asked = [Question(0, (k,)) for k in range(1, 401)]
    with pytest.raises(Interrupted):
        collections.deque(map(told.append, program(asked)), maxlen=0)
    assert 6 <= len(told) < 60
    assert time.monotonic() - begin < 15


def test_a_label_of_minus_one_is_not_sure_and_a_missing_one_an_error():
    assert TRUTH[2].relations == (Relation.UNKNOWN, Relation.NOT_ALIKE, Relation.NOT_ALIKE)
    with pytest.raises(UserError, match="6 labels"):
        oracles.LabelOracle(LABELS)([Question(0, (6,))])
    for labels in (np.zeros(3), np.zeros((2, 2), int)):
        with pytest.raises(UserError):
            oracles.LabelOracle(labels)


def test_noise_flips_at_its_rate_and_not_sure_never():
    n = 4000
    questions = [Question(0, (i,)) for i in range(1, n)]
    labels = np.zeros(n, int)
    labels[-1] = -1
    answers = list(oracles.NoisyOracle(oracles.LabelOracle(labels), 0.2, seed=1)(questions))
    wrong = sum(answer.relations[0] is Relation.NOT_ALIKE for answer in answers)
    assert abs(wrong / n - 0.2) < 0.03
    assert answers[-1].relations == (Relation.UNKNOWN,)


def test_noise_is_fresh_for_each_time_and_the_same_after_a_stop():
    def hear(questions, history=(), seed=5):
        zeros = oracles.LabelOracle(np.zeros(3, int))
        return list(oracles.NoisyOracle(zeros, 0.4, seed, history)(questions))

    questions = [Question(0, (1,)), Question(1, (0,)), Question(0, (2, 1))] * 20
    whole = hear(questions)
    assert len({answer.relations for answer in whole[::3]}) == 2  # one pair, several answers
    for stop in (1, 17):
        rest = hear(questions[stop:], whole[:stop])
        assert whole[:stop] + rest == whole
    assert hear(questions, seed=6) != whole


@pytest.mark.parametrize("flip", [-0.1, 0.5, 1.0, float("nan")])
def test_a_flip_that_teaches_nothing_is_refused(flip):
    with pytest.raises(UserError):
        oracles.NoisyOracle(oracles.LabelOracle(LABELS), flip, 0)


def test_a_file_answers_in_both_directions_by_majority(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [(0, 1, "alike"), (1, 0, "not alike"), (0, 1, "alike"), (2, 3, "not sure")]
    path.write_text(
        "\n".join(
            json.dumps({"anchor": i, "candidates": [j], "relations": [r], "oracle": "x"})
            for i, j, r in lines
        )
    )
    (answer,) = oracles.FileOracle(path)([Question(1, (0, 2))])
    assert answer.relations == (Relation.ALIKE, Relation.UNKNOWN)


@pytest.mark.parametrize("text", ["{", "[1]", '{"anchor": 1}', "[" * 100_000, "\udcff"])
def test_a_contradictory_or_broken_file_names_its_line(tmp_path, text):
    path = tmp_path / "a.jsonl"
    good = json.dumps(answer_to_dict(TRUTH[0]))
    path.write_bytes(f"{good}\n{text}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"line 2|not text in UTF-8"):
        oracles.FileOracle(path)
    with pytest.raises(UserError):
        oracles.FileOracle(tmp_path / "missing.jsonl")


def test_answers_may_lie_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text(json.dumps(answer_to_dict(TRUTH[0])))
    assert oracles.read_answers("~/a.jsonl") == [TRUTH[0]]


FIRST_ONLY = 'import sys; print(\'{"relations": ["alike", "not alike"]}\', flush=True);'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FIRST_ONLY + "import time; time.sleep(60)", "more than 0.5 s for answer 2 of 3"),
        (FIRST_ONLY + "sys.stdin.close(); print('yes, I think', flush=True)", "a line of JSON"),
        (FIRST_ONLY + "print('[]', flush=True)", "an object"),
        (FIRST_ONLY + "print('[' * 100000, flush=True)", "a line of JSON"),
        (FIRST_ONLY + 'print(\'{"relations": ["alike"] * 2}\', flush=True)', "a line of JSON"),
        (FIRST_ONLY + 'print(\'{"relations": ["maybe"]}\', flush=True)', "unknown relation"),
        (FIRST_ONLY + "print('{\"relations\": []}', flush=True)", "0 relations"),
        (FIRST_ONLY + 'print(\'{"anchor": 1, "relations": ["alike"]}\', flush=True)', "not asked"),
        (FIRST_ONLY + "sys.exit(3)", "exit code 3 before answer 2 of 3"),
        (FIRST_ONLY + "print('x' * 9000000)", "a line of JSON"),
    ],
)
def test_what_a_program_said_before_it_failed_is_kept(tmp_path, text, message):
    timeout = 0.5 if "sleep" in text else 20.0
    start = time.monotonic()
    heard = []
    with pytest.raises(oracles.OracleError, match=message) as raised:
        heard.extend(program(text, tmp_path, timeout=timeout)(QUESTIONS))
    assert f"{tmp_path}/with a space.py" in str(raised.value)
    assert "mend the program" in str(raised.value)
    assert [answer.question for answer in heard] == QUESTIONS[:1]
    assert heard[0].relations == TRUTH[0].relations
    assert time.monotonic() - start < 15


def test_a_program_that_reads_nothing_does_not_block(tmp_path):
    many = [Question(i, (i + 1,)) for i in range(20_000)]  # more than a pipe holds
    with pytest.raises(oracles.OracleError, match="took more than"):
        list(program("import time; time.sleep(60)", tmp_path, timeout=0.5)(many))


def test_a_program_that_leaves_a_child_behind_does_not_block(tmp_path):
    text = "import subprocess; subprocess.Popen(['sleep', '60'])"  # it holds our pipes open
    start = time.monotonic()
    with pytest.raises(oracles.OracleError, match="took more than"):
        list(program(text, tmp_path, timeout=0.5)(QUESTIONS))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("command", ["", "'", "/no/such/program", "echo $(touch x); true"])
def test_commands_that_cannot_run_get_one_sentence(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        list(oracles.ProgramOracle(command)(QUESTIONS))
    assert not (tmp_path / "x").exists()  # no shell was involved


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_timeout_that_no_clock_can_wait_is_refused(timeout):
    with pytest.raises(UserError, match="finite"):
        oracles.ProgramOracle("true", timeout=timeout)


def test_each_answer_of_a_program_is_heard_before_it_gives_the_next(tmp_path):
    text = PROGRAM + "    import time; time.sleep(0.3)\n"  # after each answer
    start = time.monotonic()
    answers = program(text, tmp_path)(QUESTIONS * 100)
    assert next(answers) == dataclasses.replace(TRUTH[0], oracle="program")
    assert next(answers).question == QUESTIONS[1]
    answers.close()  # no more are wanted: the program is stopped, not waited for
    assert time.monotonic() - start < 15


def test_noise_is_heard_answer_by_answer():
    def two(questions):
        yield TRUTH[0]
        raise RuntimeError("the line is dead")

    answers = oracles.NoisyOracle(two, 0.0, 0)(QUESTIONS)
    assert next(answers).question == QUESTIONS[0]


def test_a_program_ends_by_itself_after_its_last_answer(tmp_path):
    done = tmp_path / "done"
    text = PROGRAM + f"import time; time.sleep(0.5); open({str(done)!r}, 'w').close()"
    assert len(list(program(text, tmp_path)(QUESTIONS))) == 3
    assert done.exists()


def test_a_program_that_never_ends_or_falls_silent_is_killed(tmp_path):
    pid = tmp_path / "pid"
    begin = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    start = time.monotonic()
    text = begin + PROGRAM + "\nwhile True: print('more and more', flush=True)"
    assert len(list(program(text, tmp_path, timeout=2.0)(QUESTIONS))) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    text = begin + "import sys, time; os.close(1); time.sleep(60)"
    with pytest.raises(oracles.OracleError, match="closed its output before answer 1"):
        list(program(text, tmp_path, timeout=2.0)(QUESTIONS))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert time.monotonic() - start < 20


def test_a_grandchild_that_escaped_and_holds_the_pipe_does_not_block(tmp_path):
    escape = "import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True)\n"
    start = time.monotonic()
    assert len(list(program(escape + PROGRAM, tmp_path)(QUESTIONS))) == 3
    assert time.monotonic() - start < 15
