import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pal_jax.active import geometry, refit, strategies
from pal_jax.active.geometry import check_embeddings
from pal_jax.active.journal import Journal
from pal_jax.active.oracles import LabelOracle, NoisyOracle, OracleError, answers_from_groups
from pal_jax.active.posterior import infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.sampler import Sampler, number_by_size
from pal_jax.active.stopping import Audit
from pal_jax.errors import UserError

STRATEGIES = [strategies.random_pairs, strategies.most_informative]
LABELS = np.arange(48) % 4
Z = np.random.default_rng(0).normal(size=(48, 5)) + 2.5 * np.eye(5)[LABELS]


class Counting:
    """An oracle that remembers what it was asked, and fails on demand."""

    def __init__(self, fail_after: int = 10**9, flip: float = 0.0, history=()):
        self.oracle = NoisyOracle(LabelOracle(LABELS), flip, 3, history)
        self.asked: list[Question] = []
        self.fail_after = fail_after

    def __call__(self, questions):
        for question in questions:
            if len(self.asked) == self.fail_after:
                raise OracleError("the line is dead")
            self.asked.append(question)
            yield from self.oracle([question])


def pairs(answers) -> list[frozenset[int]]:
    return [frozenset((i, j)) for answer in answers for i, j, _ in answer.judgements]


@pytest.mark.parametrize("candidates", [1, 5])
@pytest.mark.parametrize("at_once", [1, 7])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_budget_is_spent_and_never_exceeded(strategy, at_once, candidates):
    sampler = Sampler(48, budget=23, strategy=strategy, candidates=candidates)
    oracle = Counting()
    told = sum(sampler.ask(oracle, Z, 6, at_once=at_once) for _ in range(9))
    assert told == sampler.spent == sum(len(q.candidates) for q in oracle.asked) == 23
    assert sampler.left == 0
    assert sampler.propose(Z, 5) == []
    assert sampler.audit(oracle, Z, 5) is None
    assert [answer.question for answer in sampler.answers] == oracle.asked
    with pytest.raises(UserError, match=r"raise the budget: .* same journal"):
        sampler.tell(LabelOracle(LABELS)([Question(0, (1,))]))


def test_ask_counts_questions_and_returns_judgements():
    sampler = Sampler(48, budget=100, candidates=3)
    oracle = Counting()
    assert sampler.ask(oracle, Z, 4) == sum(len(q.candidates) for q in oracle.asked)
    assert len(oracle.asked) == 4


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("candidates", [1, 5])
def test_ask_buys_no_more_judgements_than_it_may(at_once, candidates):
    sampler = Sampler(48, budget=30, candidates=candidates)
    for judgements, told in [(7, 7), (0, 0), (-3, 0), (8, 8), (100, 15)]:
        assert sampler.ask(Counting(), Z, 99, at_once=at_once, judgements=judgements) == told
    assert sampler.spent == 30


@pytest.mark.parametrize("every", [0, 7])
@pytest.mark.parametrize("where", ["memory", "journal"])
@pytest.mark.parametrize("error_rate", [0.0, 0.2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resuming_continues_the_same_run(strategy, error_rate, where, every, tmp_path, request):
    def new(path):
        journal = Journal(path) if where == "journal" else None
        if journal is not None:
            request.addfinalizer(journal.close)
        return journal, Sampler(48, budget=60, strategy=strategy, journal=journal,
                                error_rate=error_rate, seed=4, refit=every)  # fmt: skip

    def go(sampler, oracle, rounds):
        for _ in range(rounds):
            sampler.ask(oracle, Z, 5)
            sampler.batch(12)
        return sampler

    _, whole = new(tmp_path / "whole.db")
    go(whole, Counting(flip=error_rate), 6)
    journal, first = new(tmp_path / "first.db")
    go(first, Counting(flip=error_rate), 2)
    state = json.loads(json.dumps(first.state_dict()))
    # The journal gets further than the state that was saved; then the process is killed.
    first.ask(Counting(flip=error_rate, history=first.answers), Z, 3) if journal else None
    bought = first.answers
    if journal is not None:
        journal.close()
    _, second = new(tmp_path / "first.db")
    second.load_state_dict(state)
    oracle = Counting(flip=error_rate, history=bought)
    go(second, oracle, 4)
    assert second.answers == whole.answers
    assert [a.question for a in bought] + oracle.asked == [a.question for a in whole.answers]
    np.testing.assert_array_equal(second.batch(12).ids, whole.batch(12).ids)
    one, other = second.partition(Z), whole.partition(Z)
    np.testing.assert_array_equal(one.groups, other.groups)
    np.testing.assert_array_equal(one.probability, other.probability)
    assert second.audit(oracle, Z, 9) == whole.audit(Counting(flip=error_rate,
                                                     history=whole.answers), Z, 9)  # fmt: skip


def test_a_run_stopped_inside_a_batch_of_questions_buys_only_the_rest(tmp_path):
    whole = Sampler(48, budget=60)
    whole.ask(Counting(), Z, 20, at_once=10)
    with Journal(tmp_path / "j") as journal:
        sampler = Sampler(48, budget=60, journal=journal)
        with pytest.raises(OracleError):
            sampler.ask(Counting(fail_after=14), Z, 20, at_once=10)
        assert sampler.spent == len(journal) == 14
    with Journal(tmp_path / "j") as journal:  # no state was ever saved
        sampler = Sampler(48, budget=60, journal=journal)
        oracle = Counting()
        sampler.ask(oracle, Z, 20, at_once=10)
        assert sampler.answers == whole.answers == journal.answers()
        assert len(oracle.asked) == 6


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OracleError])
def test_what_an_oracle_said_before_it_failed_is_told(tmp_path, error):
    def oracle(questions):
        yield from LabelOracle(LABELS)(questions[:19])
        raise error("at question 20")

    with Journal(tmp_path / "j") as journal:
        sampler = Sampler(48, budget=60, journal=journal)
        with pytest.raises(error):
            sampler.ask(oracle, Z, 20, at_once=20)
        assert sampler.spent == len(journal) == 19
        assert sampler.answers == journal.answers()


