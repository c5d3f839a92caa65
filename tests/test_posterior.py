import dataclasses
import functools
import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pal_jax.active import belief as belief_lib
from pal_jax.active import posterior as posterior_lib
from pal_jax.active import strategies
from pal_jax.active.evidence import Evidence, Trust
from pal_jax.active.geometry import Geometry
from pal_jax.active.links import Links
from pal_jax.active.oracles import LabelOracle, NoisyOracle
from pal_jax.active.posterior import Posterior, infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.active.sampler import Sampler

ALIKE, NOT_ALIKE, UNKNOWN = Relation.ALIKE, Relation.NOT_ALIKE, Relation.UNKNOWN
N = 120
LABELS = np.arange(N) % 4
Z = np.random.default_rng(0).normal(size=(N, 5)) + 6.0 * np.eye(5)[LABELS]
CLOSE = np.random.default_rng(0).normal(size=(N, 5)) + 2.2 * np.eye(5)[LABELS]  # they overlap
HARD, SOFT, UNKNOWN_RATE = Trust(0.0), Trust(0.1), Trust(None)
FAR, NEAR = Geometry(Z), Geometry(CLOSE)  # computed once for all tests


def say(i: int, j: int, relation: Relation, oracle: str = "me") -> Answer:
    return Answer(Question(int(i), (int(j),)), (relation,), oracle)


def believe(*answers: Answer, trust=HARD, geometry=FAR, known=None) -> Posterior:
    relations = Relations(geometry.n, known)
    relations.add(answers)
    return infer(geometry, relations, trust)


def truth(pairs, labels=LABELS) -> list[Answer]:
    return LabelOracle(labels, "me")([Question(int(i), (int(j),)) for i, j in pairs])


def some_pairs(count: int, seed: int = 0, n: int = N) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(n, 2, replace=False) for _ in range(count)]
    return [(int(i), int(j)) for i, j in chosen]


def unit_of(posterior: Posterior, sample: int) -> int:
    return int(posterior.unit[list(posterior.nodes).index(sample)])


def column_of(posterior: Posterior, sample: int) -> int:
    """The column that the unit of this sample opened."""
    return list(posterior.first).index(unit_of(posterior, sample))


def together(groups: np.ndarray) -> np.ndarray:
    return groups[:, None] == groups


def partition(posterior: Posterior) -> np.ndarray:
    return posterior.cluster.argmax(axis=1)


def accuracy(groups: np.ndarray, labels: np.ndarray) -> float:
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(labels))


@pytest.mark.parametrize("geometry", [FAR, NEAR], ids=["far", "near"])
@pytest.mark.parametrize("trust", [HARD, SOFT, UNKNOWN_RATE], ids=["hard", "soft", "unknown"])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_probabilities_sum_to_one(geometry, trust, count):
    answers = [*truth(some_pairs(count)), *[say(5, 9, UNKNOWN)] * count]
    found = believe(*answers, trust=trust, geometry=geometry)
    assert found.column.shape == (N, len(found.first) + 1)
    np.testing.assert_allclose(found.column.sum(axis=1), 1.0, atol=1e-6)
    assert (found.column >= 0.0).all()
    np.testing.assert_allclose(found.cluster.sum(axis=1), 1.0 - found.column[:, -1], atol=1e-6)
    assert found.hard is (trust is HARD or (trust is UNKNOWN_RATE and count > 0))
    sure = found.sureness()
    assert (sure >= 0.0).all()
    assert (sure <= 1.0 + 1e-9).all()
    for value in (found.variance, found.links.chance):
        assert ((value >= 0.0) & (value <= 1.0)).all()
    assert [unit_of(found, sample) for sample in found.opener] == found.first.tolist()


def test_without_answers_each_community_is_a_column():
    found = believe()
    np.testing.assert_array_equal(found.opener, FAR.medoids)
    np.testing.assert_array_equal(together(partition(found)), together(LABELS))


def test_what_is_proven_is_certain():
    medoid = int(FAR.medoids[0])
    mates = np.flatnonzero(LABELS[medoid] == LABELS)
    mates = mates[mates != medoid][:3]
    other = int(np.flatnonzero(LABELS[medoid] != LABELS)[0])
    chain = [say(medoid, mates[0], ALIKE), say(mates[1], mates[2], ALIKE),
             say(mates[0], mates[1], ALIKE), say(mates[2], other, ALIKE)]  # fmt: skip
    found = believe(*chain)
    column = column_of(found, medoid)
    np.testing.assert_array_equal(found.column[[*mates, other], column], 1.0)  # by closure
    soft = believe(*chain, trust=SOFT)
    assert soft.column[other, column_of(soft, medoid)] < 1.0


@pytest.mark.parametrize(("wrong", "hard"), [(0.0, True), (0.15, False)])
def test_answers_of_an_oracle_of_unknown_rate_are_proof_if_it_never_errs(wrong, hard):
    """Though the embedding is wrong about a tenth of the samples: classes overlap."""
    labels = LabelOracle(LABELS)
    sampler = Sampler(N, budget=80, error_rate=None)
    sampler.ask(NoisyOracle(labels, wrong, seed=1) if wrong else labels, CLOSE, 80)
    found = infer(NEAR, sampler.relations, UNKNOWN_RATE)
    assert found.hard is hard
    assert (found.error == 0.0) is hard
    if hard:
        proven = infer(NEAR, sampler.relations, HARD)
        np.testing.assert_array_equal(found.column, proven.column)


def test_the_same_answers_again_and_again_of_an_oracle_of_unknown_rate_may_be_proof():
    answers = truth(some_pairs(12) * 5)
    found, proven = (believe(*answers, trust=trust) for trust in (UNKNOWN_RATE, HARD))
    assert found.hard
    np.testing.assert_array_equal(found.column, proven.column)


def test_who_contradicts_what_was_said_before_errs():
    """Once in 150 answers: no share of right ones makes proof of two that cannot both be right."""
    pairs = some_pairs(150)
    i, j = pairs[0]
    answers = [*truth(pairs), say(i, j, NOT_ALIKE if LABELS[i] == LABELS[j] else ALIKE)]
    found = believe(*answers, trust=UNKNOWN_RATE)
    assert not found.hard
    assert 0.0 < found.error < 0.05


def test_a_file_of_guesses_that_contradicts_a_person_does_not_prove_that_the_person_errs():
    answers = truth(some_pairs(60))
    guesses = [dataclasses.replace(a, oracle="guess") for a in truth(some_pairs(60), -LABELS % 3)]
    found = believe(*guesses, *answers, trust=Trust(None, {"guess": None}))
    assert found.rates["me"][0, 1] < 1e-3  # of what is alike, called not alike


