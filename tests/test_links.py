import itertools

import numpy as np
import pytest

from pal_jax.active import links
from pal_jax.active.evidence import Evidence
from pal_jax.active.geometry import Geometry
from pal_jax.active.links import NEVER, features, fit, infer_links, look, sigmoid

LABELS = np.arange(120) % 6
Z = np.random.default_rng(0).normal(size=(120, 6)) + 3.0 * np.eye(6)[LABELS]
POINTS = Geometry(Z)
SIZE = np.bincount(LABELS).astype(np.float64)
QUIET = np.zeros((6, 6))  # no answers


def cosine(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1)
    return np.maximum(x @ x.T / np.outer(norm, norm), 0.0)


def test_features_are_what_they_are_said_to_be():
    one = np.eye(6)[LABELS]
    graph = POINTS.graph.normalised()
    edges = np.zeros((120, 120))
    edges[graph.rows(), graph.indices] = graph.weights
    between = one.T @ edges @ one
    volume = between.sum(axis=1)
    leak = between / np.minimum(volume[:, None], volume)
    size = SIZE + np.arange(6)  # not all the same
    small = np.minimum(size[:, None], size) / (120 / len(POINTS.medoids))
    found = features(POINTS, look(POINTS, LABELS, len(size)), size)
    assert found.shape == (6, 6, 4)
    np.testing.assert_allclose(found, found.transpose(1, 0, 2), atol=1e-6)
    expected = [np.ones((6, 6)), cosine(one.T @ POINTS.features), leak, small]
    np.testing.assert_allclose(found[:, :, 0], expected[0])
    np.testing.assert_allclose(np.exp(found[:, :, 1]) - 1e-3, expected[1], atol=1e-5)
    np.testing.assert_allclose(np.exp(found[:, :, 2]) - 1e-4, expected[2], atol=1e-9)
    np.testing.assert_allclose(np.exp(found[:, :, 3]) - 0.05, expected[3], atol=1e-9)


def answers(relation: bool, error: float, count: int = 6) -> Evidence:
    """Of typical samples of two communities, all said to be alike, or all not."""
    core, home = np.flatnonzero(POINTS.core), POINTS.communities
    pairs = [(i, j) for i in core for j in core if home[i] < home[j]][:: len(core)][:count]
    first, second = np.array(pairs).T
    yes, no = np.full(len(pairs), 1.0 - error), np.full(len(pairs), error)
    return Evidence(first, second, *((yes, no) if relation else (no, yes)))


def odds(weights: np.ndarray) -> float:
    """Mean log odds of the pairs that `answers` are about."""
    said = answers(True, 0.1)
    home = POINTS.communities
    x = features(POINTS, look(POINTS, home, home.max() + 1), np.bincount(home).astype(float))
    return float((x[home[said.first], home[said.second]] @ weights).mean())


def test_without_answers_the_prior_stands():
    none = np.empty(0, np.int64)
    nothing = fit(POINTS, Evidence(none, none, none * 1.0, none * 1.0))
    np.testing.assert_array_equal(nothing, links._PRIOR)
    home = POINTS.communities
    same = np.flatnonzero(POINTS.core & (home == 0))[:2]  # says nothing about two communities
    far = np.flatnonzero(~POINTS.core)[:2] if (~POINTS.core).any() else same
    for pair in (same, far):
        said = Evidence(pair[:1], pair[1:], np.array([0.9]), np.array([0.1]))
        if home[pair[0]] == home[pair[1]] or not POINTS.core[pair].all():
            np.testing.assert_array_equal(fit(POINTS, said), links._PRIOR)


@pytest.mark.parametrize("relation", [True, False])
def test_answers_move_the_prior_their_way_and_doubtful_ones_less(relation):
    before = odds(links._PRIOR)
    sign = 1.0 if relation else -1.0
    sure, doubtful, worthless = (
        sign * (odds(fit(POINTS, answers(relation, error))) - before) for error in (0.001, 0.2, 0.5)
    )
    assert sure > doubtful > 0.0
    assert worthless == pytest.approx(0.0, abs=1e-12)


