"""Scores against slow float64 definitions, and what must not change them."""

import itertools
import math

import numpy as np
import pytest

from pal_jax import evaluate


def best_matching(groups, labels):
    """Accuracy under the best injection of groups into classes, by trying them all."""
    g, y = sorted(set(groups)), sorted(set(labels))
    wide = max(len(g), len(y))
    best = 0
    for chosen in itertools.permutations(range(wide), len(g)):
        right = sum(
            chosen[g.index(a)] < len(y) and y[chosen[g.index(a)]] == b
            for a, b in zip(groups, labels, strict=True)
        )
        best = max(best, right)
    return best / len(labels)


def pair_counting_ari(groups, labels):
    """Hubert & Arabie 1985 from the four counts of pairs."""
    both = either_g = either_y = 0
    pairs = list(itertools.combinations(range(len(labels)), 2))
    for i, j in pairs:
        same_g, same_y = groups[i] == groups[j], labels[i] == labels[j]
        both += same_g and same_y
        either_g += same_g
        either_y += same_y
    expected = either_g * either_y / len(pairs)
    return (both - expected) / ((either_g + either_y) / 2 - expected)


def mutual_information(groups, labels):
    """I(g; y) over the mean of the entropies, from the definition."""

    def entropy(values):
        share = [list(values).count(v) / len(values) for v in set(values)]
        return -sum(p * math.log(p) for p in share)

    joint = entropy(list(zip(groups, labels, strict=True)))
    h_g, h_y = entropy(list(groups)), entropy(list(labels))
    return (h_g + h_y - joint) / ((h_g + h_y) / 2)


def knn_by_sorting(h, labels, test_h, test_labels, k):
    """Wu et al. 2018, one query after the other; test_h None leaves one out."""
    h = np.asarray(h, np.float64)
    bank = h / np.linalg.norm(h, axis=1, keepdims=True)
    right = 0
    queries = bank if test_h is None else test_h / np.linalg.norm(test_h, axis=1, keepdims=True)
    for row, query in enumerate(queries):
        others = [i for i in range(len(bank)) if test_h is not None or i != row]
        others.sort(key=lambda i: -(bank[i] @ query))
        votes = {}
        for i in others[:k]:
            votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(bank[i] @ query / 0.07)
        winner = max(sorted(votes), key=lambda c: votes[c])
        right += winner == (labels if test_h is None else test_labels)[row]
    return right / len(queries)


def clouds(rng, n=90, width=6, classes=4, spread=1.0):
    """Overlapping Gaussian clouds: no score of them is 0 or 1."""
    labels = rng.integers(0, classes, n)
    return spread * rng.normal(size=(n, width)) + rng.normal(size=(classes, width))[labels], labels


@pytest.mark.parametrize("count", [2, 3, 5], ids=["fewer groups", "as many", "more groups"])
def test_partition_scores_are_their_definitions(rng, count):
    labels = rng.integers(0, 3, 40)
    groups = np.where(rng.random(40) < 0.5, labels % count, rng.integers(0, count, 40))
    scores = evaluate.partition_scores(groups, labels)
    assert scores["partition_accuracy"] == pytest.approx(best_matching(groups, labels))
    assert scores["ari"] == pytest.approx(pair_counting_ari(groups, labels))
    assert scores["nmi"] == pytest.approx(mutual_information(groups, labels))


def test_numbers_of_groups_and_rows_without_label_do_not_matter(rng):
    labels = rng.integers(0, 3, 50)
    groups = rng.integers(0, 4, 50)
    expected = evaluate.partition_scores(groups, labels)
    renamed = np.array([7, 1_000_000_007, 0, 3])[groups]
    with_unknown = evaluate.partition_scores(
        np.concatenate([renamed, [5, 6, 7]]), np.concatenate([labels * 10, [-1, -1, -1]])
    )
    assert with_unknown == pytest.approx(expected)


def test_surplus_groups_are_errors():
    labels = np.array([0, 0, 0, 0, 1, 1])
    scores = evaluate.partition_scores(np.arange(6), labels)  # all on their own
    assert scores["partition_accuracy"] == pytest.approx(2 / 6)
    one = evaluate.partition_scores(np.zeros(6, int), labels)  # all in one
    assert one["partition_accuracy"] == pytest.approx(4 / 6)
    assert one["ari"] == one["nmi"] == 0.0


