"""Public ways to group a data set by yes/no answers: a function each, with the same arguments.

A method asks `judge(i, j)` and shows it a partition whenever it has a new one. It is not told the
number of classes, but for `spectral`, which asks nothing.
"""

import importlib.util
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC

from benchmarks.judge import Judge, majority

NEIGHBOURS = 10
REFIT = 50  # a model is fitted again when one fiftieth more labels are known
EIGENVECTORS = 50  # of the graph Laplacian, for the variance that MCVOpt looks at


class Setting(NamedTuple):
    """seed: of all random choices. votes: questions about a pair, of which most decide.
    classes: the true number, for who has to be given it."""

    seed: int
    votes: int
    classes: int


Method = Callable[[np.ndarray, Judge, Setting], None]  # x [n, d], who answers, the rest


class Labels:
    """Class labels bought by pair questions.

    A sample is asked against one sample of each known class, its nearest, until a yes; when all
    say no, it opens a new class.
    """

    def __init__(self, x: np.ndarray, judge: Judge, votes: int):
        self.x = x
        self.judge = judge
        self.votes = votes
        self.samples: list[int] = []
        self.classes: list[int] = []
        self.known = 0  # classes

    def buy(self, sample: int, order: Sequence[int] | None = None) -> None:
        """`order`: the known classes, likeliest first; None: those of the nearest samples first."""
        nearest = np.square(self.x[self.samples] - self.x[sample]).sum(axis=1)
        by_distance = np.argsort(nearest, kind="stable")
        representative: dict[int, int] = {}
        for position in by_distance.tolist():
            representative.setdefault(self.classes[position], self.samples[position])
        for candidate in representative if order is None else order:
            if majority(self.judge, sample, representative[candidate], self.votes):
                break
        else:
            candidate = self.known
            self.known += 1
        self.samples.append(sample)
        self.classes.append(candidate)

    def unknown(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.x)), self.samples)

    def overwrite(self, predicted: np.ndarray) -> np.ndarray:
        predicted[self.samples] = self.classes
        return predicted


