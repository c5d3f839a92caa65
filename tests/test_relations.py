import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pal_jax.active.oracles import LabelOracle
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.errors import UserError

ALIKE, NOT_ALIKE, UNKNOWN = Relation.ALIKE, Relation.NOT_ALIKE, Relation.UNKNOWN
N = 9
FEW = [(0, 1), (0, 2), (1, 2), (3, 1)]  # so few pairs disagree in every way there is
PAIRS = [(i, j) for i in range(N) for j in range(N) if i != j]


def say(i: int, j: int, relation: Relation) -> Answer:
    return Answer(Question(i, (j,)), (relation,), "me")


def closure(n: int, answers: list[Answer]) -> np.ndarray:
    """[n, n] relations by brute force: Warshall on alike, then not alike carried along it."""
    alike, apart = np.eye(n, dtype=bool), np.zeros((n, n), bool)
    for answer in answers:
        for i, j, relation in answer.judgements:
            table = {ALIKE: alike, NOT_ALIKE: apart}.get(relation)
            if table is not None:
                table[i, j] = table[j, i] = True
    for k in range(n):
        alike |= alike[:, [k]] & alike[[k]]
    apart = alike @ apart @ alike
    names = np.array([UNKNOWN, NOT_ALIKE, ALIKE])
    return names[np.where(alike, 2, apart.astype(int))]


def table(relations: Relations) -> np.ndarray:
    n = range(relations.n)
    return np.array([[relations.relation(i, j) for j in n] for i in n])


@hypothesis.given(
    labels=st.lists(st.integers(-1, 3), min_size=N, max_size=N),
    pairs=st.lists(st.sampled_from(PAIRS), max_size=30),
    known=st.lists(st.booleans(), min_size=N, max_size=N),
    data=st.data(),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_clean_answers_give_the_closure_in_any_order(labels, pairs, known, data):
    labels = np.array(labels)
    answers = LabelOracle(labels)([Question(i, (j,)) for i, j in pairs])
    shown = np.where(known, labels, -1)
    told = [
        say(i, j, ALIKE if shown[i] == shown[j] else NOT_ALIKE)
        for i, j in PAIRS
        if shown[i] >= 0 and shown[j] >= 0
    ]
    expected = closure(N, answers + told)
    one, other = Relations(N, shown), Relations(N, shown)
    one.add(answers)
    other.add(data.draw(st.permutations(answers)))
    assert (table(one) == expected).all()
    assert (table(other) == expected).all()
    np.testing.assert_array_equal(one.groups(), other.groups())
    np.testing.assert_array_equal(one.groups(), [list(row).index(ALIKE) for row in expected])
    assert one.contradictions() == []


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from(FEW), st.sampled_from(list(Relation))), max_size=12)
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_answers_one_by_one_end_like_all_at_once(judgements):
    answers = [say(i, j, relation) for (i, j), relation in judgements]
    whole, stepwise = Relations(N), Relations(N)
    whole.add(answers)
    for answer in answers:
        stepwise.add([answer])
        stepwise.groups()  # an inference between any two answers changes nothing
    assert (table(whole) == table(stepwise)).all()
    assert whole.contradictions() == stepwise.contradictions()
    assert [whole.apart(i) for i in range(N)] == [stepwise.apart(i) for i in range(N)]


def test_one_wrong_yes_between_two_groups_is_undone_by_two_no():
    relations = Relations(6)
    relations.add([say(0, 1, ALIKE), say(1, 2, ALIKE), say(3, 4, ALIKE), say(4, 5, ALIKE)])
    relations.add([say(2, 3, ALIKE)])  # wrong
    assert relations.relation(0, 5) is ALIKE
    relations.add([say(0, 4, NOT_ALIKE), say(1, 5, NOT_ALIKE)])
    np.testing.assert_array_equal(relations.groups(), [0, 0, 0, 3, 3, 3])
    assert relations.relation(2, 3) is NOT_ALIKE
    (found,) = relations.contradictions()
    assert (found.pair, found.relation, found.position) == ((2, 3), ALIKE, 4)
    assert found.against == (5, 6)


def test_of_two_equal_sums_that_exclude_each_other_the_one_asked_about_first_is_joined():
    """0 and 1 were called alike first, though once more after 0 and 2 were."""
    relations = Relations(3)
    said = [(0, 1, ALIKE), (0, 2, ALIKE), (0, 2, ALIKE), (0, 1, ALIKE)]
    relations.add([say(*judgement) for judgement in said] + [say(1, 2, NOT_ALIKE)] * 3)
    np.testing.assert_array_equal(relations.groups(), [0, 0, 2])