def test_the_fit_is_the_penalised_maximum_of_the_likelihood():
    said = answers(True, 0.1)
    mixed = Evidence(said.first, said.second, np.where(np.arange(6) % 2, 0.9, 0.1),
                     np.where(np.arange(6) % 2, 0.1, 0.9))  # fmt: skip
    home = POINTS.communities
    size = np.bincount(home).astype(float)
    x = features(POINTS, look(POINTS, home, len(size)), size)[home[said.first], home[said.second]]

    def loss(w):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        penalty = np.square((w - links._PRIOR) / links._SPREAD).sum() / 2
        return penalty - np.log(p * mixed.if_alike + (1.0 - p) * mixed.if_apart).sum()

    found = fit(POINTS, mixed)
    for direction in np.random.default_rng(0).normal(size=(20, 4)):
        assert loss(found) <= loss(found + 0.1 * direction)


def infer(heard=QUIET, member=LABELS, size=SIZE, points=POINTS):
    return infer_links(points, member, size, links._PRIOR, heard, len(size))


def between(a: int, b: int, weight: float) -> np.ndarray:
    out = np.zeros((6, 6))
    out[a, b] = out[b, a] = weight
    return out


@pytest.mark.parametrize("heard", [QUIET, between(0, 1, 30.0), between(0, 1, -30.0)])
def test_chances_are_chances(heard):
    chance = infer(heard).chance
    assert (chance >= 0.0).all()
    assert (chance <= 1.0).all()
    np.testing.assert_allclose(chance, chance.T, atol=1e-6)
    assert (chance.diagonal() == 0.0).all()


def test_answers_between_groups_decide():
    quiet, yes, no = infer(), infer(between(2, 4, 20.0)), infer(between(2, 4, NEVER))
    assert quiet.cluster[2] != quiet.cluster[4]
    assert yes.chance[2, 4] > 0.99
    assert yes.cluster[2] == yes.cluster[4]
    assert no.chance[2, 4] < 1e-12 < quiet.chance[2, 4]
    assert no.cluster[2] != no.cluster[4]
    np.testing.assert_allclose(yes.odds - quiet.odds, between(2, 4, 20.0), atol=1e-9)


def piece(heard=QUIET, member=LABELS, pieces=0.0, whole=None):
    size = np.bincount(member).astype(float)
    return links._as_piece(
        look(POINTS, member, len(size)), size, size if whole is None else whole, heard, pieces
    )


def with_a_small_group() -> np.ndarray:
    member = LABELS.copy()
    member[np.flatnonzero(LABELS == 5)[3:]] = 4  # three samples are left of the last group
    return member


def test_a_small_group_is_likelier_a_piece_than_a_large_one():
    member = with_a_small_group()
    chance = piece(member=member)
    np.testing.assert_array_equal(chance, chance.T)
    assert chance[5].sum() > 3.0 * chance[:4, :4].sum(axis=1).max()
    assert chance[5].sum() < 1.0  # of one class at most
    whole = infer(member=member, size=np.bincount(member).astype(float)).chance
    assert (whole >= chance - 1e-12).all()
    assert whole[5].sum() > 2.0 * whole[:4, :4].sum(axis=1).max()


def test_a_small_group_of_a_large_cluster_is_less_likely_a_piece():
    member = with_a_small_group()
    whole = np.bincount(member).astype(float)
    whole[5] = 30.0
    assert piece(member=member, whole=whole)[5].sum() < 0.2 * piece(member=member)[5].sum()