def doubtful(geometry: Geometry) -> tuple[int, int]:
    """A sample that is no node, about as probable in two columns, and its likeliest medoid."""
    free = np.setdiff1d(np.arange(N), geometry.medoids)
    found = infer(geometry, Relations(N), SOFT)
    share = found.column[free].max(axis=1)
    sample = int(free[share.argmin()])
    column = int(found.column[sample].argmax())
    return sample, int(found.opener[column])


def test_a_hard_no_takes_the_column_away():
    sample, medoid = doubtful(NEAR)
    before, after = believe(geometry=NEAR), believe(say(medoid, sample, NOT_ALIKE), geometry=NEAR)
    column = column_of(before, medoid)
    assert before.column[sample, column] > 0.1
    assert after.column[sample, column] < 1e-4
    rest = np.delete(after.column[sample], column)
    assert rest.sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("relation", [ALIKE, NOT_ALIKE])
@pytest.mark.parametrize("error", [0.05, 0.2, 0.4])
def test_an_answer_multiplies_the_odds_by_its_likelihood_ratio(error, relation, monkeypatch):
    """Prior of its neighbours times likelihood, for one sample and a medoid that is certain."""
    # No other model, even if it fits better after the answer.
    monkeypatch.setattr(belief_lib, "_likeliest", lambda _, belief, *rest: (belief.model, False))
    sample, medoid = doubtful(NEAR)
    trust = Trust(error)
    yes = believe(say(medoid, sample, relation), geometry=NEAR, trust=trust)
    # The same nodes, so the same neighbours' opinion, from an answer that says next to nothing.
    none = Trust(0.5 - 1e-9)
    prior = believe(say(medoid, sample, ALIKE), geometry=NEAR, trust=none).column[sample]
    column = column_of(yes, medoid)
    right, wrong = (1.0 - error, error) if relation is ALIKE else (error, 1.0 - error)
    likelihood = np.where(np.arange(len(prior)) == column, right, wrong)
    expected = prior * likelihood / (prior * likelihood).sum()
    np.testing.assert_allclose(yes.column[sample], expected, atol=1e-6)


def test_a_wrong_yes_between_far_groups_does_not_glue_them_and_two_noes_undo_it():
    a, b = (np.flatnonzero(FAR.communities == c) for c in range(2))
    wrong = [say(a[0], b[0], ALIKE)]
    right = [say(i, j, ALIKE) for mates in (a[:5], b[:5]) for i, j in itertools.pairwise(mates)]
    for answers in (wrong, right + wrong):
        groups = partition(believe(*answers, trust=SOFT))
        assert not together(groups)[np.ix_(a[1:], b[1:])].any()
    glued = wrong + [say(a[k], b[k], ALIKE) for k in range(1, 20)]  # again and again: it is so
    assert together(partition(believe(*glued, trust=SOFT)))[np.ix_(a, b)].mean() > 0.9
    quiet = believe(trust=SOFT).links.chance[0, 1]
    one = believe(*wrong, trust=SOFT)
    two = [say(a[k], b[k], NOT_ALIKE) for k in (1, 2)]
    undone = believe(*wrong, *two, trust=SOFT)
    chance = [p.links.chance[column_of(p, FAR.medoids[0]), column_of(p, FAR.medoids[1])]
              for p in (one, undone)]  # fmt: skip
    assert chance[1] < min(chance[0], quiet)
    np.testing.assert_array_equal(together(partition(undone)), together(LABELS))


def test_opposite_answers_about_one_pair_cancel():
    a, b = (int(np.flatnonzero(FAR.communities == c)[0]) for c in range(2))
    for relation in (ALIKE, NOT_ALIKE):
        other = NOT_ALIKE if relation is ALIKE else ALIKE
        answers = [say(a, b, relation)] * 4 + [say(a, b, other)]
        found, fewer = (believe(*told, trust=Trust(0.3)) for told in (answers, answers[:3]))
        np.testing.assert_allclose(found.column, fewer.column, atol=0.01)
        np.testing.assert_allclose(found.links.odds, fewer.links.odds, atol=0.01)
        one = believe(*answers[:1], trust=Trust(0.3))
        assert np.abs(found.links.odds - one.links.odds).max() > 0.1


@pytest.mark.parametrize("trust", [HARD, SOFT, Trust(0.1, {"me": 0.2})], ids=str)
@pytest.mark.parametrize("told", [[], truth(some_pairs(20))], ids=["nothing", "something"])
def test_not_sure_says_nothing_where_the_rate_is_given(trust, told):
    unsure = [say(i, j, UNKNOWN) for i, j in some_pairs(30, seed=1)]
    before = believe(*told, geometry=NEAR, trust=trust)
    after = believe(*told, *unsure, geometry=NEAR, trust=trust)
    np.testing.assert_array_equal(after.nodes, before.nodes)
    np.testing.assert_array_equal(after.column, before.column)
    np.testing.assert_array_equal(after.links.chance, before.links.chance)


def test_a_sample_of_little_news_speaks_as_its_neighbours_do():
    """An answer that may as well be wrong adds a node, and hardly an opinion."""
    before = believe(geometry=NEAR, trust=SOFT)
    i, j = doubtful(NEAR)
    after = believe(say(i, j, ALIKE), geometry=NEAR, trust=Trust(0.5 - 1e-9))
    assert i in after.nodes
    np.testing.assert_allclose(after.column, before.column, atol=0.05)
    heard = believe(say(i, j, ALIKE), geometry=NEAR, trust=SOFT)  # but what is said is heard
    assert np.abs(heard.column - before.column).max() > 0.1


def test_not_sure_speaks_where_it_comes_more_often_of_one_kind():
    """Of an oracle of unknown rate that errs, and is never sure of two of different classes."""
    pairs = some_pairs(300)
    oracle = NoisyOracle(LabelOracle(LABELS, "me"), 0.2, 0)
    sure = list(oracle([Question(i, (j,)) for i, j in pairs if LABELS[i] == LABELS[j]]))
    unsure = [say(i, j, UNKNOWN) for i, j in pairs if LABELS[i] != LABELS[j]]
    found = believe(*sure, *unsure[:-1], geometry=NEAR, trust=UNKNOWN_RATE)
    more = believe(*sure, *unsure, geometry=NEAR, trust=UNKNOWN_RATE)
    assert not found.hard
    assert not np.array_equal(found.column, more.column)


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_the_regression_is_that_of_the_nodes_whichever_way_it_is_decided(wrong):
    """Samples of which only "not sure" was said are nodes either way, or not."""
    oracle = NoisyOracle(LabelOracle(LABELS, "me"), wrong, 0)
    told = list(oracle([Question(i, (j,)) for i, j in some_pairs(60)]))
    unsure = [say(i, j, UNKNOWN) for i, j in some_pairs(20, seed=1)]
    found = believe(*told, *unsure, geometry=NEAR, trust=UNKNOWN_RATE)
    assert found.hard is (wrong == 0.0)
    np.testing.assert_array_equal(found.field.nodes, found.nodes)