def test_kill_minus_nine_at_answer_20_of_20_loses_none_of_the_19(tmp_path):
    code = """
import os, signal, sys
import numpy as np
from pal_jax.active.journal import Journal
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.sampler import Sampler

def oracle(questions):
    yield from LabelOracle(np.arange(48) % 4)(questions[:19])
    os.kill(os.getpid(), signal.SIGKILL)

z = np.random.default_rng(0).normal(size=(48, 5))
Sampler(48, budget=60, journal=Journal(sys.argv[1])).ask(oracle, z, 20, at_once=20)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")], timeout=60)
    assert run.returncode == -signal.SIGKILL
    with Journal(tmp_path / "j") as journal:
        assert len(journal) == 19


@pytest.mark.parametrize("use", ["ask", "judgements", "audit"])
def test_answers_bought_elsewhere_leave_fewer_to_buy(tmp_path, use):
    with Journal(tmp_path / "j") as journal:
        Sampler(48, budget=20, journal=journal, seed=1).ask(Counting(), Z, 12)
        sampler = Sampler(48, budget=20, journal=journal, seed=2,
                          strategy=strategies.random_pairs)  # fmt: skip
        oracle = Counting()
        if use == "ask":
            assert sampler.ask(oracle, Z, 15, at_once=15) == 20
        elif use == "judgements":
            assert sampler.ask(oracle, Z, 15, at_once=15, judgements=15) == 15
        else:
            audit = sampler.audit(oracle, Z, 15)
            assert audit is not None
            assert audit.judgements == len(oracle.asked) == 8
        assert len(oracle.asked) == sampler.spent - 12
        assert sampler.answers == journal.answers()


def test_answers_of_another_course_of_events_are_neither_lost_nor_asked_again(tmp_path):
    with Journal(tmp_path / "j") as journal:
        Sampler(48, budget=60, journal=journal, seed=1).ask(Counting(), Z, 12)
        other = strategies.random_pairs
        for use in ("ask", "propose", "tell"):
            sampler = Sampler(48, budget=60, journal=journal, strategy=other, seed=2)
            before = len(journal)
            if use == "ask":
                sampler.ask(Counting(), Z, 5)
                assert sampler.spent == before + 5
            elif use == "propose":
                sampler.propose(Z, 1)
                assert sampler.spent == before
            else:
                sampler.tell(LabelOracle(LABELS)([Question(0, (1,))]))
                assert sampler.spent == before + 1
            assert sampler.answers == journal.answers()
            asked = pairs(sampler.answers)
            assert len(set(asked)) >= len(asked) - (use == "tell")


def test_what_pending_answers_settle_is_not_bought_again(tmp_path):
    """A run that goes on from an embedding that differs in its last digits."""
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(OracleError):
            Sampler(48, budget=60, journal=journal).ask(Counting(fail_after=30), Z, 40, at_once=20)
        bought = pairs(journal.answers())
        for use in ("ask", "audit"):
            sampler = Sampler(48, budget=60, journal=journal)
            oracle = Counting()
            other = Z + 1e-3 * np.random.default_rng(1).normal(size=Z.shape)
            if use == "ask":
                sampler.ask(oracle, other, 40, at_once=20, judgements=40)
            else:
                sampler.audit(oracle, other, 20)
            assert oracle.asked
            assert not {frozenset((q.anchor, *q.candidates)) for q in oracle.asked} & {*bought}
            assert sampler.answers == journal.answers()
            bought = pairs(journal.answers())


def test_what_an_audit_heard_before_its_oracle_failed_counts():
    sampler = Sampler(48, budget=40)
    with pytest.raises(OracleError):
        sampler.audit(Counting(fail_after=7), Z, 20)
    audit = sampler.audit(Counting(), Z, 0)
    assert audit is not None
    assert audit.judgements == sampler.spent == 7


def test_a_state_and_a_sampler_must_both_have_a_journal_or_none(tmp_path):
    with Journal(tmp_path / "j") as journal:
        with_one, without = Sampler(48, budget=9, journal=journal), Sampler(48, budget=9)
        for one, other in ((with_one, without), (without, with_one)):
            with pytest.raises(UserError, match="journal"):
                one.load_state_dict(other.state_dict())


def test_a_state_of_more_samples_is_refused():
    larger, sampler = Sampler(60, budget=9), Sampler(48, budget=9)
    larger.tell([Answer(Question(55, (1,)), (Relation.ALIKE,), "me")])
    sampler.ask(Counting(), Z, 5)
    with pytest.raises(UserError, match="sample 55, but there are 48 samples"):
        sampler.load_state_dict(larger.state_dict())
    assert sampler.spent == 5


def test_a_journal_shorter_than_the_state_is_refused(tmp_path):
    with Journal(tmp_path / "a") as journal:
        sampler = Sampler(48, budget=9, journal=journal)
        sampler.ask(Counting(), Z, 5)
        state = sampler.state_dict()
    with Journal(tmp_path / "b") as journal:
        sampler = Sampler(48, budget=9, journal=journal)
        with pytest.raises(UserError, match="put the journal"):
            sampler.load_state_dict(state)


@pytest.mark.parametrize(
    "bad",
    [
        [Answer(Question(0, (48,)), (Relation.ALIKE,), "x")],
        [Answer(Question(48, (0,)), (Relation.ALIKE,), "x")],
        [Answer(Question(0, tuple(range(1, 12))), (Relation.ALIKE,) * 11, "x")],
    ],
)
def test_a_bad_answer_refuses_the_whole_call(tmp_path, bad):
    good = LabelOracle(LABELS)([Question(0, (1,))])
    with Journal(tmp_path / "j") as journal:
        sampler = Sampler(48, budget=10, journal=journal)
        with pytest.raises(UserError):
            sampler.tell(good + bad)
        assert (len(journal), sampler.spent, sampler.answers) == (0, 0, [])
        sampler.tell(good)
        assert (len(journal), sampler.spent) == (1, 1)


def test_answers_may_come_from_a_generator(tmp_path):
    questions = [Question(0, (1,)), Question(2, (6,)), Question(3, (4,))]
    expected = LabelOracle(LABELS)(questions)
    with Journal(tmp_path / "j") as journal:
        sampler = Sampler(48, budget=10, journal=journal, prior=(a for a in expected))
        assert len(sampler.relations.judgements().first) == 3
        sampler.tell(a for a in expected)
        assert sampler.answers == journal.answers() == expected
        assert sampler.spent == 3


def test_an_oracle_that_answers_something_else_is_refused():
    def wrong(questions):
        return LabelOracle(LABELS)([Question(1, (2,)) for _ in questions])

    for oracle in (wrong, lambda _: []):
        sampler = Sampler(48, budget=10)
        with pytest.raises(UserError, match="each question"):
            sampler.ask(oracle, Z, 2)
        assert sampler.spent == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda answers: answers[:3], 3),  # too few
        (lambda answers: answers + answers[-1:], 5),  # too many
        (lambda answers: answers[:2] + answers[:1:-1], 2),  # out of order
    ],
)
def test_answers_in_their_order_count_up_to_the_first_that_is_not(change, told):
    closed = []

    def oracle(questions):
        try:
            yield from change(LabelOracle(LABELS)(questions))
        finally:
            closed.append(True)

    sampler = Sampler(48, budget=10)
    with pytest.raises(UserError, match="each question"):
        sampler.ask(oracle, Z, 5, at_once=5)
    assert sampler.spent == told
    assert closed  # at once, so that a program behind it is stopped


def test_an_embedding_seen_last_is_not_checked_again(monkeypatch):
    checked = []

    def check(embeddings, n):
        checked.append(n)
        return check_embeddings(embeddings, n)

    monkeypatch.setattr(geometry, "check_embeddings", check)
    z = Z.copy()
    sampler = Sampler(48, budget=40)
    sampler.ask(Counting(), z, 5)
    assert len(checked) == 1  # an array that can be written to: once a call
    z.setflags(write=False)
    sampler.ask(Counting(), z, 5)
    sampler.ask(Counting(), z, 5)
    sampler.partition(z)
    sampler.propose(z, 1)
    assert len(checked) == 2
    assert sampler._geometry_of(Z) is sampler._geometry_of(z)  # another object, same content


@pytest.mark.parametrize(("view", "write"), [(False, True), (False, False), (True, False)])
def test_an_embedding_changed_in_place_is_seen(view, write):
    z = Z.copy()
    given = z[:] if view else z
    given.setflags(write=write)  # a read-only view does not keep its base from changing
    sampler = Sampler(48, budget=0)
    before = sampler.partition(given)
    z.setflags(write=True)
    z[:] = np.random.default_rng(1).permutation(Z)
    after = sampler.partition(given)
    assert not np.array_equal(before.groups, after.groups)
    np.testing.assert_array_equal(after.groups, Sampler(48, budget=0).partition(z).groups)


def test_the_embedding_is_refitted_each_so_many_judgements(monkeypatch):
    seen, whole = [], refit.refit

    def recorded(h, graph, groups):
        seen.append((sampler.spent, len(np.unique(groups))))
        return whole(h, graph, groups)

    monkeypatch.setattr("pal_jax.active.sampler.refit_lib.refit", recorded)
    sampler = Sampler(48, budget=20, refit=8)
    for _ in range(2):  # of how many calls the questions are does not matter
        sampler.ask(Counting(), Z, 10)
        sampler.partition(Z)
    assert [spent for spent, _ in seen] == [0, 8, 16]
    groups = [count for _, count in seen]
    assert groups[0] == 48 > groups[1] > groups[2]
    sampler.partition(Z + 1.0)  # another embedding: fitted anew to the same answers
    assert len(seen) == 4
    assert seen[-1] == (20, groups[2])


def test_a_refit_finds_groups_that_other_directions_hide():
    """Classes are tight along four directions; two wide ones have nothing to do with them."""
    labels, rng = np.arange(200) % 4, np.random.default_rng(0)
    tight = np.eye(4)[labels] + 0.15 * rng.normal(size=(200, 4))
    z = np.concatenate([tight, 6 * rng.random((200, 2))], axis=1)
    accuracy = []
    for every in (0, 10):
        sampler = Sampler(200, budget=20, refit=every)
        sampler.ask(LabelOracle(labels), z, 20)
        accuracy.append(partition_accuracy(sampler.partition(z).groups, labels))
    assert accuracy[0] < 0.7 < 0.85 < accuracy[1]


def test_partition_without_an_answer_comes_from_the_embedding():
    partition = Sampler(48, budget=0).partition(Z)
    sizes = np.bincount(partition.groups)
    assert 2 <= len(sizes) <= 12
    assert (np.diff(sizes) <= 0).all()


def test_a_passive_run_has_the_groups_of_its_labels():
    sampler = Sampler(48, budget=0, known=LABELS)
    np.testing.assert_array_equal(sampler.partition(Z).groups, LABELS)
    half = Sampler(48, budget=0, known=np.where(np.arange(48) < 24, LABELS, -1))
    groups = half.partition(Z).groups
    assert groups.max() == 3
    together = groups[:, None] == groups
    assert np.mean(together == (LABELS[:, None] == LABELS)) > 0.85  # as 3 nearest neighbours do


def test_groups_are_numbered_by_size_then_smallest_id():
    np.testing.assert_array_equal(number_by_size(np.array([9, 4, 4, 7, 7, 2])), [2, 0, 0, 1, 1, 3])


def test_batch_is_a_function_of_seed_and_number():
    first, second = Sampler(48, budget=1, seed=1), Sampler(48, budget=1, seed=1)
    second.load_state_dict({**second.state_dict(), "batches": 1})
    first.batch(9)
    first.tell(LabelOracle(LABELS)([Question(0, (1,))]))  # not alike: no partner for anybody
    np.testing.assert_array_equal(first.batch(16).ids, second.batch(16).ids)
    assert not np.array_equal(first.batch(16).ids, first.batch(16).ids)
    assert not np.array_equal(Sampler(48, budget=0, seed=2).batch(48).ids, first.batch(48).ids)


@pytest.mark.parametrize("known", [None, LABELS, np.arange(48) // 2, np.full(48, -1)])
@pytest.mark.parametrize("size", [1, 2, 20, 47, 48])
def test_batch_contract(known, size):
    sampler = Sampler(48, budget=0, known=known)
    relations = sampler.relations
    for _ in range(5):
        batch = sampler.batch(size)
        assert batch.ids.shape == batch.groups.shape == (size,)
        assert len(set(batch.ids.tolist())) == size
        assert batch.groups.dtype == np.int32
        assert batch.groups.min() >= 0
        assert batch.groups.max() < size
        for a in range(size):
            for b in range(a):
                alike = relations.relation(*batch.ids[[a, b]].tolist()) is Relation.ALIKE
                assert alike == (batch.groups[a] == batch.groups[b])


def test_half_of_a_batch_has_its_partner_with_it():
    known = np.full(3000, -1)
    known[:200] = np.arange(200) // 2  # pairs, which chance alone would hardly bring together
    sampler = Sampler(3000, budget=0, known=known)
    for _ in range(5):
        groups = sampler.batch(64).groups
        together = np.bincount(groups)[groups] > 1
        assert 24 <= together.sum() <= 44
    assert Sampler(3000, budget=0, known=known, related=0.0).batch(64).groups.max() > 60


@pytest.mark.parametrize("size", [0, -1, 49])
def test_impossible_batches_are_refused(size):
    with pytest.raises(UserError):
        Sampler(48, budget=0).batch(size)


@pytest.mark.parametrize(
    "z",
    [
        Z[:-1],
        Z[:, 0],
        np.where(np.arange(48)[:, None] == 7, np.nan, Z),
        Z + np.inf,
        Z > 0,
        Z[:, :0],
    ],
)
def test_embeddings_that_cannot_be_used_get_one_sentence(z):
    sampler = Sampler(48, budget=5)
    for use in (sampler.partition, lambda z: sampler.propose(z, 1)):
        with pytest.raises(UserError, match="embeddings"):
            use(z)


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0},
        {"budget": -1},
        {"seed": -1},
        {"error_rate": 0.5},
        {"error_rate": -0.1},
        {"error_rate": float("nan")},
        {"candidates": 0},
        {"related": 1.5},
        {"refit": -1},
        {"known": np.zeros(3, int)},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(UserError):
        Sampler(**{"n": 48, "budget": 5, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 48.0},
        {"budget": 2.5},
        {"budget": None},
        {"seed": 1.5},
        {"candidates": 2.5},
        {"refit": 0.5},
        {"exact": 2.5},
        {"related": "half"},
        {"error_rate": "0.1"},
        {"error_rate": ""},
        {"error_rates": {"guess": "0.1"}},
    ],
    ids=str,
)
def test_settings_of_a_wrong_type_are_named(settings):
    ((name, value),) = settings.items()
    name, value = ("error_rate", "0.1") if name == "error_rates" else (name, value)
    with pytest.raises(UserError, match=rf"{name}={value!r} is not a (whole )?number"):
        Sampler(**{"n": 48, "budget": 5, **settings})


def test_settings_may_be_numbers_of_numpy():
    one, half = np.int32(1), np.float32(0.5)
    Sampler(48, budget=one, seed=one, candidates=one, related=half, error_rate=half / 2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("count", "confidence"), [(-1, 0.95), (2.5, 0.95), (5, 1.0), (5, "1")])
def test_an_audit_that_cannot_be_buys_nothing(count, confidence):
    sampler = Sampler(48, budget=20)
    with pytest.raises(UserError):
        sampler.audit(Counting(), Z, count, confidence=confidence)
    assert sampler.spent == 0


def test_audit_teaches_counts_and_is_right_about_a_bad_partition():
    z = np.random.default_rng(5).normal(size=(48, 5))  # says nothing about the labels
    sampler = Sampler(48, budget=40)
    audit = sampler.audit(Counting(), z, 30)
    assert audit is not None
    assert audit.judgements == sampler.spent == 30
    assert audit.estimated_accuracy_low < audit.estimated_accuracy < 0.7


def test_an_audit_that_nothing_could_be_bought_for_says_nothing():
    assert Sampler(48, budget=0).audit(Counting(), Z, 30) is None
    assert Sampler(48, budget=9).audit(Counting(), Z, 0) is None
    audit = Sampler(48, budget=0, known=LABELS).audit(Counting(), Z, 30)  # nothing is unknown
    assert audit == Audit(1.0, 1.0, 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("error_rate", [0.0, 0.1, None])
def test_an_audit_buys_nothing_about_samples_with_known_labels(error_rate, share):
    known = np.where(np.random.default_rng(1).random(48) < share, LABELS, -1)
    sampler = Sampler(48, budget=100, error_rate=error_rate, known=known)
    audit = sampler.audit(Counting(), Z, 100)
    about = [answer.question.candidates[0] for answer in sampler.answers]
    assert sorted(about) == np.flatnonzero(known < 0).tolist()
    assert audit is not None
    if share == 1.0:
        assert audit == Audit(1.0, 1.0, 0)


def test_the_asking_side_never_imports_jax():
    code = (
        "import sys, pal_jax.active.sampler, pal_jax.active.oracles;"
        "print([m for m in ('jax', 'scipy', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_groups_follow_every_proof_and_contradictions_tell_what_they_do_not_follow():
    """Random answers about noise that has more classes than the embedding has clusters."""
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, 60, 300), rng.normal(size=(300, 4))
    asked = [Question(int(i), (int(j),)) for i, j in rng.integers(0, 300, (1_500, 2)) if i != j]
    sampler = Sampler(300, budget=len(asked))
    sampler.tell(LabelOracle(labels)(asked))
    groups = sampler.partition(z).groups
    for answer in sampler.answers:
        ((i, j, relation),) = answer.judgements
        assert (groups[i] == groups[j]) == (relation is Relation.ALIKE)
    assert sampler.contradictions(groups) == []
    wrong = sampler.contradictions(np.zeros(300, int))  # of one group for all
    assert len(wrong) == sum(a.relations[0] is Relation.NOT_ALIKE for a in sampler.answers)
    assert [c.position for c in wrong] == sorted(c.position for c in wrong)


@pytest.mark.parametrize("known", [None, np.where(np.arange(48) < 8, LABELS, -1)])
def test_only_samples_that_were_asked_about_or_labelled_are_taught(known):
    z = Z + 4.0 * np.eye(5)[LABELS]
    z[40:44] = z[[0, 1, 2, 3]] / 2 + z[[1, 2, 3, 0]] / 2  # between two classes
    sampler = Sampler(48, budget=40, error_rate=0.1, related=1.0, known=known)
    sampler.believe(z)
    samples, _ = sampler._by_belief()
    assert len(samples) == (0 if known is None else 8)
    unsure, labelled = set(), {*range(8)} if known is not None else set()
    for more in (4, 4, 24):
        sampler.ask(LabelOracle(LABELS), z, more)
        sampler.believe(z)
        samples, names = sampler._by_belief()
        heard = {i for answer in sampler.answers for pair in answer.judgements for i in pair[:2]}
        view = sampler._look_at(z)
        sure = infer(view.geometry, view.relations, sampler.trust).sureness()
        assert {*samples.tolist()} == {i for i in heard if sure[i] > 0.9} | labelled
        unsure |= {i for i in heard if sure[i] <= 0.9}
    assert unsure
    assert len(samples) > 10
    same = names[:, None] == names
    assert (same == (LABELS[samples][:, None] == LABELS[samples])).mean() > 0.95


@pytest.mark.parametrize("exact", [10_000, 1_000], ids=["all", "a sketch"])
@pytest.mark.parametrize("within", [1e-4, 1e-7, 0.0])
def test_classes_that_lie_in_points_are_found(within, exact):
    """As an encoder in supervised training leaves them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2_000)
    z = rng.normal(size=(10, 16))[labels] + within * rng.normal(size=(2_000, 16))
    sampler = Sampler(2_000, budget=200, exact=exact)
    sampler.ask(LabelOracle(labels), z, 200, at_once=50)
    found = sampler.partition(z)
    assert np.isfinite(found.probability).all()
    assert partition_accuracy(found.groups, labels) == 1.0