def test_pieces_are_small_clusters_not_small_groups(monkeypatch):
    """However the groups of a cluster were joined."""
    seen = []
    monkeypatch.setattr(links, "_as_piece", lambda *args: seen.append(args[1:3]) or args[3] * 0.0)
    infer_links(POINTS, LABELS, SIZE, links._PRIOR, between(0, 1, 9.0), 6)
    infer_links(POINTS, LABELS, SIZE, np.array([30.0, 0.0, 0.0, 0.0]), QUIET, 6)  # by looks
    for found, expected in zip(seen[0], [[40.0, 20.0, 20.0, 20.0, 20.0]] * 2, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(seen[1], [SIZE, [120.0] * 6], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_answers_have_joined_is_looked_at_as_one_group():
    """Believed of others as if it had been one from the start, and a piece had been found."""
    one = LABELS - (LABELS > 0)
    whole = infer_links(POINTS, one, np.bincount(one).astype(float), links._PRIOR, QUIET[1:, 1:], 6)
    found = infer(between(0, 1, 20.0))
    np.testing.assert_allclose(found.chance[1:, 1:], whole.chance, atol=1e-12)
    np.testing.assert_allclose(found.chance[0, 2:], whole.chance[0, 1:], atol=1e-12)
    assert (np.abs(found.chance[1, 2:] - infer().chance[1, 2:]) > 1e-4).all()


def test_what_answers_say_of_two_clusters_counts_for_all_their_groups():
    """Groups 0 and 1 are one class; 1 is kept from 2, which was never compared with 0."""
    joined = between(0, 1, 8.0)
    quiet, told = infer(joined), infer(joined + between(1, 2, -8.0))
    assert told.chance[0, 2] < 0.1 * quiet.chance[0, 2]
    doubtful = infer(between(0, 1, 2.5) + between(1, 2, -8.0))
    assert told.chance[0, 2] < doubtful.chance[0, 2] <= quiet.chance[0, 2]
    np.testing.assert_allclose(told.odds[0, 2], quiet.odds[0, 2])  # by looks and answers alone


def test_no_answers_make_two_known_labels_one_class():
    """Labels 0 and 1, and four groups that answers by the dozen call like both."""
    heard = sum((between(a, b, 80.0) for a in (0, 1) for b in range(2, 6)), QUIET.copy())
    heard[0, 1] = heard[1, 0] = -np.inf
    found = infer(heard)
    assert found.cluster[0] != found.cluster[1]
    assert {*found.cluster[2:].tolist()} <= {*found.cluster[:2].tolist()}
    assert found.chance[0, 1] == found.chance[1, 0] == 0.0
    assert found.odds[0, 1] == found.told[0, 1] == NEVER
    assert np.isfinite(found.odds).all()
    assert np.isfinite(found.chance).all()


def test_a_chain_of_answers_is_as_sure_as_all_its_links():
    heard = between(0, 1, 8.0) + between(1, 2, 8.0)
    found = infer(heard)
    first, second = (1.0 / (1.0 + np.exp(-found.odds[a, a + 1])) for a in (0, 1))
    assert found.cluster[0] == found.cluster[2]
    assert found.odds[0, 2] < 0.0
    np.testing.assert_allclose(found.chance[0, 2], first * second)


def test_a_small_group_that_is_kept_from_one_is_likelier_of_another():
    member = with_a_small_group()
    before, after = piece(member=member), piece(between(5, 4, -30.0), member)
    assert after[5, 4] < 1e-9 < before[5, 4]
    assert (after[5, :4] > before[5, :4]).all()
    assert after[5].sum() < before[5].sum()  # but likelier of none
    np.testing.assert_array_equal(after[:5, :5], before[:5, :5])
    np.testing.assert_array_equal(piece(between(5, 4, 30.0), member), before)  # a yes is no share


def test_the_more_groups_were_found_to_be_pieces_the_likelier_are_others(monkeypatch):
    off = ~np.eye(6, dtype=bool)
    assert (piece(pieces=0.5)[off] > piece(pieces=0.0)[off]).all()
    seen = []
    monkeypatch.setattr(links, "_as_piece", lambda *args: seen.append(args[-1]) or QUIET)
    heard = between(0, 1, 9.0) + between(2, 3, -9.0)
    infer_links(POINTS, LABELS, SIZE, links._PRIOR, heard, 8)
    assert seen == [3 / 8]  # two of eight are gone, one of the others was joined by an answer


def test_groups_that_answers_have_joined_within_a_cluster_are_one_part():
    """Directly, or by a chain of any order; not across clusters, and not by looks alone."""
    heard = np.zeros((6, 6))
    for a, b in [(0, 5), (5, 2), (2, 4), (1, 3)]:
        heard[a, b] = heard[b, a] = 1.1
    cluster = np.array([0, 1, 0, 2, 0, 0])
    np.testing.assert_array_equal(links._joined(heard, cluster), [0, 1, 0, 2, 0, 0])
    np.testing.assert_array_equal(links._joined(-heard, cluster), np.arange(6))
    np.testing.assert_array_equal(links._joined(heard * 0.9, cluster), np.arange(6))


def test_clusters_are_contracted_by_votes_that_add_up_and_looks_that_do_not():
    """Four groups; looks join 0 and 1 first, then an average decides about 2, votes about 3."""
    prior = np.array([[0, 5, 2, -1], [5, 0, -4, -1], [2, -4, 0, -9], [-1, -1, -9, 0]], float)
    size = np.array([1.0, 1.0, 1.0, 1.0])

    def clusters(size=size, **votes):
        heard = np.zeros((4, 4))
        for pair, vote in votes.items():
            a, b = int(pair[1]), int(pair[2])
            heard[a, b] = heard[b, a] = vote
        return links._contract(prior, heard, size).tolist()

    assert clusters() == [0, 0, 1, 2]  # (2 - 4) / 2 < 0
    assert clusters(np.array([4.0, 1.0, 1.0, 1.0])) == [0, 0, 0, 1]  # (4 * 2 - 4) / 5 > 0
    assert clusters(_03=0.8) == [0, 0, 1, 2]
    assert clusters(_03=0.8, _13=0.8) == [0, 0, 1, 0]  # 0.8 + 0.8 - (1 + 1) / 2 > 0
    assert clusters(_01=-6.0) == [0, 1, 0, 2]  # then 2 goes with 0 alone: (2 > 0)
    assert clusters(_01=-50.0, _12=60.0, _02=-50.0) == [0, 1, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_contraction_is_its_definition(seed):
    """Every step looks at all pairs anew."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 14))
    prior = np.round(rng.normal(rng.uniform(-3, 3), 3, (count, count)), seed % 3)
    heard = np.round(rng.normal(0, 2, (count, count)))
    prior, heard, size = prior + prior.T, heard + heard.T, rng.uniform(0.1, 5.0, count)
    found = links._contract(prior, heard, size)
    groups = [[i] for i in range(count)]
    while True:
        best, pair = 0.0, None
        for a, one in enumerate(groups):
            for b in range(a + 1, len(groups)):
                looks = np.outer(size[one], size[groups[b]])
                odds = (looks * prior[np.ix_(one, groups[b])]).sum() / looks.sum()
                odds += heard[np.ix_(one, groups[b])].sum()
                if odds > best + 1e-9:
                    best, pair = odds, (a, b)
        if pair is None:
            break
        groups[pair[0]] += groups.pop(pair[1])
    for group in groups:
        assert len({*found[group]}) == 1
    assert len({*found.tolist()}) == len(groups)


def test_the_chance_to_be_joined_goes_by_the_surest_chain(rng):
    odds = rng.normal(0, 2, (7, 7))
    odds += odds.T
    cluster = np.array([0, 1, 0, 0, 1, 0, 2])
    found = links._joined_chance(odds, cluster)
    chance = 1.0 / (1.0 + np.exp(-odds))
    for a, b in itertools.product(range(7), repeat=2):
        inside = [c for c in range(7) if cluster[c] == cluster[a] and c not in (a, b)]
        chains = [
            np.prod([chance[x, y] for x, y in itertools.pairwise((a, *way, b))])
            for length in range(len(inside) + 1)
            for way in itertools.permutations(inside, length)
        ]
        expected = float(a == b) or (max(chains) if cluster[a] == cluster[b] else 0.0)
        assert found[a, b] == pytest.approx(expected)


def test_one_group_is_one_cluster():
    found = infer_links(POINTS, np.zeros(120, int), np.array([120.0]), links._PRIOR,
                        np.zeros((1, 1)), 3)  # fmt: skip
    assert found.cluster.tolist() == [0]
    assert found.chance.tolist() == [[0.0]]


def test_sigmoid_takes_any_number():
    x = np.array([-1e9, -2.0, 0.0, 2.0, 1e9])
    np.testing.assert_allclose(sigmoid(x), [0.0, 1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2), 1.0],
                               atol=1e-15)  # fmt: skip