def neighbours(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and distances, both [n, k + 1], of each sample itself and its nearest others."""
    k = min(NEIGHBOURS + 1, len(x))
    distance, index = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(x)
    return index, distance


def knn_graph(x: np.ndarray) -> sparse.csr_array:
    """[n, n] symmetric, weights exp(-d_ij^2 / (s_i s_j)), s the distance of the last neighbour."""
    index, distance = neighbours(x)
    scale = np.maximum(distance[:, -1], 1e-12)
    weight = np.exp(-(distance**2) / (scale[:, None] * scale[index]))
    rows = np.repeat(np.arange(len(x)), index.shape[1])
    graph = sparse.csr_array((weight.ravel(), (rows, index.ravel())), shape=(len(x), len(x)))
    graph.setdiag(0)
    return graph.maximum(graph.T).tocsr()


def scan(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """Sample after sample against the class of its nearest known sample, then the next nearest.

    Labels spread over a nearest-neighbour graph to the samples that were not reached
    (scikit-learn's LabelSpreading; Zhou et al., NeurIPS 2003).
    """
    graph = sparse.csr_matrix(knn_graph(x))
    labels = Labels(x, judge, setting.votes)

    def partition() -> np.ndarray:
        target = labels.overwrite(np.full(len(x), -1))
        if len(labels.samples) == len(x) or labels.known < 2:
            return np.maximum(target, 0)
        kernel: Any = lambda *_: graph.copy()  # noqa: E731
        # The tolerance is on the sum over all samples and classes.
        model = LabelSpreading(kernel=kernel, alpha=0.9, max_iter=1000, tol=1e-4 * len(x))
        return labels.overwrite(model.fit(x, target).transduction_)

    judge.show(partition)
    for sample in np.random.default_rng(setting.seed).permutation(len(x)).tolist():
        labels.buy(sample)


def random_pairs(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """Random pairs whose relation does not follow from the answers; groups are what yes joins."""
    rng = np.random.default_rng(setting.seed)
    group = np.arange(len(x))
    apart: set[tuple[int, int]] = set()  # groups, in both directions
    judge.show(group.copy)
    while True:
        unsettled = len(np.unique(group)) * (len(np.unique(group)) - 1) - len(apart)
        if not unsettled:
            return
        i, j = rng.choice(len(x), 2, replace=False).tolist()
        a, b = int(group[i]), int(group[j])
        if a == b or (a, b) in apart:
            continue
        if majority(judge, i, j, setting.votes):
            group[group == b] = a
            apart = {(a if p == b else p, a if q == b else q) for p, q in apart}
        else:
            apart |= {(a, b), (b, a)}


def spectral(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """Spectral clustering with the true number of classes (Ng, Jordan, Weiss, NeurIPS 2001).

    k-means of the rows, at length 1, of that many eigenvectors of the nearest-neighbour graph. On
    digits it is ahead of scikit-learn's SpectralClustering, which does not bring rows to length 1.
    """
    graph = knn_graph(x)
    scale = sparse.diags_array(1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel()))
    start = np.random.default_rng(setting.seed).normal(size=len(x))
    _, vectors = eigsh(scale @ graph @ scale, k=setting.classes, which="LA", v0=start)
    restarts: Any = 10  # scikit-learn's types say it is a string
    model = KMeans(setting.classes, n_init=restarts, random_state=setting.seed)
    groups = model.fit_predict(normalize(vectors))
    judge.show(lambda: groups)


def margin_svm(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """Labels for the samples between the two likeliest classes of an RBF support-vector machine."""
    rng = np.random.default_rng(setting.seed)
    labels = Labels(x, judge, setting.votes)
    judge.show(lambda: labels.overwrite(np.zeros(len(x), np.int64)))
    while len(labels.samples) < len(x) and labels.known < 2:
        labels.buy(int(rng.choice(labels.unknown())))
    while len(labels.samples) < len(x):
        model = SVC(C=10.0, decision_function_shape="ovr")
        score = model.fit(x[labels.samples], labels.classes).decision_function(x)
        if score.ndim == 1:
            score = np.stack([-score, score], axis=1)
        best = score.argmax(axis=1)
        judge.show(lambda best=best: labels.overwrite(best))
        unknown = labels.unknown()
        second, first = np.sort(score[unknown], axis=1)[:, -2:].T
        for sample in unknown[np.argsort(first - second, kind="stable")][: _batch(labels)].tolist():
            labels.buy(sample, _order(score[sample], labels.known))


def mcvopt(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """Labels for the samples that change a graph Laplacian model most, by variance and margin.

    The package graphlearning: its Gaussian kNN graph, Laplace learning and model_change_var_opt
    (Miller and Bertozzi, arXiv 2110.07739) as in its own example. The first sample is random;
    until two classes are known, all margins count as equal.
    """
    import graphlearning as gl  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(setting.seed)
    index, distance = neighbours(x)
    graph = gl.graph(gl.weightmatrix.knn(x, NEIGHBOURS, knn_data=(index, distance)))
    width = min(EIGENVECTORS, len(x) // 2)
    values, vectors = graph.eigen_decomp(normalization="normalized", k=width)
    gain = gl.active_learning.model_change_var_opt(C=np.diag(1 / (values + 1e-11)), V=vectors)
    model = gl.ssl.laplace(graph)
    labels = Labels(x, judge, setting.votes)
    score = np.zeros((len(x), 2))
    judge.show(lambda: labels.overwrite(np.zeros(len(x), np.int64)))
    while len(labels.samples) < len(x):
        for _ in range(_batch(labels)):
            unknown = labels.unknown()
            if not len(unknown):
                return
            sample = int(
                unknown[gain.compute(score, unknown).argmax()]
                if labels.samples
                else rng.choice(unknown)
            )
            labels.buy(sample, _order(score[sample], labels.known))
            gain.update(np.array([sample]), None)
        if labels.known > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                fitted = model.fit(np.array(labels.samples), np.array(labels.classes))
            if not np.isfinite(fitted).all():
                continue  # its solver divides by 0 when no class touches an unlabelled sample
            score, best = fitted, fitted.argmax(axis=1)
            judge.show(lambda best=best: labels.overwrite(best))


class _Pairs(list[tuple[int, int]]):
    """A list that knows at once what is in it: COBRAS looks millions of times."""

    def __init__(self):
        super().__init__()
        self._set: set[tuple[int, int]] = set()

    def append(self, pair: tuple[int, int], /) -> None:
        super().append(pair)
        self._set.add(pair)

    def __contains__(self, pair: object, /) -> bool:
        return pair in self._set


class _Querier:
    """What COBRAS asks and tells."""

    def __init__(self, judge: Judge):
        self.query_points = judge
        self.judge = judge

    def update_clustering(self, clustering: Any) -> None:
        groups = np.array(clustering.construct_cluster_labeling())
        self.judge.show(lambda: groups)

    def continue_cluster_process(self) -> bool:
        return True


def cobras(x: np.ndarray, judge: Judge, setting: Setting) -> None:
    """COBRAS with k-means super-instances (Van Craenendonck et al., 2018), package cobras_ts."""
    from cobras_ts import cobras as module  # pyright: ignore[reportMissingImports]
    from cobras_ts.cobras_kmeans import COBRAS_kmeans  # pyright: ignore[reportMissingImports]

    class Quick(COBRAS_kmeans):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, _Pairs() if name in ("ml", "cl") else value)

    np.random.seed(setting.seed)  # its k-means draws from the global generator
    with (
        mock.patch.object(np, "int", int, create=True),  # gone since NumPy 1.24; it needs it
        # It copies its clusters for who looks at the end; we look as it goes.
        mock.patch.object(module, "copy", types.SimpleNamespace(deepcopy=lambda same: same)),
    ):
        Quick(x, _Querier(judge), 10**9, store_intermediate_results=False).cluster()


def _batch(labels: Labels) -> int:
    return max(1, len(labels.samples) // REFIT)


def _order(score: np.ndarray, known: int) -> list[int]:
    """Known classes, likeliest first; those opened since the model was fitted come last."""
    fitted = min(known, len(score))
    return [*np.argsort(-score[:fitted], kind="stable").tolist(), *range(fitted, known)]


RIVALS: dict[str, Method] = {
    "scan": scan,
    "random_pairs": random_pairs,
    "spectral": spectral,
    "margin_svm": margin_svm,
    "mcvopt": mcvopt,
    "cobras": cobras,
}
NEEDS = {"mcvopt": "graphlearning", "cobras": "cobras_ts"}  # the others need nothing more


def missing(method: str) -> str | None:
    """The package that a method needs and that is not here."""
    package = NEEDS.get(method)
    return package if package and not importlib.util.find_spec(package) else None
