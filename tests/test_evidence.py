import numpy as np
import pytest

from pal_jax.active import evidence
from pal_jax.active.evidence import Evidence, Trust, error_of, errs, least_error_of, rates, weigh
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Judgements, Relations

ALIKE, NOT_ALIKE, UNKNOWN = Relation.ALIKE, Relation.NOT_ALIKE, Relation.UNKNOWN
# prior counts of right, wrong and not sure: read where they stand, so that they may change
RIGHT, WRONG = evidence._RIGHT, evidence._WRONG


def heard(*said: tuple[int, int, Relation, str]) -> Judgements:
    relations = Relations(10)
    relations.add([Answer(Question(i, (j,)), (relation,), oracle)
                   for i, j, relation, oracle in said])  # fmt: skip
    return relations.judgements()


def mostly_right(
    rng: np.random.Generator, alike: np.ndarray, wrong: float
) -> tuple[list[Relation], Judgements]:
    """What an oracle that is `wrong` so often says of pairs that are `alike` [K] so likely."""
    truth = rng.random(len(alike)) < alike
    said = [ALIKE if t ^ (rng.random() < wrong) else NOT_ALIKE for t in truth]
    return said, heard(*[(k % 9, 9, relation, "ann") for k, relation in enumerate(said)])


def test_an_oracle_that_only_ever_said_one_thing_is_told_of():
    no = [(k % 9, 9, NOT_ALIKE, "ann") for k in range(30)]
    yes = [(k % 9, 9, ALIKE, "bob") for k in range(31)]
    found = [evidence.OneSided("ann", NOT_ALIKE, 30), evidence.OneSided("bob", ALIKE, 31)]
    assert evidence.one_sided(heard(*no, *yes)) == found
    assert evidence.one_sided(heard(*no, (1, 2, UNKNOWN, "ann"))) == found[:1]
    assert evidence.one_sided(heard(*no, (1, 2, ALIKE, "ann"))) == []
    assert evidence.one_sided(heard(*no[1:], (1, 2, UNKNOWN, "ann"))) == []  # too few
    assert evidence.one_sided(heard()) == []


MIXED = heard(
    (0, 1, ALIKE, "ann"), (2, 3, NOT_ALIKE, "bob"), (4, 5, UNKNOWN, "ann"), (0, 6, NOT_ALIKE, "ann")
)  # fmt: skip


def test_a_given_rate_is_that_of_both_errors_and_not_sure_says_nothing():
    table = rates(MIXED, Trust(0.2))
    np.testing.assert_allclose(table, [[[0.8, 0.2, 1.0], [0.2, 0.8, 1.0]]] * 2)
    weight = weigh(MIXED, table).weight
    np.testing.assert_allclose(weight, [np.log(4), -np.log(4), 0.0, -np.log(4)])


def test_an_oracle_that_is_never_wrong_still_has_a_finite_weight():
    weight = weigh(MIXED, rates(MIXED, Trust(0.0))).weight
    assert np.isfinite(weight).all()
    assert weight[0] > 10.0
    assert weight[2] == 0.0


def test_estimated_rates_are_those_under_which_the_answers_are_most_probable():
    rng = np.random.default_rng(0)
    alike = rng.choice([0.02, 0.5, 0.97], 4_000)
    _, answers = mostly_right(rng, alike, 0.2)
    (found,) = rates(answers, Trust(None), alike)
    prior = np.array([[RIGHT, WRONG, WRONG], [WRONG, RIGHT, WRONG]])
    chance = np.stack([alike, 1.0 - alike])

    def worth(table):
        probability = (chance * table[:, answers.relation]).sum(axis=0)
        return np.log(probability).sum() + (prior * np.log(table)).sum()

    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    for _ in range(100):
        other = np.abs(found * (1.0 + 0.1 * rng.normal(size=(2, 3))))
        assert worth(other / other.sum(axis=1, keepdims=True)) < worth(found) + 1e-6
    assert found[0, 1] == pytest.approx(0.2, abs=0.05)
    assert found[1, 0] == pytest.approx(0.2, abs=0.05)


def test_what_nothing_else_is_known_about_does_not_speak_against_an_oracle():
    answers = heard(*[(k % 9, 9, ALIKE if k % 2 else NOT_ALIKE, "ann") for k in range(300)])
    table = rates(answers, Trust(None), np.full(300, 0.5))
    assert error_of(table, answers, Trust(None)) <= WRONG / RIGHT