def test_one_group_of_one_class_is_right():
    scores = evaluate.partition_scores(np.zeros(3, int), np.ones(3, int))
    assert scores == {"partition_accuracy": 1.0, "ari": 1.0, "nmi": 1.0}


@pytest.mark.parametrize("k", [1, 5, 1000])
@pytest.mark.parametrize("held_out", [False, True])
def test_knn_is_its_definition_whatever_the_tile(rng, monkeypatch, k, held_out):
    h, labels = clouds(rng, n=120)
    h += 20.0  # cosines are all alike, so that every vote counts and one too many shows
    test = (h[90:], labels[90:]) if held_out else (None, None)
    h, labels = h[:90], labels[:90]
    monkeypatch.setattr(evaluate, "_TILE", 7 * len(h))  # seven queries at a time
    actual = evaluate.knn_accuracy(h, labels, *test, k=k)
    assert actual == pytest.approx(knn_by_sorting(h, labels, *test, k))
    assert 0.1 < actual < 0.99


def test_knn_never_lets_a_row_vote_for_itself():
    h = np.eye(4) + 1.0
    assert evaluate.knn_accuracy(h, np.arange(4), k=3) == 0.0


def test_knn_lets_all_that_are_equally_near_vote():
    # Three neighbours at the same cosine and k = 1: the two of class 0 outvote the one of class 1.
    h = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 1])
    for order in itertools.permutations(range(1, 4)):
        rows = [0, *order]
        query, votes = h[:1], (h[rows][1:], labels[rows][1:])
        assert evaluate.knn_accuracy(*votes, query, labels[:1], k=1) == 1.0


def test_near_neighbours_outvote_farther_ones_by_the_published_temperature():
    """exp(c / 0.07): one at cosine 1 weighs as much as two at 1 - 0.07 log 2, or 0.9515."""
    h, labels = np.array([[1.0, 0.0]] * 3), np.array([1, 0, 0])
    for cosine, wins in ((0.95, 1), (0.953, 0)):
        h[1:] = cosine, np.sqrt(1 - cosine**2)
        query = np.array([[1.0, 0.0]])
        assert evaluate.knn_accuracy(h, labels, query, np.array([wins]), k=3) == 1.0


def test_knn_of_a_collapsed_embedding_is_the_largest_class():
    labels = np.array([0] * 6 + [1] * 3)
    for h in (np.zeros((9, 4)), np.ones((9, 4))):
        assert evaluate.knn_accuracy(h, labels, k=3) == pytest.approx(6 / 9)


PROBES = [evaluate.ridge_probe, evaluate.logistic_probe]


def test_ridge_is_least_squares_with_a_penalty(rng):
    h, labels = clouds(rng, n=250, spread=2.0)
    skewed = np.arange(250) >= 90 + 60 * labels  # other shares of the classes than in training
    test_h, test_labels, h, labels = h[skewed], labels[skewed], h[:90], labels[:90]
    x = (h - h.mean(0)) / h.std(0)
    # sqrt(1e-3 n) I below the features, 0 below the targets: the penalty as more rows.
    rows = np.vstack([x, math.sqrt(1e-3 * len(x)) * np.eye(6)])
    target = np.eye(4)[labels] - np.eye(4)[labels].mean(0)
    weights = np.linalg.lstsq(rows, np.vstack([target, np.zeros((6, 4))]), rcond=None)[0]
    scores = (test_h - h.mean(0)) / h.std(0) @ weights + np.eye(4)[labels].mean(0)
    expected = np.mean(scores.argmax(1) == test_labels)
    assert evaluate.ridge_probe(h, labels, test_h, test_labels) == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def test_logistic_is_at_the_optimum_of_its_objective(rng):
    h, labels = clouds(rng, n=60, spread=2.0)
    x = (h - h.mean(0)) / h.std(0)
    weights, bias = np.zeros((6, 4)), np.zeros(4)
    for _ in range(4000):  # plain gradient descent on the mean of the objective
        score = x @ weights + bias
        p = np.exp(score - score.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - np.eye(4)[labels]) / len(x)
        weights -= 0.5 * (x.T @ error + weights / len(x))
        bias -= 0.5 * error.sum(0)
    expected = np.mean((x @ weights + bias).argmax(1) == labels)
    assert evaluate.logistic_probe(h, labels, h, labels) == pytest.approx(expected)