def test_audits_pool_and_calibrate():
    sampler = Sampler(48, budget=40)
    first = sampler.audit(Counting(), Z, 5)
    before = sampler.partition(Z).probability
    second = sampler.audit(Counting(), Z, 10)
    assert first is not None
    assert second is not None
    assert (first.judgements, second.judgements) == (5, 15)
    copied = Sampler(48, budget=40)
    copied.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    np.testing.assert_array_equal(copied.partition(Z).probability, sampler.partition(Z).probability)
    assert copied.audits == sampler.audits == 2
    assert not np.array_equal(before, sampler.partition(Z).probability)
    bought = sampler.spent
    again = sampler.audit(Counting(), Z, 0)  # what is known of it already, for nothing
    assert again is not None
    assert (again.judgements, sampler.spent) == (15, bought)


@pytest.mark.parametrize(
    ("error_rate", "odd", "most"), [(0.0, 0.15, 0.06), (None, 0.15, 0.06), (None, 0.3, 0.1)]
)
def test_what_an_audit_has_taught_is_not_taken_off_again(error_rate, odd, most):
    """Where a share of labels is odd, at random, audits make the model itself less sure."""
    gaps = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        looks = np.arange(400) % 6
        z = rng.normal(size=(6, 16))[looks] + 0.4 * rng.normal(size=(400, 16))
        labels = np.where(rng.random(400) < odd, rng.integers(0, 6, 400), looks)
        sampler = Sampler(400, budget=100, seed=seed, error_rate=error_rate)
        oracle = LabelOracle(labels)
        sampler.ask(oracle, z, 60)
        sampler.audit(oracle, z, 40)
        found = sampler.partition(z)
        gaps.append(found.probability.mean() - partition_accuracy(found.groups, labels))
    assert np.abs(gaps).mean() < most  # 40 answers leave 0.05 and 0.07 open