def test_unsure_answers_count_for_what_they_are_unsure_of():
    answers = heard(*[(k % 9, 9, UNKNOWN if k % 2 else ALIKE, "ann") for k in range(100)])
    (table,) = rates(answers, Trust(None), np.where(np.arange(100) % 2, 0.02, 0.98))
    assert table[0, 2] < 0.2 * table[1, 2]


def test_before_anything_is_known_of_an_oracle_the_prior_counts():
    total = RIGHT + 2 * WRONG
    prior = np.array([[RIGHT, WRONG, WRONG], [WRONG, RIGHT, WRONG]]) / total
    np.testing.assert_allclose(rates(MIXED, Trust(None)), [prior, prior])
    assert rates(heard(), Trust(None)).shape == (0, 2, 3)
    assert weigh(heard(), rates(heard(), Trust(None))).weight.shape == (0,)


def test_an_oracle_with_a_name_is_trusted_by_it():
    trust = Trust(0.1, {"bob": 0.3, "eve": None})
    assert [trust.of(name) for name in ("ann", "bob", "eve")] == [0.1, 0.3, None]
    table = rates(MIXED, trust)
    np.testing.assert_allclose(table[:, 0, 0], [0.9, 0.7])
    mixed = rates(MIXED, Trust(0.1, {"bob": None}), np.full(4, 0.5))
    np.testing.assert_allclose(mixed[0, 0, 0], 0.9)
    assert mixed[1].sum() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("trust", "said", "hard"),
    [
        (Trust(0.0), heard(), True),
        (Trust(0.1), heard(), False),
        (Trust(None), heard(), False),
        (Trust(0.0), MIXED, True),
        (Trust(0.0, {"bob": 0.1}), MIXED, False),
        (Trust(0.0, {"eve": 0.1}), MIXED, True),  # she has said nothing
        (Trust(0.1, {"ann": 0.0, "bob": 0.0}), MIXED, True),  # nobody else has said anything
        (Trust(None, {"ann": 0.0}), MIXED, False),
    ],
)
def test_answers_are_proof_only_if_nobody_who_gave_one_is_ever_wrong(trust, said, hard):
    assert trust.is_hard(said) is hard


def test_unknown_are_those_that_answered_without_a_name_or_a_rate():
    assert Trust(None).unknown(MIXED) == ["ann", "bob"]
    assert Trust(None, {"bob": None}).unknown(MIXED) == ["ann"]
    assert Trust(None).unknown(heard()) == Trust(0.1).unknown(MIXED) == []


def test_about_units_drops_what_is_about_one_or_none():
    some = Evidence(np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0]),
                    np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.1, 0.2, 0.3, 0.4]))  # fmt: skip
    of = some.about(np.array([5, 5, 7, -1]))  # 0 and 1 are one unit, 3 is none
    np.testing.assert_array_equal([of.first, of.second], [[5], [7]])
    np.testing.assert_array_equal([of.if_alike, of.if_apart], [[0.8], [0.2]])


SAID = [(4, 1, 0.9, 0.1), (2, 3, 0.2, 0.8), (1, 4, 0.1, 0.9), (4, 1, 0.9, 0.1), (1, 4, 0.3, 0.1)]
REPEATED = Evidence(*(np.array(column) for column in zip(*SAID, strict=True)))


def ratio(*rows: int) -> float:
    """if_alike / if_apart of what some rows of SAID say together."""
    return float(np.prod([SAID[k][2] / SAID[k][3] for k in rows]))


def test_all_that_is_said_of_a_pair_is_one_judgement():
    found = REPEATED.by_pair()
    pairs = {
        frozenset((int(i), int(j))): (alike, apart)
        for i, j, alike, apart in zip(
            found.first, found.second, found.if_alike, found.if_apart, strict=True
        )
    }
    assert pairs.keys() == {frozenset((1, 4)), frozenset((2, 3))}
    for pair, rows in (((1, 4), (0, 2, 3, 4)), ((2, 3), (1,))):
        alike, apart = pairs[frozenset(pair)]
        assert max(alike, apart) == 1.0
        assert alike / apart == pytest.approx(ratio(*rows))
    assert len(REPEATED.at(np.arange(0)).by_pair().first) == 0