def test_samples_that_all_columns_refuse_open_one_and_are_joined():
    labels = np.where(np.isin(np.arange(N), [0, 4, 8]), 9, LABELS)  # a class nobody knows of
    pairs = [(int(m), s) for m in FAR.medoids for s in (0, 4, 8) if m not in (0, 4, 8)]
    found = believe(*truth(pairs, labels), *truth([(0, 4), (0, 8)], labels))
    assert len(found.first) == len(FAR.medoids) + 1
    assert found.column[[0, 4, 8], -2] == pytest.approx(1.0)
    groups = partition(found)
    assert together(groups)[np.ix_([0, 4, 8], [0, 4, 8])].all()
    rest = np.setdiff1d(FAR.medoids, [0, 4, 8])
    assert not together(groups)[[0, 4, 8]][:, rest].any()
    soft = believe(*truth(pairs, labels)[:2], trust=SOFT)
    assert len(soft.first) == len(FAR.medoids)  # two doubtful noes are no new class


def test_known_labels_are_columns_that_nothing_merges():
    known = np.where(np.arange(N) < 40, np.arange(N) // 10, -1)  # labels across the blobs
    answers = [say(a, b, ALIKE) for a, b in [(0, 10), (1, 11), (2, 12), (3, 25), (4, 35)]]
    for trust in (HARD, SOFT, Trust(None)):
        found = believe(*answers, known=known, trust=trust)
        opened = [column_of(found, first) for first in (0, 10, 20, 30)]
        assert len(set(opened)) == 4
        one_hot = np.eye(found.column.shape[1])[np.repeat(opened, 10)]
        np.testing.assert_array_equal(found.column[:40], one_hot)
        assert len(set(found.links.cluster[opened])) == 4
        np.testing.assert_array_equal(together(partition(found))[:40, :40], together(known[:40]))


def test_more_known_labels_than_speak_are_all_kept(monkeypatch):
    monkeypatch.setattr(posterior_lib, "_MOST_KNOWN", 10)
    rng = np.random.default_rng(3)
    known = np.where(rng.random(N) < 0.7, LABELS, -1)
    known[:8] = rng.permutation(8) % 4  # some labels that no embedding would guess
    found = believe(known=known)
    assert len(found.nodes) < 10 + 3
    mine = np.flatnonzero(known >= 0)
    np.testing.assert_array_equal(found.column[mine].max(axis=1), 1.0)
    groups = partition(found)
    np.testing.assert_array_equal(together(groups[mine]), together(known[mine]))


def test_a_rare_label_is_not_left_out_where_many_are_known(monkeypatch):
    monkeypatch.setattr(posterior_lib, "_MOST_KNOWN", 6)
    known = np.where(np.arange(N) % 2, LABELS, -1)
    known[[33, 35]] = 9  # of all labels the one that an even choice of six passes over
    found = believe(known=known)
    groups = partition(found)
    mine = np.flatnonzero(known >= 0)
    assert not np.isin([33, 35], mine[np.linspace(0, len(mine) - 1, 6).astype(int)]).any()
    np.testing.assert_array_equal(together(groups[mine]), together(known[mine]))


def test_the_share_of_pieces_is_at_most_no_less_than_expected():
    for seed in range(20):
        pairs = np.random.default_rng(seed).integers(0, N, (5 * seed, 2)).tolist()
        answers = [say(i, j, ALIKE if LABELS[i] == LABELS[j] else NOT_ALIKE)
                   for i, j in pairs if i != j]  # fmt: skip
        expected, at_most = believe(*answers).pieces()
        assert 0.0 <= expected <= at_most <= 1.0


def test_a_column_is_as_sure_as_it_is_rightly_joined():
    """The smaller of two that are one class with 0.7; the larger is what it was joined to."""
    found = believe(geometry=NEAR)
    count = len(found.first)
    chance = np.zeros((count, count))
    chance[0, 1] = chance[1, 0] = 0.7
    cluster = np.maximum(np.arange(count) - 1, 0)
    joined = dataclasses.replace(
        found,
        links=Links(chance, chance, chance, cluster),
        cluster=posterior_lib._of_clusters(found.column, cluster),
    )
    right = np.ones(count)
    right[found.column[:, :2].sum(axis=0).argmin()] = 0.7
    expected = (found.column[:, :-1] * right)[:, :2].sum(axis=1)
    np.testing.assert_allclose(joined.whole()[:, 0], expected)
    mine = joined.cluster.argmax(axis=1) == 0
    np.testing.assert_allclose(joined.sureness()[mine], expected[mine])
    assert mine.any()


@pytest.mark.parametrize("trust", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("told", [ALIKE, NOT_ALIKE])
@pytest.mark.parametrize("place", [0, 1], ids=["its own", "another"])
def test_what_is_foretold_of_a_sample_is_what_was_believed_before_it_was_asked_about(
    trust, told, place
):
    mates = np.setdiff1d(np.flatnonzero(LABELS[FAR.medoids[0]] == LABELS), FAR.medoids)
    sample, idle, other = mates[0], mates[1], int(FAR.medoids[place])
    rest = truth((i, j) for i, j in some_pairs(60) if not {i, j} & {sample, idle})
    before = believe(*rest, trust=trust)
    found = believe(*rest, say(sample, other, told), trust=trust)
    sure, same = found.foretold(np.array([sample, idle]), np.array([other, other]))
    assert np.isnan(sure[1])  # is no node
    if (told, place) != (NOT_ALIKE, 0):  # the model itself, which is surprised by that
        expected = before.sureness()[sample] / before.promise
        assert sure[0] / found.promise == pytest.approx(expected, abs=0.01)
    assert same[0] == (place == 0)


@pytest.mark.parametrize(("trust", "needed"), [(HARD, 1), (SOFT, 2)])
def test_a_group_may_be_a_piece_until_answers_keep_it_from_all_larger_ones(trust, needed):
    """However far apart they look."""
    told: list[Answer] = []
    for number in range(needed):
        for i, j in itertools.combinations(range(4), 2):
            found = believe(*told, trust=trust)
            expected, at_most = found.pieces()
            assert found.open_pairs().any()
            assert expected < 0.1
            assert at_most > 0.2  # a group of four at least
            told.append(say(i + 4 * number, j, NOT_ALIKE))
    found = believe(*told, trust=trust)
    assert not found.open_pairs().any()
    assert found.pieces()[1] < 0.05


@pytest.fixture(scope="module")
def scanned():
    """An embedding that says little, and 2,400 answers of which one in twenty is wrong: each of
    600 samples beside one of its class, and one in four beside one of another first."""
    labels, rng = np.arange(600) % 10, np.random.default_rng(0)
    z = rng.normal(size=(10, 64))[labels] + 3.0 * rng.normal(size=(600, 64))
    pairs = [(i, j) for i in range(10) for j in range(i)]
    for _ in range(3):
        for i in rng.permutation(np.arange(10, 600)):
            pairs += [(i, int(rng.integers(10)))] * (rng.random() < 0.25) + [(i, labels[i])]
    questions = [Question(int(i), (int(j),)) for i, j in pairs]
    return labels, Geometry(z), list(NoisyOracle(LabelOracle(labels), 0.05, 0)(questions))


def test_answers_outweigh_an_embedding_that_says_little(scanned):
    """Samples tied to each other have to leave a column together: none would do so alone."""
    labels, geometry, answers = scanned
    assert accuracy(partition(believe(geometry=geometry)), labels) < 0.5
    found = believe(*answers, trust=Trust(0.05), geometry=geometry)
    assert accuracy(partition(found), labels) > 0.8


def test_a_camp_leaves_when_that_makes_its_answers_likelier():
    """Against the sum over all answers before and after: 3 with 4, 5 and, from elsewhere, 6.

    9 is tied to the rest as well, and more so, and 0 has opened the column: both stay.
    """
    column = np.array([0, 1, 2, 0, 0, 0, 1, 0, 0, 0])
    share = np.full((10, 4), 0.001)
    share[np.arange(10), column] = 0.997
    looks = np.log(share)
    looks[6] = np.log([0.2, 0.4, 0.2, 0.2])
    yes = [(4, 3), (5, 3), (6, 3), (9, 3), (9, 7), (9, 8), (0, 3), (0, 5)]
    yes += [(6, 3)] * 3
    no = [(4, 7), (5, 8), (4, 8), (5, 7)] * 2
    right = np.repeat([0.9, 0.1], [len(yes), len(no)])
    first, second = np.array(yes + no).T
    heard = Evidence(first, second, right, 1.0 - right)
    model = belief_lib.Model(FAR.fields[0], 2.5, 0.1)

    def camps(news, heard=heard):
        belief = belief_lib.Belief(share, share[:, :-1], looks, looks, news, np.arange(3), model)
        return belief_lib._camps(belief, heard).tolist()

    gain = np.log(0.2 / 0.4) - 2.0  # looks put 6 into its column
    for i, j, if_alike in zip(first, second, right, strict=True):
        there = (i in (3, 4, 5, 6)) + (j in (3, 4, 5, 6))
        before = share[i, :3] @ share[j, :3]
        after = {0: before, 1: 0.0, 2: 1.0}[there]
        gain += np.log(if_alike * after + (1.0 - if_alike) * (1.0 - after))
        gain -= np.log(if_alike * before + (1.0 - if_alike) * (1.0 - before))
    assert gain > 0.0
    assert camps(np.exp(-gain + 0.01)) == [3]
    assert camps(np.exp(-gain - 0.01)) == []
    assert camps(0.5, heard.at(right > 0.5)) == []  # nothing keeps them apart


def test_how_probable_all_answers_are_is_exact_where_no_answer_hangs_on_another():
    """Against the sum over all groups that the two of each pair may be of."""
    share = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    heard = Evidence(
        np.array([2, 4]), np.array([3, 1]), np.array([0.9, 0.2]), np.array([0.05, 0.8])
    )
    looks = np.log(np.where(share > 0.0, share, 0.01))
    logits = looks + belief_lib.messages(heard, share, 5)
    model = belief_lib.Model(FAR.fields[0], 2.5, 0.1)
    belief = belief_lib.Belief(share, share, looks, logits, 0.07, np.array([0, 1]), model)
    told = 0.0  # of the first pair, whose answer was a "yes": two unseen may be of the same group
    for a, b in itertools.product(range(3), repeat=2):
        alike = float(a == b) if a < 2 else 0.2 * (b == 2)
        told += share[2, a] * share[3, b] * (0.9 * alike + 0.05 * (1.0 - alike))
    of_opened = 0.3 * 0.2 + 0.7 * 0.8  # the second is about the unit that opened the second column
    expected = np.log(told) + np.log(of_opened) + np.log(0.07)
    assert belief_lib._log_probability(belief, heard, 1) == pytest.approx(expected, abs=1e-9)


def thirty_classes(flip: float, seed: int) -> np.ndarray:
    """Accuracy after 20, 40 .. 600 answers about 600 samples of 30 classes that overlap."""
    labels = np.arange(600) % 30
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(30, 64))[labels] + 1.4 * rng.normal(size=(600, 64))
    sampler = Sampler(600, budget=600, error_rate=flip)
    oracle, accuracies = NoisyOracle(LabelOracle(labels), flip, seed), []
    for _ in range(30):
        sampler.ask(oracle, z, 20, at_once=20)
        accuracies.append(accuracy(sampler.partition(z).groups, labels))
    return np.array(accuracies)


@pytest.mark.parametrize(("flip", "least"), [(0.0, 0.8), (0.05, 0.9)])
def test_classes_that_share_a_community_are_found_and_not_lost_again(flip, least):
    """The more samples are spread over the columns there are, the better these seem to explain."""
    accuracies = thirty_classes(flip, 0)
    assert accuracies[0] < 0.75  # of 22 communities
    assert np.median(accuracies[15:]) > 0.95
    assert min(accuracies[15:]) > least


def test_classes_are_seldom_lost_again_where_answers_may_be_wrong():
    """Single looks do lose one, which one is chance: over seeds. With few groups tried alone 0.90
    and 0.40."""
    looks = np.stack([thirty_classes(0.05, seed)[14:] for seed in range(8)])
    assert looks[:, 1:].mean() > 0.915
    assert np.maximum(looks[:, :-1] - looks[:, 1:], 0.0).sum(axis=1).mean() < 0.35


def test_the_share_of_unseen_groups_is_the_likeliest_one():
    """That of a mixture, against a scan of its likelihood; and none that little speaks for."""
    rng = np.random.default_rng(0)
    for unlikely in (2, 60):
        bearing = np.where(np.arange(80) < unlikely, 0.1, 20.0) * rng.uniform(0.5, 2.0, 80)
        logits = np.log(np.stack([bearing, np.ones(80)], axis=1) * [1.0, 0.01])
        belief = belief_lib.Belief(
            share=np.zeros((80, 2)),
            labels=np.zeros((80, 1)),
            looks=np.zeros((80, 2)),
            logits=logits - np.log(1.0 + bearing[:, None]),
            news=0.01,
            first=np.zeros(0, np.int64),
            model=belief_lib.Model(FAR.fields[0], 1.0, 0.1),
        )
        told = belief_lib.bearing(belief)
        share = np.linspace(1e-4, 0.5, 5_000)
        worth = np.log(share + (1.0 - share) * told[:, None]).sum(axis=0)
        worth += 1.0 * np.log(share) + 19.0 * np.log(1.0 - share)
        found = belief_lib._news(belief, np.arange(80), 0.01, 1.0, 100.0)
        if unlikely == 2:
            assert found <= 1.25 * 0.01
        else:
            assert found == pytest.approx(share[worth.argmax()], abs=1e-3)


def answers_of(yes_error: float, no_error: float, seed: int = 0) -> tuple[list[Answer], list[bool]]:
    """300 answers about random pairs of blobs, half of them alike, and which of them are wrong."""
    rng = np.random.default_rng(seed)
    answers, errors = [], []
    for k in range(300):
        i, j = map(int, rng.choice(N, 2, replace=False))
        if k % 2:
            j = int(rng.choice(np.setdiff1d(np.flatnonzero(LABELS[i] == LABELS), [i])))
        alike = bool(LABELS[i] == LABELS[j])
        errors.append(bool(rng.random() < (yes_error if alike else no_error)))
        answers.append(say(i, j, ALIKE if alike != errors[-1] else NOT_ALIKE))
    return answers, errors


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.3])
def test_the_estimated_error_is_near_the_truth(flip):
    answers, errors = answers_of(flip, flip)
    found = believe(*answers, trust=Trust(None))
    assert found.error == pytest.approx(np.mean(errors), abs=0.02 + 0.2 * flip)
    np.testing.assert_array_equal(together(partition(found)), together(LABELS))


