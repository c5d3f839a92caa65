"""How good are a partition and an embedding? True labels are read here and nowhere in training.

Labels are integers of any value; -1 means "not known", and such rows are left out everywhere.
Every function is deterministic: the same arrays give the same number.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

# Similarities that knn_accuracy holds at a time, whatever n is.
_TILE = 2**23
# Softmax temperature of the votes: Wu et al. 2018, "Unsupervised feature learning via
# non-parametric instance discrimination", section 3.4; also the value of DINO.
_VOTE_TEMPERATURE = 0.07
_FOLDS = 5

# (h [n, H], labels [n] in 0 .. C-1, test_h [m, H]) -> predicted labels [m]
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def partition_scores(groups: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well groups agree with classes, whatever the numbers of the groups are.

    Args:
        groups: [n] integer group of each sample.
        labels: [n] integer class of each sample.

    Returns:
        partition_accuracy: share of samples in the right group under the best one-to-one matching
            of groups to classes (Hungarian algorithm); all samples of a group that is left over
            count as wrong. In (0, 1].
        ari: Rand index adjusted for chance (Hubert & Arabie 1985); 0 for a random partition, 1 for
            the right one, negative for worse than random.
        nmi: mutual information over the mean of the two entropies, in [0, 1]; 1 where both are
            one single group.

    Raises:
        ValueError: shapes differ, or no label is known.

    Memory: one integer for each pair of a group and a class.
    """
    groups, labels = np.asarray(groups), np.asarray(labels)
    if groups.shape != labels.shape or groups.ndim != 1:
        raise ValueError(f"groups {groups.shape} and labels {labels.shape} must both be [n]")
    known = labels >= 0
    _, g = np.unique(groups[known], return_inverse=True)
    _, y = _classes(labels[known])
    table = np.zeros((g.max() + 1, y.max() + 1), np.int64)
    np.add.at(table, (g, y), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {
        "partition_accuracy": float(table[rows, columns].sum() / len(y)),
        "ari": float(adjusted_rand_score(y, g)),
        "nmi": float(normalized_mutual_info_score(y, g)),
    }


def knn_accuracy(
    h: np.ndarray,
    labels: np.ndarray,
    test_h: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    *,
    k: int = 10,
) -> float:
    """Share of samples whose class wins the vote of their k nearest neighbours by cosine.

    A neighbour at cosine c votes with weight exp(c / 0.07) (Wu et al. 2018). Neighbours exactly as
    near as the k-th all vote, so the order of the rows does not matter; between classes of equal
    weight the smaller label wins. A row of zeros has cosine 0 to every row. Where there are fewer
    than k neighbours, all vote.

    Args:
        h: [n, H] representations that vote, float.
        labels: [n] their classes.
        test_h: [m, H] representations to be classified; None classifies each row of `h` by the
            others (leave one out).
        test_labels: [m] their classes, given with `test_h`.
        k: neighbours, at least 1.

    Raises:
        ValueError: k is below 1, or no label is known in one of the two sets.

    Memory: `h` once more, and less than 100 MiB; time: n m H.
    """
    if k < 1:
        raise ValueError(f"{k=} neighbours cannot vote; take 1 or more")
    h, labels = _known(h, labels)
    classes, y = _classes(labels)
    if test_h is not None and test_labels is not None:
        leave_one_out = False
        queries, expected = _tests(test_h, test_labels)
    else:
        leave_one_out = True
        queries, expected = h, labels
        if len(y) < 2:
            raise ValueError("one sample alone has no neighbour; give a test set or more samples")
    k = min(k, len(y))
    bank, queries = unit_rows(h), unit_rows(queries)

    right, step = 0, max(1, _TILE // len(bank))
    for start in range(0, len(queries), step):
        cosine = queries[start : start + step] @ bank.T
        here = np.arange(len(cosine))
        if leave_one_out:
            cosine[here, start + here] = -np.inf  # a vote of weight 0
        nearest = np.partition(cosine, len(y) - k, axis=1)[:, len(y) - k]
        row, neighbour = np.nonzero(cosine >= nearest[:, None])
        weight = np.exp((cosine[row, neighbour] - 1.0) / _VOTE_TEMPERATURE)
        votes = np.zeros((len(cosine), len(classes)))
        np.add.at(votes, (row, y[neighbour]), weight)
        right += np.sum(classes[votes.argmax(axis=1)] == expected[start : start + step])
    return float(right / len(queries))


def ridge_probe(
    h: np.ndarray,
    labels: np.ndarray,
    test_h: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
) -> float:
    """Accuracy of least squares onto one-hot classes, in closed form.

    Features are standardised by mean and standard deviation of the training rows; with X [n, H]
    those and Y [n, C] the centred one-hot classes, W = (X^T X / n + 1e-3 I)^-1 X^T Y / n, and a row
    gets the class of the largest score. Without a test set: see `logistic_probe`.

    Args, Raises: as `logistic_probe`.
    """
    return _probe(_ridge, h, labels, test_h, test_labels)


def logistic_probe(
    h: np.ndarray,
    labels: np.ndarray,
    test_h: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
) -> float:
    """Accuracy of multinomial logistic regression on standardised features.

    Minimises sum of cross-entropies + |W|^2 / 2 (scikit-learn's L-BFGS, C = 1). Trained on
    (`h`, `labels`) and tested on the test set; without one, every row is classified by a probe that
    was trained on the four fifths of the rows that it does not belong to. Rows are dealt to the
    fifths by a permutation that is the same in every run.

    Args:
        h: [n, H] representations, float.
        labels: [n] classes.
        test_h, test_labels: [m, H], [m], both or none.

    Raises:
        ValueError: no label is known, or fewer than 2 samples and no test set.
    """
    return _probe(_logistic, h, labels, test_h, test_labels)


def effective_rank(h: np.ndarray) -> float:
    """exp of the entropy of the singular values of h [n, H], normalised to sum 1.

    Between 1 (collapsed) and min(n, H) (all directions alike); 0 for a matrix of zeros. The matrix
    is taken as it is, not centred. Source: Roy & Vetterli 2007, "The effective rank".
    """
    s = np.linalg.svd(np.asarray(h, np.float64), compute_uv=False)
    if not s.any():
        return 0.0
    p = s / s.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def unit_rows(h: np.ndarray) -> np.ndarray:
    """The rows of h [n, H] scaled to length 1, in float32; rows of zeros stay zeros."""
    h = np.asarray(h, np.float32)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    return h / np.where(length > 0, length, 1.0)


def _probe(
    predict: Classifier,
    h: np.ndarray,
    labels: np.ndarray,
    test_h: np.ndarray | None,
    test_labels: np.ndarray | None,
) -> float:
    h, labels = _known(h, labels)
    classes, y = _classes(labels)
    if test_h is not None and test_labels is not None:
        test_h, expected = _tests(test_h, test_labels)
        return float(np.mean(classes[predict(h, y, test_h)] == expected))
    if len(y) < 2:
        raise ValueError("one sample alone cannot train and test a probe; give a test set")
    fold = np.random.default_rng(0).permutation(len(y)) % _FOLDS
    right = 0
    for test in (fold == f for f in range(min(_FOLDS, len(y)))):
        right += np.sum(predict(h[~test], y[~test], h[test]) == y[test])
    return float(right / len(y))


def _ridge(h: np.ndarray, y: np.ndarray, test_h: np.ndarray) -> np.ndarray:
    x, test_x = _standardised(h, test_h)
    one_hot = np.eye(y.max() + 1)[y]
    mean = one_hot.mean(axis=0)
    gram = x.T @ x / len(x) + 1e-3 * np.eye(x.shape[1])
    weights = scipy.linalg.solve(gram, x.T @ (one_hot - mean) / len(x), assume_a="pos")
    return (test_x @ weights + mean).argmax(axis=1)


def _logistic(h: np.ndarray, y: np.ndarray, test_h: np.ndarray) -> np.ndarray:
    if (y == y[0]).all():  # scikit-learn wants two classes
        return np.full(len(test_h), y[0])
    x, test_x = _standardised(h, test_h)
    return LogisticRegression(max_iter=1000).fit(x, y).predict(test_x)


def _standardised(h: np.ndarray, test_h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, shifted and scaled by `h`; constant features become 0 in `h`."""
    h, test_h = np.asarray(h, np.float64), np.asarray(test_h, np.float64)
    mean, std = h.mean(axis=0), h.std(axis=0)
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # the mean of a constant rounds
    return (h - mean) / std, (test_h - mean) / std


def _known(h: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, labels = np.asarray(h), np.asarray(labels)
    if h.ndim != 2 or labels.shape != h.shape[:1]:
        raise ValueError(f"h {h.shape} and labels {labels.shape} must be [n, H] and [n]")
    known = labels >= 0
    return h[known], labels[known]


def _tests(h: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, labels = _known(h, labels)
    if not len(labels):
        raise ValueError("no label of the test set is known, so there is nothing to compare with")
    return h, labels


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(classes [C] ascending, labels as positions in it [n])."""
    if not len(labels):
        raise ValueError("no label is known (all are -1), so there is nothing to compare with")
    return np.unique(labels, return_inverse=True)