def test_of_a_pair_and_beside_a_judgement_is_what_all_and_all_others_say():
    whole, beside = REPEATED.of_pair(), REPEATED.beside()
    for k, (i, j, _, _) in enumerate(SAID):
        same = [m for m, said in enumerate(SAID) if {i, j} == {*said[:2]}]
        assert (whole.first[k], whole.second[k]) == (beside.first[k], beside.second[k]) == (i, j)
        assert whole.weight[k] == pytest.approx(np.log(ratio(*same)))
        others = [m for m in same if m != k]
        assert beside.weight[k] == pytest.approx(np.log(ratio(*others)), abs=1e-12)
    assert (beside.if_alike[1], beside.if_apart[1]) == (1.0, 1.0)  # nothing, to the bit


def test_what_is_said_of_a_pair_without_end_stays_finite():
    often = REPEATED.at(np.zeros(10_000, np.int64))
    assert often.by_pair().weight == pytest.approx(50.0)
    assert np.isfinite(often.beside().weight).all()


def test_judgements_that_say_the_same_of_a_pair_are_found():
    rows, same = REPEATED.distinct()
    assert sorted(rows.tolist()) == [0, 1, 2, 4]
    np.testing.assert_array_equal(rows[same], [0, 1, 2, 0, 4])
    other_way = Evidence(REPEATED.second, REPEATED.first, REPEATED.if_alike, REPEATED.if_apart)
    np.testing.assert_array_equal(other_way.distinct()[1], same)


def test_both_ways_each_row_hears_what_is_said_of_it():
    found = REPEATED.both_ways
    assert (np.diff(found.first) >= 0).all()
    rows = sorted(zip(found.first, found.second, found.if_alike, found.if_apart, strict=True))
    assert rows == sorted(SAID + [(j, i, *likelihoods) for i, j, *likelihoods in SAID])