def test_errors_of_yes_and_no_are_told_apart(monkeypatch):
    """The wrong answers are mostly those about pairs that are alike, or those about the others."""
    seen = []
    error_of = posterior_lib.evidence_lib.error_of

    def keep(table, *rest):
        seen.append(table)
        return error_of(table, *rest)

    monkeypatch.setattr(posterior_lib.evidence_lib, "error_of", keep)
    wrong_noes = []
    for rates in [(0.3, 0.02), (0.02, 0.3)]:
        believe(*answers_of(*rates)[0], trust=Trust(None))
        table = seen.pop()[0, :, :2]
        found = (table / table.sum(axis=1, keepdims=True))[[0, 1], [1, 0]]
        # Twenty right answers are imagined beside some hundred and fifty.
        assert found[int(np.argmax(rates))] == pytest.approx(0.3, abs=0.08)
        wrong_noes.append(found[0])
    assert wrong_noes[0] > 3.0 * wrong_noes[1]  # alike pairs: 0.3 and 0.02


@pytest.mark.parametrize("trust", [HARD, SOFT, Trust(None)], ids=["hard", "soft", "unknown"])
def test_other_ids_give_the_same_beliefs(trust):
    new = np.random.default_rng(7).permutation(N)  # sample i is called new[i]
    pairs = some_pairs(30)
    oracle = NoisyOracle(LabelOracle(LABELS), 0.0 if trust is HARD else 0.1, 0)
    answers = list(oracle([Question(i, (j,)) for i, j in pairs]))
    renamed = [say(new[i], new[j], r, a.oracle) for a in answers for i, j, r in a.judgements]
    moved = np.empty_like(CLOSE)
    moved[new] = CLOSE
    one = believe(*answers, trust=trust, geometry=NEAR)
    other = believe(*renamed, trust=trust, geometry=Geometry(moved))
    assert set(new[one.nodes].tolist()) == set(other.nodes.tolist())
    np.testing.assert_array_equal(together(partition(other)[new]), together(partition(one)))
    np.testing.assert_allclose(other.wrong[new], one.wrong, atol=2e-3)
    np.testing.assert_allclose(other.sureness()[new], one.sureness(), atol=5e-3)
    assert other.error == pytest.approx(one.error, abs=1e-3)