@pytest.mark.parametrize("probe", PROBES)
def test_probes_do_not_see_what_they_are_tested_on(rng, probe):
    # Labels are noise: a probe that trains on its own test rows would fit 40 rows in 60 dimensions.
    h, labels = rng.normal(size=(40, 60)), rng.integers(0, 2, 40)
    assert probe(h, labels) < 0.8
    assert probe(h, labels, h, labels) == 1.0


@pytest.mark.parametrize("probe", [*PROBES, evaluate.knn_accuracy])
def test_classifier_contract(rng, probe):
    h, labels = clouds(rng, n=60, spread=0.05)
    assert probe(h, labels) > 0.9
    assert probe(h, labels) == probe(h, labels)
    assert probe(1000 * h, 5 * labels) == probe(h, labels)
    unknown = np.vstack([h, np.full((3, 6), 9.0)]), np.append(labels, [-1, -1, -1])
    assert probe(*unknown) == probe(h, labels)
    assert probe(h, labels, *unknown) == probe(h, labels, h, labels)
    assert probe(np.zeros((9, 3)), np.zeros(9, int)) == 1.0  # one class, collapsed
    assert probe(h[:1], labels[:1], h[1:], labels[1:]) <= 1.0  # one training row
    assert probe(h, labels, h[:2], np.array([8, 8])) == 0.0  # a class that was never seen


@pytest.mark.parametrize("probe", [*PROBES, evaluate.knn_accuracy])
@pytest.mark.parametrize(
    ("h", "labels"),
    [
        (np.zeros((3, 2)), np.full(3, -1)),
        (np.zeros((1, 2)), np.zeros(1, int)),
        (np.zeros((3, 2)), np.zeros(4, int)),
    ],
    ids=["no label", "one sample", "other lengths"],
)
def test_what_cannot_be_measured_says_so(probe, h, labels):
    with pytest.raises(ValueError, match=r"label is known|one sample alone|must be"):
        probe(h, labels)


@pytest.mark.parametrize("labels", [np.full(3, -1), np.zeros(4, int)], ids=["unknown", "longer"])
def test_partition_scores_refuse_what_they_cannot_score(labels):
    with pytest.raises(ValueError, match=r"label is known|must both be"):
        evaluate.partition_scores(np.zeros(3, int), labels)


@pytest.mark.parametrize(
    "measure", [evaluate.knn_accuracy, evaluate.ridge_probe, evaluate.logistic_probe]
)
def test_a_test_set_without_labels_says_so(measure):
    with pytest.raises(ValueError, match="test set"):
        measure(np.eye(3), np.arange(3), np.eye(3), np.full(3, -1))


def test_knn_needs_a_neighbour():
    with pytest.raises(ValueError, match="k=0"):
        evaluate.knn_accuracy(np.eye(3), np.arange(3), k=0)


def test_effective_rank_of_known_spectra(rng):
    left, _ = np.linalg.qr(rng.normal(size=(30, 5)))
    right, _ = np.linalg.qr(rng.normal(size=(8, 5)))
    for spectrum in ([1, 1, 1, 1, 1], [9, 3, 1, 0.5, 0.1], [1, 1, 0, 0, 0]):
        p = np.array(spectrum) / sum(spectrum)
        expected = math.exp(-sum(q * math.log(q) for q in p if q))
        h = left @ np.diag(spectrum) @ right.T
        assert evaluate.effective_rank(h) == pytest.approx(expected, rel=1e-6)
        assert evaluate.effective_rank(1e-3 * h.T) == pytest.approx(expected, rel=1e-6)
    assert evaluate.effective_rank(np.ones((30, 8))) == pytest.approx(1.0)
    assert evaluate.effective_rank(np.zeros((30, 8))) == 0.0