def test_the_error_is_that_of_the_oracle_heard_last():
    table = np.array([[[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    expected = (0.1 / 0.9 + 0.2 / 0.8) / 2  # ann, among her answers that are not "not sure"
    assert error_of(table, MIXED, Trust(None)) == pytest.approx(expected)
    assert error_of(table, MIXED, Trust(None, {"ann": 0.0})) == 0.0
    given = Trust(0.3, {"bob": 0.1})
    assert error_of(rates(MIXED, given), MIXED, given) == pytest.approx(0.3)


def test_before_the_first_answer_the_error_is_what_is_expected():
    table = np.empty((0, 2, 3))
    assert error_of(table, heard(), Trust(0.2)) == 0.2
    assert error_of(table, heard(), Trust(None)) == pytest.approx(WRONG / (WRONG + RIGHT))


def test_an_estimated_error_is_at_least_what_its_answers_need():
    """Against a scan of the likelihood, written out answer by answer."""
    rng = np.random.default_rng(1)
    alike = rng.choice([0.03, 0.6, 0.95], 300)
    said, answers = mostly_right(rng, alike, 0.15)
    table = rates(answers, Trust(None), alike)
    (p_wrong_no, p_wrong_yes) = table[0, 0, 1], table[0, 1, 0]

    def worth(part):
        total = 0.0
        for relation, p in zip(said, alike, strict=True):
            missed, invented = part * p_wrong_no, part * p_wrong_yes
            right = table[0, 0, :2].sum() - missed, table[0, 1, :2].sum() - invented
            yes, no = p * right[0] + (1 - p) * invented, p * missed + (1 - p) * right[1]
            total += np.log(yes if relation is ALIKE else no)
        return total

    parts = np.linspace(0.0, 1.0, 2_001)
    enough = [worth(part) >= worth(1.0) - 1.92 for part in parts]
    error = error_of(table, answers, Trust(None))
    least = least_error_of(table, answers, Trust(None), alike, 0.975)
    assert least == pytest.approx(parts[enough.index(True)] * error, abs=1e-3 * error)
    assert 0.02 < least < error
    assert least_error_of(table, answers, Trust(None), alike, 0.999) < least


def test_a_given_error_is_known_and_before_any_answer_none_is_needed():
    assert least_error_of(rates(MIXED, Trust(0.2)), MIXED, Trust(0.2), None, 0.975) == 0.2
    assert least_error_of(np.empty((0, 2, 3)), heard(), Trust(0.2), None, 0.975) == 0.2
    assert least_error_of(np.empty((0, 2, 3)), heard(), Trust(None), None, 0.975) == 0.0
    right = heard(*[(k, 9, ALIKE, "ann") for k in range(9)])
    table = rates(right, Trust(None), np.full(9, 0.9))
    assert least_error_of(table, right, Trust(None), np.full(9, 0.9), 0.975) == 0.0


@pytest.mark.parametrize(("wrong", "never"), [(0, True), (1, True), (6, False), (12, False)])
def test_an_oracle_that_nothing_contradicts_is_taken_for_one_that_is_never_wrong(wrong, never):
    """100 answers about pairs of which others leave 1 % open, some of them against the odds."""
    alike = np.where(np.arange(100) % 2, 0.99, 0.01)
    said = [ALIKE if (k % 2 == 1) != (k < wrong) else NOT_ALIKE for k in range(100)]
    answers = heard(*[(k % 9, 9, relation, "ann") for k, relation in enumerate(said)])
    table = rates(answers, Trust(None), alike)
    assert errs(answers, table, alike, alike, ["ann"]) != never
    # Of nobody's answers nothing can be told, and "not sure" is no error.
    assert not errs(answers, table, alike, alike, [])
    unsure = heard(*[(k % 9, 9, UNKNOWN, "ann") for k in range(100)])
    assert not errs(unsure, rates(unsure, Trust(None), alike), alike, alike, ["ann"])


def test_what_fits_better_if_all_answers_are_proof_is_proof():
    """Wrong by what is believed if the oracle errs, right by what is believed if it never does."""
    alike = np.where(np.arange(100) % 2, 0.99, 0.01)
    said = [ALIKE if (k % 2 == 1) != (k < 12) else NOT_ALIKE for k in range(100)]
    answers = heard(*[(k % 9, 9, relation, "ann") for k, relation in enumerate(said)])
    table = rates(answers, Trust(None), alike)
    fits = np.where([relation is ALIKE for relation in said], 0.9, 0.1)
    assert errs(answers, table, alike, alike, ["ann"])
    assert not errs(answers, table, alike, fits, ["ann"])
    # Unless it took groups to fit, that are less probable than this is worth.
    assert errs(answers, table, alike, fits, ["ann"], price=100.0)
    # What another oracle said is no matter.
    both = heard(*[(k % 9, 9, said[k], "ann" if k < 50 else "bob") for k in range(100)])
    table = rates(both, Trust(None), alike)
    half = np.where(np.arange(100) < 50, fits, 1.0 - fits)
    assert not errs(both, table, alike, half, ["ann"])
    assert errs(both, table, alike, half, ["ann", "bob"])


def test_that_an_oracle_errs_is_decided_by_its_odds():
    """Against the marginal likelihoods, with the Beta integral done by a sum."""
    rng = np.random.default_rng(3)
    checked = []
    for seed in range(120):
        count = int(rng.integers(1, 60))
        alike = rng.choice([0.02, 0.5, 0.98], count)
        truth = rng.random(count) < alike
        said = np.where(truth != (rng.random(count) < rng.choice([0.0, 0.1, 0.3])), 0, 1)  # codes
        prior = np.array([[RIGHT, WRONG, WRONG], [WRONG, RIGHT, WRONG]])
        table = evidence._likeliest_rates(prior, said, alike)[None]
        answers = heard(*[(0, 9, list(Relation)[code], "ann") for code in said])
        found = errs(answers, table, alike, alike, ["ann"])
        grid = (np.arange(2_000) + 0.5) / 4_000  # rates below one half, one for both kinds
        weight = grid ** (WRONG - 1.0) * (1.0 - grid) ** (RIGHT - 1.0)
        odds = np.where(said == 0, alike, 1.0 - alike)[:, None]
        at_times = np.log(odds * (1.0 - grid) + (1.0 - odds) * grid).sum(axis=0)
        at_times = np.log((np.exp(at_times) * weight).sum() / weight.sum())
        never = np.log(odds).sum() + evidence._ERRS
        if abs(never - at_times) > 1.0:  # else a rate for each kind may decide otherwise
            assert found == (never < at_times), seed
            checked.append(found)
    assert sum(checked) > 20
    assert len(checked) - sum(checked) > 20