def test_a_state_without_the_pairs_of_audits_is_taken_up():
    """As earlier versions saved it."""
    sampler = Sampler(48, budget=40)
    sampler.audit(Counting(), Z, 10)
    state = json.loads(json.dumps(sampler.state_dict()))
    state["audited"] = [entry[:3] for entry in state["audited"]]
    copied = Sampler(48, budget=40)
    copied.load_state_dict(state)
    np.testing.assert_array_equal(copied.partition(Z).groups, sampler.partition(Z).groups)
    assert copied.audit(Counting(), Z, 0) == sampler.audit(Counting(), Z, 0)


@pytest.mark.slow
def test_the_lower_bound_covers_the_truth_in_simulated_runs():
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 150)
        z = rng.normal(size=(150, 4)) + rng.uniform(1.0, 4.0) * np.eye(4)[labels]
        sampler = Sampler(150, budget=60, seed=seed)
        sampler.ask(LabelOracle(labels), z, 10)
        truth = partition_accuracy(sampler.partition(z).groups, labels)
        audit = sampler.audit(LabelOracle(labels), z, 30)
        assert audit is not None
        covered.append(audit.estimated_accuracy_low <= truth)
    assert np.mean(covered) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0.0, 0.1])
def test_the_lower_bound_covers_the_truth_where_the_error_rate_is_estimated(flip):
    """Samples that look like another class could be taken for errors of the oracle."""
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 200)
        look = np.where(rng.random(200) < 0.05, rng.integers(0, 4, 200), labels)
        z = rng.normal(size=(200, 6)) + 6.0 * np.eye(6)[look]
        oracle = NoisyOracle(LabelOracle(labels), flip, seed)
        sampler = Sampler(200, budget=100, seed=seed, error_rate=None)
        sampler.ask(oracle, z, 20, at_once=5)
        truth = partition_accuracy(sampler.partition(z).groups, labels)
        audit = sampler.audit(oracle, z, 80)
        assert audit is not None
        covered.append(audit.estimated_accuracy_low <= truth)
    assert np.mean(covered) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("compared", [0, 20])