@pytest.mark.parametrize("error_rate", [0.0, 0.1, None])
def test_beliefs_are_a_function_of_log_and_embedding_alone(error_rate):
    """To the bit: a sampler that took detours, one that was loaded, and one that only reads."""
    oracle = NoisyOracle(LabelOracle(LABELS), error_rate or 0.0, 0)
    one = Sampler(N, budget=200, error_rate=error_rate)
    for _ in range(4):
        one.ask(oracle, CLOSE, 12, at_once=4)
        one.propose(CLOSE, 7)  # believes in answers that never come
        one.partition(CLOSE)
    loaded = Sampler(N, budget=200, error_rate=error_rate)
    loaded.load_state_dict(one.state_dict())
    relations = Relations(N)
    relations.add(one.answers)
    fresh = infer(Geometry(CLOSE), relations, one.trust)
    for sampler in (one, loaded):
        found = infer(sampler._geometry_of(CLOSE), sampler.relations, sampler.trust)
        for name in ("nodes", "unit", "first", "column", "cluster", "variance"):
            np.testing.assert_array_equal(getattr(found, name), getattr(fresh, name))
        np.testing.assert_array_equal(found.links.chance, fresh.links.chance)
        np.testing.assert_array_equal(found.sureness(), fresh.sureness())
        assert found.error == fresh.error
    assert one.propose(CLOSE, 3) == loaded.propose(CLOSE, 3)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
def test_the_likeliest_model_gives_what_is_known_the_highest_probability(wrong):
    """Each node left out in turn, under all models there are, by the formulas written out."""
    rng = np.random.default_rng(0)
    nodes = rng.permutation(N)[:60]
    said = np.where(rng.random(60) < wrong, rng.integers(0, 4, 60), LABELS[nodes])
    share = np.full((60, 5), 0.01)
    share[np.arange(60), said] = 0.96
    nothing = Evidence(*np.zeros((2, 0), np.int64), *np.zeros((2, 0)))
    for field in NEAR.fields:
        field.move_to(nodes.tolist())
    first = np.unique(said, return_index=True)[1]
    start = belief_lib.Model(NEAR.fields[0], belief_lib._SHARP, belief_lib._DOUBTED)
    belief = belief_lib.Belief(share, share[:, :-1], share, share, 0.05, first, start)

    def worth(f, sharpness, doubt):
        mean, variance = NEAR.fields[f].left_out(share[:, :-1]), NEAR.fields[f].left_out_variance()
        score = np.maximum(mean, 0.0) ** sharpness + 1e-9
        looks = score / score.sum(axis=1, keepdims=True)
        held = (1.0 - doubt * variance) * looks[np.arange(60), said] + doubt * variance / 4
        chance = 0.98 * (0.95 * held) + 0.02 / 5
        prior = 3.0 * np.log(sharpness / 2.5) ** 2 + 0.5 * np.log(doubt / 0.05) ** 2
        return 0.96 * np.log(chance).sum() - prior

    sharpness, doubt = belief_lib._SHARPNESS, belief_lib._DOUBT
    best = max(itertools.product((0, 1), sharpness, doubt), key=lambda model: worth(*model))
    found, refuted = belief_lib._likeliest(NEAR.fields, belief, nothing, np.arange(60), False)
    assert not refuted
    assert (NEAR.fields.index(found.field), found.sharpness, found.doubt) == best


