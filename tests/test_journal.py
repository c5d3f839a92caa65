import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from pal_jax.active.journal import SCHEMA_VERSION, Journal
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def answer(i: int) -> Answer:
    return Answer(Question(i, (i + 1, i + 2)), (Relation.ALIKE, Relation.UNKNOWN), "me")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "answers.db"


def test_what_was_appended_is_there_in_order_after_reopening(path):
    with Journal(path) as journal:
        journal.append([answer(3), answer(1)])
        journal.append([])
        journal.append([answer(2)])
        assert len(journal) == 3
    with Journal(path) as journal:
        assert len(journal) == 3
        assert journal.answers() == [answer(3), answer(1), answer(2)]
        assert journal.answers(since=2) == [answer(2)]


def test_a_failing_call_writes_nothing_at_all(path):
    class Broken:
        question = Question(0, (1,))
        relations = (Relation.ALIKE,)

        @property
        def oracle(self):
            raise RuntimeError("stop")

    with Journal(path) as journal:
        with pytest.raises(RuntimeError):
            journal.append([answer(0), Broken()])  # pyright: ignore[reportArgumentType]
        journal.append([answer(1)])
        assert journal.answers() == [answer(1)]


def test_a_second_writer_is_turned_away_until_the_first_has_closed(path):
    program = (
        "import sys; from pal_jax.active.journal import Journal\n"
        "try: Journal(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with Journal(path):
        with pytest.raises(UserError, match="in use by another process"):
            Journal(path)
        said = subprocess.check_output(command, cwd=ROOT, text=True)
    assert "in use by another process" in said
    assert subprocess.check_output(command, cwd=ROOT, text=True) == ""


def test_rows_can_neither_be_changed_nor_deleted_nor_replaced(path):
    with Journal(path) as journal:
        journal.append([answer(0), answer(1)])
    with sqlite3.connect(path) as db:
        for statement in (
            "UPDATE answers SET written = 0",
            "DELETE FROM answers",
            "INSERT INTO answers VALUES (9, 0, '{}')",
            "INSERT OR REPLACE INTO answers VALUES (1, 0, '{}')",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)
    db.close()


def hostile_files():
    """name -> what it does to a closed journal."""

    def foreign(path):
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE answers (x)")
        db.close()

    def execute(*statements):
        def change(path):
            db = sqlite3.connect(path, isolation_level=None)
            for statement in statements:
                db.execute(statement)
            db.close()

        return change

    def truncated(path):
        path.write_bytes(path.read_bytes()[:5000])

    return {
        "text": lambda path: path.write_text("not a database, but longer than a header" * 9),
        "empty": lambda path: path.write_bytes(b""),
        "foreign database": foreign,
        "newer": execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}"),
        "another trigger": execute(
            "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END"
        ),
        "no trigger": execute("DROP TRIGGER no_update"),
        "truncated": truncated,
        "garbage in a row": execute("INSERT INTO answers VALUES (2, 0, '{\"anchor\": 1}')"),
    }


@pytest.mark.parametrize("name", hostile_files())
def test_hostile_files_are_refused_and_left_as_they_are(path, name):
    with Journal(path) as journal:
        journal.append([answer(0)])
    hostile_files()[name](path)
    before = path.read_bytes()
    with pytest.raises(UserError), Journal(path) as journal:
        journal.answers()
    assert path.read_bytes() == before
    with pytest.raises(UserError), Journal(path) as journal:  # the lock was given back
        journal.answers()


@pytest.mark.parametrize("obstacle", ["deep", "deep/answers.db.lock/x", "deep/answers.db.new/x"])
def test_a_folder_that_cannot_be_written_gets_one_sentence(path, obstacle):
    blocked = path.parent.parent / obstacle  # root may write anywhere: no permission stops it
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.touch()
    with pytest.raises(UserError, match="choose a workdir"):
        Journal(path)