def test_an_outvoted_no_is_listed_with_the_chain_of_yes_behind_it():
    relations = Relations(3)
    relations.add([say(0, 1, ALIKE), say(0, 1, ALIKE), say(1, 2, ALIKE), say(1, 2, ALIKE)])
    relations.add([say(0, 2, NOT_ALIKE)])
    assert relations.relation(0, 2) is ALIKE
    (found,) = relations.contradictions()
    assert (found.pair, found.relation, found.against) == ((0, 2), NOT_ALIKE, (0, 2))


def test_a_chain_of_yes_may_lead_through_a_later_sample():
    relations = Relations(3)
    relations.add([say(0, 2, ALIKE), say(0, 2, ALIKE), say(1, 2, ALIKE), say(1, 2, ALIKE)])
    relations.add([say(0, 1, NOT_ALIKE)])
    (found,) = relations.contradictions()
    assert (found.pair, found.position, found.against) == ((0, 1), 4, (0, 2))


@pytest.mark.parametrize("known", [None, np.where(np.arange(N) < 4, np.arange(N) % 2, -1)])
@hypothesis.given(st.lists(st.sampled_from(FEW)), st.lists(st.sampled_from(FEW)), st.randoms())
def test_a_copy_goes_its_own_way(known, before, after, random):
    before, after = ([say(*pair, random.choice(list(Relation))) for pair in pairs]
                     for pairs in (before, after))  # fmt: skip
    relations = Relations(N, known)
    relations.add(before)
    twin = relations.copy()
    twin.add(after)
    for found, told in ((relations, before), (twin, before + after)):
        fresh = Relations(N, known)
        fresh.add(told)
        np.testing.assert_array_equal(found.groups(), fresh.groups())
        for i, j in PAIRS:
            assert found.relation(i, j) is fresh.relation(i, j)
            assert found.asked(i, j) == fresh.asked(i, j)
        assert found.apart(0) == fresh.apart(0)
        assert found.unsure() == fresh.unsure()
        assert found.contradictions() == fresh.contradictions()
        assert found.judgements().oracles == fresh.judgements().oracles
        np.testing.assert_array_equal(found.judgements().relation, fresh.judgements().relation)
        np.testing.assert_array_equal(found.joined(), fresh.joined())


def test_the_same_pair_is_decided_by_its_majority():
    relations = Relations(2)
    expected = [ALIKE, UNKNOWN, NOT_ALIKE, NOT_ALIKE]
    for vote, relation in zip([ALIKE, NOT_ALIKE, NOT_ALIKE, UNKNOWN], expected, strict=True):
        relations.add([say(1, 0, vote)])
        assert relations.relation(0, 1) is relation
    assert relations.asked(0, 1) == 4
    assert relations.votes(1, 0) == -1


def test_labels_known_from_the_start_are_not_overruled():
    relations = Relations(4, np.array([7, 7, 3, -1]))
    relations.add([say(1, 2, ALIKE), say(0, 1, NOT_ALIKE), say(3, 2, ALIKE)])
    np.testing.assert_array_equal(relations.groups(), [0, 0, 2, 2])
    assert relations.relation(3, 0) is NOT_ALIKE
    assert [c.position for c in relations.contradictions()] == [0, 1]


@pytest.mark.parametrize("known", [np.zeros(3, int), np.zeros(4), np.zeros((4, 1), int)])
def test_known_labels_of_another_form_are_refused(known):
    with pytest.raises(UserError):
        Relations(4, known)


def test_sixty_thousand_samples_take_no_time():
    n = 60_000
    labels = np.arange(n) % 1000
    relations = Relations(n, labels)
    relations.add(LabelOracle(labels)([Question(i, (i + 1,)) for i in range(2000)]))
    np.testing.assert_array_equal(relations.groups(), labels)