def test_the_lower_bound_covers_the_truth_where_classes_have_far_parts(compared):
    """Which no audit of samples in groups can see, nor any look at the embedding."""
    covered, bounds = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        blob = rng.integers(0, 6, 150)
        labels = rng.integers(0, 4, 6)[blob]
        z = rng.normal(size=(150, 6)) + 9.0 * np.eye(6)[blob]
        sampler, oracle = Sampler(150, budget=60, seed=seed), LabelOracle(labels)
        sampler.ask(oracle, z, 5)
        sampler.ask(oracle, z, compared, at_once=10, strategy=strategies.uncompared_groups)
        truth = partition_accuracy(sampler.partition(z).groups, labels)
        audit = sampler.audit(oracle, z, 30)
        assert audit is not None
        covered.append(audit.estimated_accuracy_low <= truth)
        bounds.append(audit.estimated_accuracy_low)
    assert np.mean(covered) >= 0.93
    assert (np.mean(bounds) > 0.9) == (compared > 0)  # comparing is what makes it sure


def test_the_bound_takes_off_pieces_and_no_more_of_an_estimated_rate_than_is_sure(monkeypatch):
    sampler = Sampler(48, budget=80, error_rate=None)
    sampler.ask(NoisyOracle(LabelOracle(LABELS), 0.2, 1), Z, 60)
    view = sampler._look_at(Z)
    posterior = infer(view.geometry, view.relations, sampler.trust)
    handed = {}

    def keep(relations, unknown, n, error, error_low, confidence, pieces):
        handed.update(error=error, error_low=error_low, confidence=confidence, pieces=pieces)
        return Audit(0.0, 0.0, 0)

    monkeypatch.setattr("pal_jax.active.stopping.audit_result", keep)
    sampler.audit(LabelOracle(LABELS), Z, 10, confidence=0.9)
    assert handed["error"] == posterior.error
    assert handed["error_low"] == posterior.error_low(0.95) < posterior.error
    assert handed["confidence"] == 0.9
    assert handed["pieces"] == posterior.pieces() != (0.0, 0.0)


