import numpy as np
import pytest

from pal_jax.active.geometry import Geometry
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.posterior import infer, leaks, likely_groups, own_group, vote_odds
from pal_jax.active.questions import Question
from pal_jax.active.relations import Relations

N = 80
LABELS = np.arange(N) % 4
Z = np.random.default_rng(0).normal(size=(N, 5)) + 2.0 * np.eye(5)[LABELS]
POINTS = Geometry(Z)


def told(*pairs: tuple[int, int]) -> Relations:
    relations = Relations(N)
    relations.add(LabelOracle(LABELS)([Question(i, (j,)) for i, j in pairs]))
    return relations


def regression(placed, targets):
    """Mean at all samples, with the n x n kernel: K_L (K_LL + noise)^-1 Y."""
    kernel = POINTS.features @ POINTS.features.T
    noise = 0.01 + 1.0 - kernel.diagonal()
    inner = kernel[np.ix_(placed, placed)] + np.diag(noise[placed])
    return kernel[:, placed] @ np.linalg.solve(inner, targets)


def test_mean_and_variance_are_those_of_the_kernel():
    posterior = infer(POINTS, told((0, 4), (4, 8), (1, 5), (2, 6), (0, 1)))
    placed = np.flatnonzero(posterior.placed)
    targets = np.eye(len(posterior.names))[posterior.column[placed]]
    np.testing.assert_allclose(posterior.mean, regression(placed, targets), atol=1e-8)
    kernel = POINTS.features @ POINTS.features.T
    noise = 0.01 + 1.0 - kernel.diagonal()
    inner = np.linalg.inv(kernel[np.ix_(placed, placed)] + np.diag(noise[placed]))
    explained = np.einsum("np,pq,nq->n", kernel[:, placed], inner, kernel[:, placed])
    np.testing.assert_allclose(posterior.variance, 1.0 - explained, atol=1e-8)


def test_probabilities_sum_to_one_and_are_certain_where_placed():
    posterior = infer(POINTS, told((0, 4), (1, 5), (0, 1), (0, 2)))
    np.testing.assert_allclose(posterior.probability.sum(axis=1), 1.0)
    assert (posterior.probability[posterior.placed].max(axis=1) == 1.0).all()
    assert (posterior.probability >= 0.0).all()


@pytest.mark.parametrize("error_rate", [0.0, 0.4])
def test_not_alike_takes_a_group_away_or_makes_it_unlikelier(error_rate):
    yes = [(0, 4), (4, 8), (0, 12)]
    before = infer(POINTS, told(*yes), error_rate)
    column = int(np.searchsorted(before.names, 0))
    loose = int(np.where(before.placed, 0.0, before.probability[:, column]).argmax())
    relations = told(*yes)
    wrong = LabelOracle(np.where(np.arange(N) == loose, 9, LABELS))
    relations.add(wrong([Question(0, (loose,))]))
    after = infer(POINTS, relations, error_rate)
    assert after.names[column] == 0
    if error_rate == 0.0:
        assert after.probability[loose, column] == 0.0
    else:
        assert 0.0 < after.probability[loose, column] < before.probability[loose, column]


def test_own_group_is_judged_without_the_own_place():
    posterior = infer(POINTS, told((0, 4), (4, 8), (1, 5), (2, 6), (6, 10)))
    samples, chance = own_group(posterior, POINTS)
    np.testing.assert_array_equal(samples, np.flatnonzero(posterior.placed))
    for sample, found in zip(samples, chance, strict=True):
        rest = samples[samples != sample]
        targets = np.eye(len(posterior.names))[posterior.column[rest]]
        square = np.square(np.maximum(regression(rest, targets)[sample], 0.0))
        share = square[posterior.column[sample]] / square.sum()
        assert found == pytest.approx(0.98 * share + 0.02 / len(posterior.names), abs=1e-6)


def test_leaks_are_shares_of_edges():
    posterior = infer(POINTS, told((0, 4)))
    leak = leaks(posterior, POINTS)
    assert (leak.diagonal() == 0.0).all()
    assert (leak >= 0.0).all()
    assert (leak.sum(axis=1) <= 1.0).all()
    edges = np.zeros((N, N))
    edges[POINTS.graph.rows(), POINTS.graph.indices] = POINTS.graph.weights
    member = posterior.probability[:, :-1]
    between = member.T @ edges @ member
    assert leak[0, 1] == pytest.approx(between[0, 1] / between[0].sum())


def test_small_groups_are_likely_those_of_their_community_unless_kept_apart():
    home = int(POINTS.medoids[0])
    mates = np.flatnonzero((POINTS.communities == 0) & (np.arange(N) != home))[:2].tolist()
    together = LabelOracle(np.where(np.isin(np.arange(N), mates), 0, 1))
    relations = Relations(N)
    relations.add(together([Question(mates[0], (mates[1],))]))
    groups = likely_groups(POINTS, relations)
    assert groups[mates[0]] == groups[mates[1]] == groups[home]
    relations.add(together([Question(mates[0], (home,))]))
    groups = likely_groups(POINTS, relations)
    assert groups[mates[0]] == groups[mates[1]] != groups[home]


def test_votes_weigh_as_their_error_rate_says():
    np.testing.assert_allclose(vote_odds(np.array([-1, 0, 2]), 0.2), [0.25, 1.0, 16.0])
    np.testing.assert_array_equal(vote_odds(np.array([-1, 0, 2]), 0.0), [0.0, 1.0, np.inf])