def test_a_full_disk_acknowledges_nothing(path):
    with Journal(path) as journal:
        journal.append([answer(0)])
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="full"):
            journal.append([answer(i) for i in range(500)])
        assert journal.answers() == [answer(0)]
        journal._db.execute("PRAGMA max_page_count = 1000000")
        journal.append([answer(1)])
    with Journal(path) as journal:
        assert journal.answers() == [answer(0), answer(1)]


WRITER = """
import sys
from pal_jax.active.journal import Journal
from pal_jax.active.questions import Answer, Question, Relation
journal = Journal(sys.argv[1])
while True:
    i = len(journal)
    journal.append([Answer(Question(i + m, (i + m + 1,)), (Relation.ALIKE,), "w") for m in (0, 1)])
    print(len(journal), flush=True)
"""


def test_kill_minus_nine_loses_no_acknowledged_answer(path):
    acknowledged = 0
    for attempt in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()  # it is at work
            time.sleep(0.002 * attempt)
            os.kill(writer.pid, signal.SIGKILL)
            lines = writer.stdout.read().split()
        acknowledged = max([acknowledged, *map(int, lines)])
        with Journal(path) as journal:
            answers = journal.answers()
        assert len(answers) >= acknowledged
        assert len(answers) % 2 == 0  # a call is one transaction
        assert [a.question.anchor for a in answers] == list(range(len(answers)))
        acknowledged = len(answers)


def test_a_journal_that_was_taken_away_leaves_nothing_behind(path):
    """SQLite would read the -wal of a killed process into whatever has the journal's name."""
    code = (
        "import os, signal, sys; from pal_jax.active.journal import Journal;"
        "from pal_jax.active.questions import Answer, Question, Relation;"
        "Journal(sys.argv[1]).append([Answer(Question(0, (1,)), (Relation.ALIKE,), 'me')] * 5);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert path.with_name(path.name + "-wal").stat().st_size
    path.unlink()
    with Journal(path) as journal:
        assert journal.answers() == []


def test_a_line_that_was_changed_by_hand_is_named_with_what_to_do(path):
    with Journal(path) as journal:
        journal.append([answer(0), answer(1)])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        query = "SELECT sql FROM sqlite_schema WHERE name = 'no_update'"
        ((trigger,),) = db.execute(query).fetchall()
        for statement in (
            "DROP TRIGGER no_update",
            "UPDATE answers SET answer = 'alike' WHERE position = 2",
            trigger,
        ):
            db.execute(statement)
    with (
        Journal(path) as journal,
        pytest.raises(UserError, match=r"answer 2 of the journal .* damaged .*; remove it and"),
    ):
        journal.answers()


def test_wall_times_are_kept_but_not_in_the_answers(path):
    before = time.time()
    with Journal(path) as journal:
        journal.append([answer(0)])
        ((written, text),) = journal._db.execute("SELECT written, answer FROM answers").fetchall()
    assert before <= written <= time.time()
    assert set(json.loads(text)) == {"anchor", "candidates", "relations", "oracle"}


def test_a_snapshot_brings_a_lost_journal_back_and_never_changes_another(path, tmp_path):
    with Journal(path) as journal:
        journal.append([answer(3), answer(1)])
        snapshot = json.loads(json.dumps(journal.snapshot()))
        journal.append([answer(2)])
        journal.refill(snapshot)
        assert journal.answers() == [answer(3), answer(1), answer(2)]
    with Journal(tmp_path / "lost.db") as journal:
        journal.refill(snapshot)
        assert journal.answers() == [answer(3), answer(1)]
    with Journal(tmp_path / "behind.db") as journal:
        journal.append([answer(3)])
        journal.refill(snapshot)
        assert journal.answers() == [answer(3), answer(1)]
    with Journal(tmp_path / "other.db") as journal:
        journal.append([answer(1)])
        with pytest.raises(UserError, match="different answers"):
            journal.refill(snapshot)
        assert journal.answers() == [answer(1)]