def test_an_audit_forgets_what_was_right_before_the_partition_got_worse():
    labels = np.arange(240) % 6
    good = np.random.default_rng(0).normal(size=(240, 6)) + 9.0 * np.eye(6)[labels]
    sampler, oracle = Sampler(240, budget=200), LabelOracle(labels)
    sampler.ask(oracle, good, 20)
    before = sampler.audit(oracle, good, 60)
    bad = np.random.default_rng(1).normal(size=(240, 6))
    truth = partition_accuracy(sampler.partition(bad).groups, labels)
    after = sampler.audit(oracle, bad, 20)
    assert before is not None
    assert after is not None
    assert before.judgements == 60
    assert after.judgements == 20
    assert after.estimated_accuracy_low <= truth < 0.6
    state = sampler.state_dict()
    again = Sampler(240, budget=200)
    again.load_state_dict(state)
    assert again.audit(oracle, bad, 0) == sampler.audit(oracle, bad, 0)


def partition_accuracy(groups, labels):
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


def test_prior_answers_cost_nothing_and_help():
    rng = np.random.default_rng(0)
    prior = answers_from_groups(LABELS, "guess", rng)
    told = Sampler(48, budget=9, prior=prior, error_rates={"guess": 0.05})
    assert told.spent == 0
    assert told.answers == []
    empty = Sampler(48, budget=9)
    assert partition_accuracy(told.partition(Z).groups, LABELS) > 0.1 + partition_accuracy(
        empty.partition(Z).groups, LABELS
    )
    state = told.state_dict()
    told.load_state_dict(state)
    assert told.spent == 0
    many = Sampler(48, budget=9, prior=prior * 50)
    assert len(many.relations.judgements().oracle) == 1_000


