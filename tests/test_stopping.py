import numpy as np
import pytest
from scipy import stats

from pal_jax.active import stopping
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.questions import Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.errors import UserError


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize(("hits", "trials"), [(1, 1), (1, 50), (25, 50), (49, 50), (50, 50)])
def test_bound_is_the_beta_quantile(hits, trials, confidence):
    expected = stats.beta.ppf(1 - confidence, hits, trials - hits + 1)
    assert stopping.lower_bound(hits, trials, confidence) == pytest.approx(expected, abs=1e-9)


def test_bound_without_hits_or_trials_is_zero():
    assert stopping.lower_bound(0, 0) == stopping.lower_bound(0, 9) == 0.0


@pytest.mark.parametrize("arguments", [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(UserError):
        stopping.lower_bound(*arguments)


def audit(labels, groups, count, seed, answers=()):
    relations = Relations(len(labels))
    relations.add(answers)
    questions, unknown = stopping.audit_questions(
        groups, np.zeros(len(labels)), relations.groups(), count, np.random.default_rng(seed)
    )
    told = [answer.relations[0] for answer in LabelOracle(labels)(questions)]
    return questions, stopping.audit_result(told, unknown, len(labels), 0.0)


def test_coverage_of_the_bound_over_simulated_audits(rng):
    labels = np.repeat([0, 1], 200)
    groups = np.where(rng.random(400) < 0.1, 1 - labels, labels)
    groups[[0, 200]] = 0, 1  # the representatives
    truth = np.mean(groups == labels)
    lows = [audit(labels, groups, 40, seed)[1].estimated_accuracy_low for seed in range(200)]
    assert np.mean(np.array(lows) <= truth) >= 0.93


def test_known_samples_are_neither_asked_nor_doubted():
    labels = np.zeros(10, int)
    known = LabelOracle(labels)([Question(0, tuple(range(1, 8)))])
    questions, result = audit(labels, labels, 99, 0, known)
    assert sorted(q.candidates[0] for q in questions) == [8, 9]
    assert result.judgements == 2
    assert result.estimated_accuracy == 1.0
    assert result.estimated_accuracy_low == pytest.approx((8 + 2 * 0.05**0.5) / 10)


def test_looking_until_the_bound_is_high_enough_is_not_a_way_to_make_it_so():
    """2,000 runs of 20 looks at 20 more answers each, of which 0.95 are right: just too few."""
    rng = np.random.default_rng(0)
    hits = (rng.random((2_000, 20, 20)) < 0.95).sum(axis=2).cumsum(axis=1)

    def stopped(confidence):
        """Share of runs in which some look says that more than 0.95 are right."""
        least = [
            min(
                h for h in range(t + 2) if h > t or stopping.lower_bound(h, t, confidence(k)) > 0.95
            )
            for k, t in enumerate(range(20, 401, 20), 1)
        ]
        return (hits >= least).any(axis=1).mean()

    assert stopped(lambda look: 0.95) > 0.10
    assert stopped(stopping.confidence_of_look) < 0.05
    looks = [1.0 - stopping.confidence_of_look(k, 0.9) for k in range(1, 100)]
    assert 0.098 < sum(looks) < 0.1


def test_a_class_split_over_two_groups_is_not_seen():
    _, result = audit(np.zeros(40, int), np.arange(40) % 2, 30, 0)
    assert result.estimated_accuracy == 1.0  # as documented


def test_not_sure_lowers_the_bound_alone_and_an_error_rate_is_taken_out():
    relations = [Relation.ALIKE] * 9 + [Relation.UNKNOWN]
    unsure = stopping.audit_result(relations, 100, 100, 0.0)
    assert (unsure.estimated_accuracy, unsure.judgements, unsure.unsure) == (1.0, 10, 1)
    assert unsure.estimated_accuracy_low == stopping.lower_bound(9, 10)
    nothing = stopping.audit_result([Relation.UNKNOWN] * 9, 60, 100, 0.0)
    assert (nothing.estimated_accuracy, nothing.estimated_accuracy_low) == (0.7, 0.4)
    relations = [Relation.ALIKE] * 9 + [Relation.NOT_ALIKE]
    assert stopping.audit_result(relations, 100, 100, 0.0).estimated_accuracy == 0.9
    assert stopping.audit_result(relations, 100, 100, 0.1).estimated_accuracy == 1.0
    assert stopping.audit_result([], 0, 5, 0.0).estimated_accuracy_low == 1.0
    assert stopping.audit_result([], 5, 5, 0.0).estimated_accuracy_low == 0.0


def test_a_bound_takes_off_of_an_estimated_error_only_what_is_sure():
    relations = [Relation.ALIKE] * 36 + [Relation.NOT_ALIKE] * 4
    result = stopping.audit_result(relations, 100, 100, 0.1, 0.04)
    assert result.estimated_accuracy == 1.0
    seen = stats.beta.ppf(0.025, 36, 5)  # half of the risk; the other half is the rate's
    assert result.estimated_accuracy_low == pytest.approx((seen - 0.04) / 0.92, abs=1e-9)
    agreed = stopping.audit_result(relations[:36], 100, 100, 0.3, 0.1)  # no room for an error
    assert agreed.estimated_accuracy_low == pytest.approx(stats.beta.ppf(0.025, 36, 1), abs=1e-9)
    known = stopping.audit_result(relations, 100, 100, 0.1)
    assert known == stopping.audit_result(relations, 100, 100, 0.1, 0.1)
    assert known.estimated_accuracy_low > result.estimated_accuracy_low
    few = stopping.audit_result(relations[-8:], 100, 100, 0.1, 0.0)  # more errors make it worse
    assert few.estimated_accuracy_low == pytest.approx(
        (stats.beta.ppf(0.025, 4, 5) - 0.1) / 0.8, abs=1e-9
    )


def audits(*found: tuple[int, int, int]) -> list[stopping.Audited]:
    """(alike, not alike, not sure) of each audit in turn."""
    kinds = (Relation.ALIKE, Relation.NOT_ALIKE, Relation.UNKNOWN)
    return [
        stopping.Audited(0.9, kind, number)
        for number, counts in enumerate(found, 1)
        for kind, count in zip(kinds, counts, strict=True)
        for _ in range(count)
    ]


def test_what_an_audit_found_counts_until_one_finds_less_right():
    for hits, misses in ((10, 0), (8, 2), (6, 4), (2, 8)):
        worse = stats.hypergeom.cdf(hits, 50, 38 + hits, 10) < 0.05
        both = audits((38, 2, 1), (hits, misses, 3))
        assert stopping.since_decline(both) == (both[41:] if worse else both)
    assert worse  # the last was
    mended = audits((0, 10, 0), (10, 0, 0))  # better is no reason to forget
    assert stopping.since_decline(mended) == mended
    thrice = audits((20, 0, 0), (0, 20, 0), (5, 5, 0))
    assert stopping.since_decline(thrice) == thrice[20:]
    unsure = audits((20, 0, 0), (0, 0, 5))
    assert stopping.since_decline(unsure) == unsure
    assert stopping.since_decline([]) == []


def test_groups_that_may_be_pieces_are_taken_off():
    relations = [Relation.ALIKE] * 20
    result = stopping.audit_result(relations, 80, 100, 0.0, pieces=(0.02, 0.3))
    assert result.estimated_accuracy == pytest.approx(0.98)
    assert result.estimated_accuracy_low == pytest.approx((20 + 80 * 0.05 ** (1 / 20)) / 100 - 0.3)


def test_calibration_moves_probabilities_to_what_audits_found(rng):
    stated = rng.uniform(0.5, 0.99, 4_000)
    right = rng.random(4_000) < stated - 0.2  # too sure by a fifth
    moved = stopping.calibrate(stated, stated, right, 0.0)
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        here = (stated >= low) & (stated < high)
        assert moved[here].mean() == pytest.approx(right[here].mean(), abs=0.04)
    assert (np.diff(moved[np.argsort(stated)]) >= 0.0).all()


def test_calibration_allows_for_wrong_answers(rng):
    stated = np.full(4_000, 0.95)
    heard = rng.random(4_000) < 0.95 * 0.9 + 0.05 * 0.1
    moved = stopping.calibrate(stated, stated, heard, 0.1)
    np.testing.assert_allclose(moved, 0.95, atol=0.02)


def test_without_an_audit_nothing_moves_and_what_is_certain_stays_so():
    p = np.array([0.2, 0.9, 1.0])
    np.testing.assert_array_equal(stopping.calibrate(p, np.zeros(0), np.zeros(0, bool), 0.0), p)
    moved = stopping.calibrate(p, np.full(50, 0.9), np.zeros(50, bool), 0.0)
    assert moved[2] == 1.0
    assert (moved[:2] < p[:2]).all()