@pytest.mark.parametrize("right", [True, False])
def test_answers_can_refute_the_model_that_explains_what_is_believed(right):
    """Nodes are where looks put them; each was compared with one that is there or anywhere."""
    rng = np.random.default_rng(0)
    geometry = Geometry(rng.normal(size=(300, 5)))
    place = geometry.communities
    openers = geometry.medoids[np.argsort(place[geometry.medoids])]
    columns, free = len(openers), rng.choice(np.setdiff1d(np.arange(300), openers), 100, False)
    nodes = np.append(openers, free)
    m, field = len(nodes), geometry.fields[0]
    field.move_to(nodes.tolist())
    share = np.full((m, columns + 1), 0.01 / columns)
    share[np.arange(m), place[nodes]] = 0.99
    other = place[free] if right else rng.integers(0, columns, 100)
    heard = Evidence(np.arange(columns, m), other, np.full(100, 0.9), np.full(100, 0.1))
    start = belief_lib.Model(field, belief_lib._SHARP, belief_lib._DOUBTED)
    first = np.arange(columns)
    belief = belief_lib.Belief(share, share[:, :-1], share, share, 0.05, first, start)

    def worth(sharpness, doubt):
        """Of the answers, each about its free node alone."""
        mean, variance = field.left_out(share[:, :-1]), field.left_out_variance()
        total = -3.0 * np.log(sharpness / 2.5) ** 2 - 0.5 * np.log(doubt / 0.05) ** 2
        for i in range(columns, m):
            looks = np.maximum(mean[i], 0.0).astype(np.float64) ** sharpness + 1e-9
            looks = (1.0 - doubt * variance[i]) * looks / looks.sum()
            looks = np.append(0.95 * (looks + doubt * variance[i] / columns), 0.05)
            at = share[other[i - columns]]
            said = 0.1 + 0.8 * at
            said[-1] = 0.1 + 0.8 * 0.2 * at[-1]
            total += np.log((0.98 * looks + 0.02 / (columns + 1)) @ (said / said.max()))
        return total

    def found(heard, hard=False):
        model, refuted = belief_lib._likeliest([field], belief, heard, np.arange(m), hard)
        return (model.sharpness, model.doubt), refuted

    own, refuted = found(heard.at(np.arange(0)))
    best = max(itertools.product(belief_lib._SHARPNESS, belief_lib._DOUBT), key=lambda x: worth(*x))
    assert not refuted
    assert bool(worth(*best) - worth(*own) > 8.0) is not right
    assert found(heard) == ((own, False) if right else (best, True))
    assert not found(heard, hard=True)[1]


def test_where_answers_refute_the_model_all_is_believed_anew(monkeypatch):
    start = belief_lib.Model(NEAR.fields[0], belief_lib._SHARP, belief_lib._DOUBTED)
    other, last = dataclasses.replace(start, doubt=0.6), dataclasses.replace(start, sharpness=1.0)
    found, used = [(other, True), (last, True)], []
    real = belief_lib._Growth.few

    def few(growth):
        belief = real(growth)
        used.append(belief.model)
        return belief

    monkeypatch.setattr(belief_lib, "_likeliest", lambda *_: found.pop(0))
    monkeypatch.setattr(belief_lib._Growth, "few", few)
    heard = Evidence(*np.zeros((2, 0), np.int64), *np.zeros((2, 0)))
    for field in NEAR.fields:
        field.move_to(NEAR.medoids.tolist())
    units = np.arange(len(NEAR.medoids))
    belief = belief_lib.believe(NEAR, heard, units, units, False)
    assert used == [start, other]
    assert belief.model == last


@pytest.mark.parametrize(
    ("worths", "opened"),
    [
        ([0.0, -31.0, -32.0, 5.0], 3),
        ([0.0, -31.0, -32.1, 5.0], None),
        ([0.0, 9.0, -23.1, 50.0], None),
    ],
    ids=["no worse than that", "too much worse", "worse than the best so far"],
)
def test_columns_are_opened_as_long_as_answers_may_become_likelier(worths, opened):
    nodes = np.append(NEAR.medoids, np.setdiff1d(np.arange(N), NEAR.medoids)[:6])
    for field in NEAR.fields:
        field.move_to(nodes.tolist())
    unit, start = np.arange(len(nodes)), len(NEAR.medoids)
    heard = Evidence(*np.zeros((2, 0), np.int64), *np.zeros((2, 0)))
    model = belief_lib.Model(NEAR.fields[0], 2.5, 0.05)
    growth = belief_lib._Growth(
        sweep=functools.partial(belief_lib._sweep, model, heard, unit),
        founding=lambda belief: unit[len(belief.first) : start + 3][:1],
        opening=lambda belief: unit[:0],
        worth=lambda belief: worths[len(belief.first) - start],
        unit=unit,
        first=unit[:start],
    )
    found = growth.many()
    assert (None if found is None else len(found.first) - start) == opened