@pytest.mark.parametrize("error_rate", [0.0, 0.1])
def test_contradictions_are_listed_by_their_answer(error_rate):
    """One false answer after three true ones about it; a prior answer does not count as one."""
    prior = LabelOracle(LABELS)([Question(20, (24,))])
    sampler = Sampler(48, budget=9, prior=prior, error_rate=error_rate)
    true = LabelOracle(LABELS)([Question(0, (4,)), Question(4, (8,)), Question(0, (8,))])
    sampler.tell([*true, Answer(Question(0, (4,)), (Relation.NOT_ALIKE,), "labels")])
    (found,) = sampler.contradictions(sampler.partition(Z).groups)
    assert (found.pair, found.relation, found.position) == ((0, 4), Relation.NOT_ALIKE, 3)
    assert set(found.against) <= {0, 1, 2}
    assert found.against


class Confused:
    """Says at random what it should say of two samples of different classes that look alike."""

    def __init__(self, share: float):
        classes = LABELS[:, None] != LABELS
        distance = np.linalg.norm(Z[:, None] - Z, axis=2)
        self.hard = classes & (distance < np.quantile(distance[classes], share))
        self.rng = np.random.default_rng(0)

    def __call__(self, questions):
        for question in questions:
            (answer,) = LabelOracle(LABELS)([question])
            if self.hard[question.anchor, question.candidates[0]] and self.rng.random() < 0.5:
                answer = Answer(question, (Relation.ALIKE,), "confused")
            yield answer


@pytest.mark.parametrize("error_rate", [0.1, None])
def test_errors_that_gather_on_hard_pairs_do_not_glue_classes(error_rate):
    sampler = Sampler(48, budget=150, error_rate=error_rate)
    sampler.ask(Confused(0.2), Z, 150)
    groups = sampler.partition(Z).groups
    table = np.zeros((groups.max() + 1, 4))
    np.add.at(table, (groups, LABELS), 1)
    assert table[linear_sum_assignment(-table)].sum() >= 0.9 * 48


