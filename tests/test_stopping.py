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


def test_a_class_split_over_two_groups_is_not_seen():
    _, result = audit(np.zeros(40, int), np.arange(40) % 2, 30, 0)
    assert result.estimated_accuracy == 1.0  # as documented


def test_not_sure_lowers_and_an_error_rate_is_taken_out():
    relations = [Relation.ALIKE] * 9 + [Relation.UNKNOWN]
    assert stopping.audit_result(relations, 100, 100, 0.0).estimated_accuracy == 0.9
    assert stopping.audit_result(relations, 100, 100, 0.1).estimated_accuracy == 1.0
    assert stopping.audit_result([], 0, 5, 0.0).estimated_accuracy_low == 1.0
    assert stopping.audit_result([], 5, 5, 0.0).estimated_accuracy_low == 0.0