def test_of_units_that_want_a_group_the_surest_strangers_open_one(monkeypatch):
    """An eighth and one more at a time, no two alike; but all that answers keep apart."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 8)) + 12.0 * np.eye(8)[np.arange(200) % 8]
    geometry = Geometry(z)
    nodes = np.arange(40)
    field = geometry.fields[0]
    field.move_to(nodes.tolist())
    share = np.zeros((40, 3))
    share[:, -1] = np.linspace(0.5, 0.9, 40)
    model = belief_lib.Model(field, 2.0, 0.1)
    belief = belief_lib.Belief(share, share, share, share, 0.1, np.array([0]), model)

    def strangers(founders, *told):
        first, second, if_alike = np.array(told).reshape(-1, 3).T
        heard = Evidence(first.astype(int), second.astype(int), if_alike, 1.0 - if_alike)
        return belief_lib._strangers(geometry, belief, heard, nodes, np.array(founders)).tolist()

    assert strangers(list(range(8))) == [7, 6]  # of different classes
    assert strangers(list(range(0, 40, 8))) == [32]  # of one class: one opens it for all
    assert strangers([3, 4]) == [4]
    assert len(strangers(list(range(40)))) == 6
    apart = [(0, 8, 0.1), (16, 0, 0.1), (8, 16, 0.1)]
    assert strangers([0, 8, 16], *apart) == [16]  # of few answers do not say so
    monkeypatch.setattr(belief_lib, "_FEW", 1)
    assert strangers([0, 8, 16], *apart) == [16, 8, 0]
    assert strangers([0, 8, 16], *apart[:2]) == [16, 0]  # 8 is kept apart from one of them
    assert strangers([0, 8], (0, 8, 0.2)) == [8]  # which is not sure enough
    assert strangers([0, 8], (0, 8, 0.9)) == [8]
    monkeypatch.setattr(belief_lib, "_STRANGE", -1.0)  # no two are unlike
    assert strangers(list(range(8)), (6, 7, 0.1)) == [7, 6]


def test_answers_are_added_up_however_many_fit_into_a_block(monkeypatch):
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 20, (2, 400))
    second = np.where(first == other, 20, other)
    heard, share = Evidence(first, second, *rng.random((2, 400))), rng.dirichlet(np.ones(6), 25)
    expected = np.zeros((25, 6))
    for i, j, alike, apart in zip(first, second, heard.if_alike, heard.if_apart, strict=True):
        for one, two in ((i, j), (j, i)):
            likelihood = apart + (alike - apart) * share[two]
            likelihood[-1] = apart + 0.2 * max(alike - apart, 0.0) * share[two, -1]
            expected[one] += np.log(likelihood)
    for numbers in (1, 6 * 3, 6 * 64, 1 << 15):  # fewer than a row has, too
        monkeypatch.setattr(belief_lib, "_BLOCK", numbers)
        np.testing.assert_allclose(belief_lib.messages(heard, share, 25), expected, atol=1e-9)


def test_what_is_said_again_of_a_pair_tells_no_more_of_a_sample_than_the_pair_being_so():
    """Of a partner that may be of either column, ten "no" say as much as one that is sure."""
    heard = Evidence(np.zeros(10, int), np.ones(10, int), np.full(10, 0.1), np.full(10, 0.9))
    share = np.array([[0.4, 0.4, 0.2], [0.7, 0.2, 0.1]])
    found = belief_lib.messages(heard.by_pair(), share, 2)
    np.testing.assert_allclose(found[0], np.log([0.3, 0.8, 1.0]), atol=1e-8)


def test_a_pair_is_judged_without_one_of_its_answers_by_all_others():
    """As `_alike_without` says of each of several about one pair, against Bayes' rule."""
    rng = np.random.default_rng(0)
    looks, speaker = np.log(rng.dirichlet(np.ones(4), 3)), rng.dirichlet(np.ones(4), 3)
    if_alike = np.array([0.9, 0.9, 0.2, 0.7])
    said = Evidence(np.array([0, 1, 0, 1]), np.array([1, 0, 1, 2]), if_alike, 1.0 - if_alike)
    logits = looks + belief_lib.messages(said.by_pair(), speaker, 3)
    model = belief_lib.Model(FAR.fields[0], 2.5, 0.1)
    belief = belief_lib.Belief(
        speaker, speaker[:, :-1], looks, logits, 0.1, np.zeros(0, np.int64), model
    )
    never = np.full((3, 3), -50.0)
    links = Links(np.zeros((3, 3)), never, never, np.arange(3))
    found = posterior_lib._alike_without(said, np.arange(3), belief, links)
    for k in range(4):
        rest = said.at(np.arange(4) != k)
        of = belief_lib.softmax(looks + belief_lib.messages(rest.by_pair(), speaker, 3))[:, :-1]
        assert found[k] == pytest.approx(of[said.first[k]] @ of[said.second[k]], abs=1e-9)


MANY = [truth([(i, (i + 4) % N), (i, (i + 1) % N)]) for i in range(0, 80)]


def some_of_each() -> list[Answer]:
    """All of the first 80 samples against their neighbours: a hundred samples, much of it twice."""
    return [answer for pair in MANY for answer in pair]


@pytest.mark.parametrize("trust", [HARD, SOFT, Trust(None)])
def test_of_too_many_samples_asked_about_some_speak_and_proof_holds_for_all(monkeypatch, trust):
    answers = some_of_each() + truth([(0, i) for i in range(60, 90)])
    monkeypatch.setattr(posterior_lib, "_MOST_ASKED", 16)
    asked = {i for answer in answers for pair in answer.judgements for i in pair[:2]}
    relations = Relations(N)
    relations.add(answers)
    posterior = infer(NEAR, relations, trust)
    spoken = [node for node in posterior.nodes.tolist() if node not in NEAR.medoids]
    assert len(asked) > 80
    assert 4 <= len(spoken) <= 16
    assert 0 in spoken  # the most often asked about
    assert np.isfinite(posterior.column).all()
    if trust.error_rate is None:
        assert posterior.error < 0.05  # what nobody hears makes no oracle look bad
    if trust is HARD:
        groups, told = partition(posterior), np.arange(84)  # each with others of its class
        np.testing.assert_array_equal(together(groups[told]), together(LABELS[told]))
        for members in (told[told % 4 == group] for group in range(4)):
            column = posterior.column[members]
            np.testing.assert_array_equal(column, column[:1].repeat(len(members), axis=0))