def test_a_prior_that_is_noise_is_not_believed():
    plain = Sampler(48, budget=60)
    plain.ask(LabelOracle(LABELS), Z, 60)
    right = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        noise = answers_from_groups(rng.permutation(LABELS), "guess", rng)
        sampler = Sampler(48, budget=60, prior=noise, error_rates={"guess": None})
        sampler.ask(LabelOracle(LABELS), Z, 60)
        right.append(partition_accuracy(sampler.partition(Z).groups, LABELS))
    assert np.mean(right) > partition_accuracy(plain.partition(Z).groups, LABELS) - 0.1


def test_batches_teach_what_is_believed_not_what_was_said():
    z = np.repeat(np.eye(4) * 10, 12, axis=0) + np.random.default_rng(0).normal(size=(48, 4))
    labels = np.repeat(np.arange(4), 12)
    sampler = Sampler(48, budget=80, error_rate=0.1, related=1.0)
    sampler.ask(LabelOracle(labels), z, 40)
    liar = [Answer(Question(0, (47,)), (Relation.ALIKE,), "labels")]
    sampler.tell(liar)
    sampler.believe(z)
    batch = sampler.batch(40)
    same = batch.groups[:, None] == batch.groups
    truth = labels[batch.ids][:, None] == labels[batch.ids]
    assert (truth | ~same).all()
    assert same.sum() > 40 + 20


@pytest.mark.parametrize(("error_rate", "asked"), [(0.01, 250), (0.1, 400)])
def test_an_oracle_that_always_says_yes_merges_no_known_labels(error_rate, asked):
    """Nor are samples of two labels taught as alike, however many answers call both like others."""
    labels = np.repeat(np.arange(4), 30)
    z = np.random.default_rng(1).normal(size=(120, 8)) + 6.0 * np.eye(8)[labels]
    known = np.where((labels < 2) & (np.arange(120) % 10 == 0), labels, -1)
    sampler = Sampler(120, budget=asked, error_rate=error_rate, known=known, related=1.0)

    def yes(questions):
        return [Answer(q, (Relation.ALIKE,) * len(q.candidates), "yes") for q in questions]

    sampler.ask(yes, z, asked)
    assert sampler.spent > 0.8 * asked
    groups = sampler.partition(z).groups
    assert not np.intersect1d(groups[known == 0], groups[known == 1]).size
    sampler.believe(z)
    batch = sampler.batch(80)
    assert not np.intersect1d(
        batch.groups[known[batch.ids] == 0], batch.groups[known[batch.ids] == 1]
    ).size


def test_what_is_believed_of_one_labelled_sample_holds_for_all_with_its_label():
    known = np.where(np.isin(np.arange(48), [0, 4, 8]), 0, -1)
    sampler = Sampler(48, budget=1, error_rate=0.1, known=known)
    sampler.hold(([4, 20, 21, 25], [0, 0, 1, 1]))
    batch = sampler.batch(48)
    group = batch.groups[np.argsort(batch.ids)]
    assert {*np.flatnonzero(group == group[0]).tolist()} == {0, 4, 8, 20}
    assert {*np.flatnonzero(group == group[21]).tolist()} == {21, 25}


def test_a_belief_is_held_where_there_is_no_embedding():
    z = np.repeat(np.eye(4) * 10, 12, axis=0) + np.random.default_rng(0).normal(size=(48, 4))
    here, there = (Sampler(48, budget=80, error_rate=0.1, related=1.0) for _ in range(2))
    here.ask(LabelOracle(np.repeat(np.arange(4), 12)), z, 40)
    here.tell([Answer(Question(0, (47,)), (Relation.ALIKE,), "labels")])  # which is not believed
    there.tell(here.answers)
    belief = here.believe(z)
    assert here.batch(40).groups.tolist() != there.batch(40).groups.tolist()
    there.hold(json.loads(json.dumps(belief)))
    one, other = here.batch(40), there.batch(40)
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.groups, other.groups)


def test_expected_gain_falls_as_answers_come_in():
    sampler = Sampler(48, budget=200)
    before = sampler.expected_gain(Z, 20)
    sampler.ask(LabelOracle(LABELS), Z, 200)
    assert before > sampler.expected_gain(Z, 20) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(("flip", "given"), [(0.2, None), (0.0, None), (0.2, 0.1)])
def test_a_partition_tells_how_often_the_oracle_errs(flip, given):
    sampler = Sampler(48, budget=200, error_rate=given)
    sampler.ask(NoisyOracle(LabelOracle(LABELS), flip, seed=2), Z, 150)
    expected = pytest.approx(flip, abs=0.1) if given is None else given
    assert sampler.partition(Z).error_rate == expected


def test_an_audit_of_which_nobody_is_sure_changes_no_group():
    """All of it is about pairs that are believed alike: "not sure" is no sign of such pairs."""

    def nobody(questions):
        return [Answer(q, (Relation.UNKNOWN,) * len(q.candidates), "nobody") for q in questions]

    labels = np.arange(300) % 5
    z = np.random.default_rng(0).normal(size=(300, 8)) + 4.0 * np.eye(8)[labels]
    sampler = Sampler(300, budget=100, error_rate=None)
    sampler.ask(nobody, z, 50)
    before = partition_accuracy(sampler.partition(z).groups, labels)
    assert sampler.audit(nobody, z, 40) is not None
    assert partition_accuracy(sampler.partition(z).groups, labels) > before - 0.02