def test_answers_that_a_partition_does_not_follow_stand_beside_those_it_does():
    """Groups {0, 1, 2} and {3, 4}: answers 1 and 4 are not followed."""
    relations = Relations(5)
    said = [(0, 1, "alike"), (0, 2, "not alike"), (1, 2, "alike"), (3, 4, "alike"),
            (2, 3, "alike"), (1, 3, "not sure"), (2, 4, "not alike")]  # fmt: skip
    relations.add(Answer(Question(i, (j,)), (Relation(word),), "ann") for i, j, word in said)
    first, second = relations.against(np.array([7, 7, 7, 1, 1]))
    assert (first.pair, first.relation, first.position) == ((0, 2), Relation.NOT_ALIKE, 1)
    assert first.against == (0, 2, 6)
    assert (second.pair, second.relation, second.position) == ((2, 3), Relation.ALIKE, 4)
    assert second.against == (2, 3, 6)
    assert relations.against(np.array([0, 0, 1, 1, 1]))[0].position == 2


def test_judgements_are_all_that_was_said_in_its_order():
    relations = Relations(6)
    relations.add([
        Answer(Question(3, (1, 5)), (Relation.UNKNOWN, Relation.ALIKE), "bob"),
        Answer(Question(1, (3,)), (Relation.NOT_ALIKE,), "ann"),
        Answer(Question(0, (1,)), (Relation.ALIKE,), "bob"),
    ])  # fmt: skip
    said = relations.judgements()
    assert said.first.tolist() == [3, 3, 1, 0]
    assert said.second.tolist() == [1, 5, 3, 1]
    assert said.relation.tolist() == [2, 0, 1, 0]
    assert said.oracle.tolist() == [0, 0, 1, 0]
    assert said.oracles == ("bob", "ann")


def test_those_that_may_share_a_group_are_listed_with_its_name():
    known = np.array([-1, 4, -1, 4, -1, -1, -1, -1, -1])
    relations = Relations(N, known)
    np.testing.assert_array_equal(relations.labelled(), [1, 3])
    np.testing.assert_array_equal(relations.joined(), [[1, 3], [1, 1]])
    relations.add([say(8, 6, ALIKE), say(0, 2, NOT_ALIKE), say(6, 5, ALIKE), say(4, 7, UNKNOWN)])
    samples, names = relations.joined()
    np.testing.assert_array_equal(samples, [1, 3, 5, 6, 8])
    np.testing.assert_array_equal(names, [1, 1, 5, 5, 5])
    relations.add([say(5, 8, NOT_ALIKE), say(6, 8, NOT_ALIKE), say(3, 0, ALIKE)])  # 8 is cut off
    samples, names = relations.joined()
    np.testing.assert_array_equal(names, relations.groups()[samples])
    np.testing.assert_array_equal(relations.names(np.array([8, 0, 7, 5])), [8, 0, 7, 5])
    rest = np.setdiff1d(np.arange(N), samples)
    np.testing.assert_array_equal(relations.groups()[rest], rest)


def test_the_table_of_judgements_grows_with_the_log():
    relations = Relations(N)
    relations.add([say(0, 1, ALIKE)])
    before = relations.judgements()
    relations.add([say(3, 2, UNKNOWN), say(1, 4, NOT_ALIKE)])
    table = relations.judgements()
    np.testing.assert_array_equal(before.first, [0])
    for rows, expected in ((table.first, [0, 3, 1]), (table.second, [1, 2, 4]),
                           (table.relation, [0, 2, 1]), (table.oracle, [0, 0, 0])):  # fmt: skip
        np.testing.assert_array_equal(rows, expected)
    some = table.among(np.array([1, 4, 0, 2]))
    np.testing.assert_array_equal(np.stack([some.first, some.second]), [[0, 1], [1, 4]])
    np.testing.assert_array_equal(some.relation, [0, 1])
    assert some.oracles == ("me",)


def test_joined_samples_are_the_same_however_often_one_looks():
    rng = np.random.default_rng(0)
    known = np.full(60, -1)
    known[[7, 40, 41]] = [0, 0, 1]
    oracle = LabelOracle(np.where(known >= 0, known, rng.integers(0, 3, 60)))
    looked, other = Relations(60, known), Relations(60, known)
    for _ in range(12):
        pairs = [rng.choice(60, 2, replace=False).tolist() for _ in range(6)]
        answers = oracle([Question(i, (j,)) for i, j in pairs])
        looked.add(answers)
        other.add(answers)
        samples, names = looked.joined()
        assert (np.diff(samples) > 0).all()
        np.testing.assert_array_equal(names, looked.groups()[samples])
        alone = np.setdiff1d(np.arange(60), samples)
        np.testing.assert_array_equal(looked.groups()[alone], alone)
    np.testing.assert_array_equal(looked.joined(), other.joined())
    assert len(looked.joined()[0]) > 20