def test_who_speaks_changes_seldom_as_answers_come_in(monkeypatch):
    monkeypatch.setattr(posterior_lib, "_MOST_ASKED", 16)
    answers, changes, before = truth(some_pairs(200)), 0, []
    relations = Relations(N)
    for answer in answers:
        relations.add([answer])
        now = posterior_lib._asked(relations.judgements())
        assert len(now) == len(set(now)) <= 16
        changes += now[: len(before)] != before
        before = now
    assert changes <= 200 / (16 // 4)


def test_many_units_that_answers_keep_apart_open_their_columns_together(monkeypatch):
    y = np.arange(N) % 40  # more classes than communities: most must be opened by answers
    z = np.random.default_rng(0).normal(size=(N, 3)) + 3.0 * np.eye(3)[y % 3]
    geometry, few = Geometry(z), list(range(40))
    pairs = [(i, j) for i in few for j in few if i < j] + [(i % 40, i) for i in range(40, 60)]
    passes, real = [], belief_lib._strangers
    monkeypatch.setattr(belief_lib, "_strangers", lambda *a: passes.append(a) or real(*a))
    found = believe(*truth(pairs, y), geometry=geometry)
    np.testing.assert_array_equal(together(partition(found)[:60]), together(y[:60]))
    assert len(found.first) - len(geometry.medoids) > 32
    assert len(passes) < 4


def test_samples_that_do_not_speak_for_others_hear_what_is_said_of_them(monkeypatch, scanned):
    """With a tenth of the samples asked about as nodes; and by Bayes' rule written out."""
    labels, geometry, answers = scanned
    monkeypatch.setattr(posterior_lib, "_MOST_ASKED", 60)
    found = believe(*answers, trust=Trust(0.05), geometry=geometry)
    silent = np.setdiff1d(np.arange(600), found.nodes)
    assert len(silent) > 400
    assert accuracy(partition(found)[silent], labels[silent]) > 0.7

    share = np.random.default_rng(0).dirichlet(np.ones(4), 5)
    before = share.copy()
    said = Evidence(np.array([0, 3, 1, 2]), np.array([3, 1, 2, 0]),
                    np.array([0.9, 0.2, 0.7, 0.9]), np.array([0.1, 0.8, 0.4, 0.1]))  # fmt: skip
    belief_lib.hear(share, said, np.arange(5) >= 3)
    np.testing.assert_array_equal(np.delete(share, 3, axis=0), np.delete(before, 3, axis=0))
    prior = 0.98 * before + 0.02 / 4
    likelihood = (0.1 + 0.8 * prior[0]) * (0.8 - 0.6 * prior[1])
    likelihood[3] = (0.1 + 0.8 * 0.2 * prior[0, 3]) * 0.8
    np.testing.assert_allclose(share[3], prior[3] * likelihood / (prior[3] @ likelihood))


def test_a_known_label_that_speaks_for_no_other_is_certain_whatever_is_said_of_it(monkeypatch):
    monkeypatch.setattr(posterior_lib, "_MOST_KNOWN", 8)
    monkeypatch.setattr(posterior_lib, "_MOST_ASKED", 4)
    known = np.where(np.arange(N) < 40, LABELS, -1)
    silent = np.setdiff1d(np.arange(40), believe(known=known, trust=SOFT).nodes)[0]
    one, other = 40 + np.flatnonzero(LABELS[40:] != LABELS[silent])[:2]
    told = [say(one, i, NOT_ALIKE) for i in (other, 60, 61)] + [say(silent, one, ALIKE)]
    found = believe(*told, known=known, trust=SOFT)
    assert silent not in found.nodes
    assert one in found.nodes
    assert found.column[silent].max() == 1.0


def test_a_no_speaks_against_a_model_that_expected_a_yes():
    """On classes that overlap: how probable a "yes" was thought, and how often it came."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600)
    z = rng.normal(size=(600, 10)) + 1.2 * rng.normal(size=(10, 10))[labels]
    geometry, relations, oracle = Geometry(z), Relations(600), LabelOracle(labels)
    expected, came = [], []
    for step in range(160):
        known = strategies.Knowledge(geometry, relations)
        (question,) = strategies.most_informative(known, 1, rng)
        answers = oracle([question])
        if step >= 80:
            posterior = infer(geometry, relations, known.trust)
            x, y = posterior.cluster[[question.anchor, question.candidates[0]]]
            expected.append(x @ y)
            came.append(answers[0].relations[0] is ALIKE)
        relations.add(answers)
    assert abs(np.mean(expected) - np.mean(came)) < 0.08  # 0.12 when these were ignored


def asked(z, labels, answers: int, error_rate=0.0):
    """Mean probability of the partition after so many right answers."""
    sampler = Sampler(len(z), budget=answers, error_rate=error_rate)
    sampler.ask(LabelOracle(labels), z, answers)
    return float(sampler.partition(z).probability.mean())


TEN = np.random.default_rng(0).permutation(200) % 10  # a group is right about 12 % of them


@pytest.mark.parametrize(
    ("answers", "error_rate"), [(0, 0.0), (20, 0.0), (60, 0.0), (150, 0.0), (0, None), (20, None)]
)
def test_where_all_embeddings_are_equal_probabilities_are_low(answers, error_rate):
    """They were 0.6 to 0.9. What is asked about and said to be alike is known all the same."""
    assert asked(np.ones((200, 3)), TEN, answers, error_rate) < 0.12 + 0.15 + answers / 1000


@pytest.mark.parametrize("answers", [40, 60, 150])
def test_an_embedding_that_answers_refute_is_not_believed(answers):
    """Two points, each of ten classes: 0.63 and more before, at an accuracy of 0.13.

    In the mean: which of a hundred equal samples are asked about is up to the last digits.
    """
    z, rng = np.repeat([[0.0], [1.0]], 100, axis=0), np.random.default_rng(0)
    assert np.mean([asked(z, rng.permutation(TEN), answers) for _ in range(4)]) < 0.55


def test_an_embedding_that_answers_bear_out_is_believed_in_full():
    posterior = believe(*truth(some_pairs(60)))
    np.testing.assert_array_equal(posterior.holds, 1.0)
    fresh = believe()
    np.testing.assert_array_equal(fresh.holds, 1.0)


def test_what_is_known_or_proven_holds_whatever_the_embedding_is_worth():
    known = np.where(np.arange(40) < 4, np.arange(40) % 2, -1)
    pairs = [(0, j) for j in range(10, 30)]
    answers = truth(pairs, labels=np.arange(40) % 7)
    posterior = believe(*answers, geometry=Geometry(np.ones((40, 2))), known=known)
    assert (posterior.holds[:4] == 1.0).all()
    assert (posterior.holds[[14, 21, 28]] > 0.99).all()  # they were said to be alike
    assert posterior.holds[12] < posterior.holds[35] < 0.6  # nothing was said of the second
    assert posterior.holds[35] == posterior.holds[36]


def test_the_share_that_holds_is_the_largest_that_answers_leave_likely():
    share = posterior_lib._share_that_holds
    nothing = np.zeros(0)
    assert share(nothing, 0, True) == 1.0
    assert share(nothing, 0, False) == pytest.approx(0.01)
    assert share(nothing, 20, True) == 1.0
    assert share(nothing, 20, False) == pytest.approx(20 / 21, abs=0.01)
    failed = np.full(30, 1e-6)
    assert share(failed, 10, False) == pytest.approx(10 / 41, abs=0.01)
    assert 10 / 40 < share(failed, 10, True) < 10 / 40 + 0.12
    assert share(np.ones(50), 0, True) == 1.0  # "not sure" says nothing
