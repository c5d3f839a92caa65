"""Where the squared losses end: optima from eigenpairs, for free, linear and kernel embeddings.

No gradient descent, float64 NumPy and SciPy on the host. Graphs are used through sparse products;
group ids and edges never become N x N. Every optimum is up to a rotation of its K columns; here
they come in order of falling eigenvalue. All is the plug-in problem of the rows that are given.

    >>> from pal_jax import closed_form, graph
    >>> z = closed_form.spectral_embedding(graph.from_groups([5, 9, 5, 5]), 2)
    >>> np.round(np.abs(z), 6).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    >>> features = np.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    >>> g = graph.normalize(graph.from_labels([0, 1, 0, 1]))
    >>> closed_form.fit_linear(features, g, 1).shape
    (2, 1)
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg

from pal_jax import graph as graph_lib
from pal_jax.errors import pick

# Connected parts of a graph up to this size are solved as dense matrices, larger ones by Lanczos.
_DENSE_PART = 512
# An eigenvalue this small beside the largest one is 0.
_ZERO = 1e-10

Pair = tuple[float, np.ndarray, np.ndarray]  # value, rows where the vector is not 0, entries there


def spectral_embedding(
    graph: graph_lib.GraphLike,
    k: int,
    loss: str | Callable[..., jax.Array] = "spectral_contrastive",
    *,
    invariance: float = 1.0,
) -> np.ndarray:
    """The [N, K] rows that minimise a squared loss, when every row is free.

      spectral_contrastive   P (Lam)_+^(1/2)                          (Lam, P) eigenpairs of G
      vicreg_squared         sqrt(N) U (1 - invariance l)_+^(1/2)     (l, U) eigenpairs of D - G
      barlow_twins_squared   sqrt(N) P Lam^(-1/2)                     over the positive Lam

    The K largest Lam or smallest l. Where fewer than K of them are positive the other columns are
    0: the loss does not want more dimensions.

    Args:
        graph: symmetric [N, N] array, or Groups or Edges, which stay sparse: groups are solved on
            paper, edges part by part (connected components).
        k: K, the width; more than N only adds columns of 0.
        loss: name of a squared loss, or the function itself.
        invariance: lambda of vicreg_squared; the others do not read it.

    Raises:
        ValueError: an unknown loss; k below 1; an asymmetric graph; for vicreg_squared, Groups
            whose scale differs within a group.

    Source: Balestriero, LeCun, NeurIPS 2022 (arXiv 2205.11508); HaoChen et al., NeurIPS 2021.
    """
    name = loss if isinstance(loss, str) else loss.__name__
    solve = pick(_OPTIMA, name, "squared loss")
    if k < 1:
        raise ValueError(f"an embedding needs a width of 1 or more; got {k=}")
    g = _plain(graph)
    columns = solve(g, min(k, g.rows), invariance)
    return np.pad(columns, [(0, 0), (0, k - columns.shape[1])])


def fit_linear(
    features: np.ndarray | jax.Array,
    graph: graph_lib.GraphLike,
    k: int,
    *,
    invariance: float = 1.0,
    ridge: float = 1e-6,
) -> np.ndarray:
    """Weights W [M, K] for which features @ W minimises VICReg^2.

    W = S^(-1/2) V (s)_+^(1/2), with (s, V) the K largest eigenpairs of
    S^(-1/2) (Phi^T (I - invariance L) Phi / N) S^(-1/2) and S = Phi^T Phi / N + ridge I.

    Args:
        features: Phi, [N, M]; add a column of ones for an offset.
        graph: symmetric, of N rows. Normalise it (graph.normalize) unless its degrees are at most
            1 / invariance: directions that vary more than that along edges are given up.
        k: K, at most M.
        invariance: lambda.
        ridge: added to the second moment, in units of features^2; 0 is exact where S is invertible.

    Returns:
        [M, K] float64. Costs O(N M^2 + M^3) and one product of the graph with M columns: refitting
        between two questions is cheap.

    Raises:
        ValueError: features not [N, M] of the graph's rows; k outside 1 to M; S not positive
            definite, as with fewer rows than columns and no ridge.

    Source: Cabannes et al., ICCV 2023 (arXiv 2303.15256).
    """
    phi = np.asarray(features, np.float64)
    g = _plain(graph)
    if phi.ndim != 2 or len(phi) != g.rows:
        raise ValueError(f"features must be [{g.rows}, M], the graph's rows; got {phi.shape}")
    n, m = phi.shape
    if not 1 <= k <= m:
        raise ValueError(f"{m} features give a width of 1 to {m}; got {k=}")
    matmul, degree = _products(g)
    smooth = phi - invariance * (degree[:, None] * phi - matmul(phi))
    second = phi.T @ phi / n + ridge * np.eye(m)
    cross = phi.T @ smooth / n
    try:
        # The generalised problem: V^T S V = I, so V is S^(-1/2) times the eigenvectors above.
        values, vectors = _largest_of_dense((cross + cross.T) / 2, k, second)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"the second moment of {m} features over {n} rows is singular: give a {ridge=} above 0"
        ) from error
    return vectors * np.sqrt(np.maximum(values, 0))


def fit_kernel(
    kernel: np.ndarray | jax.Array,
    landmarks: np.ndarray | jax.Array,
    graph: graph_lib.GraphLike,
    k: int,
    *,
    invariance: float = 1.0,
    ridge: float = 1e-6,
) -> np.ndarray:
    """Coefficients A [m, K] for which kernel @ A minimises VICReg^2 in the kernel's space.

    Exact when the landmarks are all N rows, so that both arrays are the [N, N] kernel matrix; with
    m < N of them it is the Nystrom approximation, O(N m^2). A new x is embedded as k(x, landmarks)
    @ A. It is `fit_linear` on the features k(x, landmarks) k(landmarks, landmarks)^(-1/2), so
    `ridge` weighs the norm in the kernel's space.

    Args:
        kernel: [N, m] k(row, landmark).
        landmarks: [m, m] k(landmark, landmark), symmetric and positive semi-definite.
        graph, k, invariance, ridge: as for `fit_linear`.

    Raises:
        ValueError: shapes that do not fit, and whatever `fit_linear` refuses.
    """
    rows, square = np.asarray(kernel, np.float64), np.asarray(landmarks, np.float64)
    if rows.ndim != 2 or square.shape != (rows.shape[1], rows.shape[1]):
        raise ValueError(f"need [N, m] and [m, m] of one kernel; got {rows.shape}, {square.shape}")
    values, vectors = np.linalg.eigh((square + square.T) / 2)
    kept = values > _ZERO * values.max(initial=0)
    root = vectors[:, kept] / np.sqrt(values[kept])  # [m, rank]: k(landmarks, landmarks)^(-1/2)
    weights = fit_linear(rows @ root, graph, k, invariance=invariance, ridge=ridge)
    return root @ weights


def gaussian_kernel(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """[n, m] exp(-|x_i - y_j|^2 / (2 width^2)) for x [n, d], y [m, d], in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * x @ y.T
    return np.exp(-np.maximum(square, 0) / (2 * width**2))


def _contrastive(g: graph_lib.Graph, k: int, _invariance: float) -> np.ndarray:
    values, vectors = _largest(g, k)
    return vectors * np.sqrt(np.maximum(values, 0))


def _vicreg(g: graph_lib.Graph, k: int, invariance: float) -> np.ndarray:
    values, vectors = _largest(g, k, invariance)
    return np.sqrt(g.rows) * vectors * np.sqrt(np.maximum(values, 0))


def _barlow_twins(g: graph_lib.Graph, k: int, _invariance: float) -> np.ndarray:
    values, vectors = _largest(g, k)
    positive = values > _ZERO * values.max(initial=0)
    scale = np.where(positive, 1 / np.sqrt(np.where(positive, values, 1)), 0)
    return np.sqrt(g.rows) * vectors * scale


_OPTIMA = {
    "spectral_contrastive": _contrastive,
    "vicreg_squared": _vicreg,
    "barlow_twins_squared": _barlow_twins,
}


def _largest(
    g: graph_lib.Graph, k: int, invariance: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenpairs of G, or with `invariance` of I - invariance L; values fall.

    Fewer than k where all the others are known not to be positive.
    """
    if isinstance(g, graph_lib.Groups):
        return _largest_of_groups(g, k, invariance)
    sparse = isinstance(g, graph_lib.Edges)
    matrix = _sparse(g) if sparse else np.asarray(g.dense(), np.float64)
    if abs(matrix - matrix.T).max() > 1e-6 * abs(matrix).max():
        raise ValueError("the optimum needs a symmetric graph: give (G + G^T) / 2")
    if invariance is not None:
        degree = np.asarray(matrix.sum(axis=1)).ravel()
        eye = scipy.sparse.diags_array(1 - invariance * degree)
        matrix = eye + invariance * matrix if sparse else eye.toarray() + invariance * matrix
    if not sparse:
        return _largest_of_dense(matrix, k)
    return _largest_of_parts(scipy.sparse.csr_array(matrix), k)


def _largest_of_dense(
    matrix: np.ndarray, k: int, metric: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of matrix V = metric V diag(values), V^T metric V = I; values fall.

    All N pairs are computed: LAPACK's drivers for some of them lose those of equal values, which
    graphs of labels are full of, and do not say so.
    """
    driver = "evd" if metric is None else "gvd"
    values, vectors = scipy.linalg.eigh(matrix, metric, driver=driver)
    return values[: -k - 1 : -1], vectors[:, : -k - 1 : -1]


def _largest_of_parts(matrix: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Part by part, since Lanczos is bad at the equal eigenvalues that like parts have."""
    _, labels = scipy.sparse.csgraph.connected_components(matrix, directed=False)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    pairs: list[Pair] = []
    for rows in np.split(order, starts[1:]):
        part = matrix[rows][:, rows]
        if len(rows) <= max(_DENSE_PART, 2 * k):
            values, vectors = _largest_of_dense(part.toarray(), min(k, len(rows)))
        else:
            first = np.random.default_rng(0).normal(size=len(rows))
            values, vectors = scipy.sparse.linalg.eigsh(part, k=k, which="LA", v0=first)
        pairs += [(value, rows, column) for value, column in zip(values, vectors.T, strict=True)]
    return _largest_pairs(pairs, k, matrix.shape[0])


def _largest_of_groups(
    g: graph_lib.Groups, k: int, invariance: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """On paper. A group of scale s has in G one eigenpair, (|s|^2, s / |s|), besides zeros.

    Of I - invariance L, with an even scale: (1, ones), and 1 - invariance deg for all that sums to
    0 over the group.
    """
    scale = np.ones(g.rows) if g.scale is None else np.asarray(g.scale, np.float64)
    _, labels = np.unique(np.asarray(g.ids), return_inverse=True)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    pairs: list[Pair] = []
    for rows in members:
        s = scale[rows]
        if invariance is None:
            pairs.append((float(s @ s), rows, s / (np.linalg.norm(s) or 1.0)))
            continue
        if np.ptp(s) > 1e-6 * s.max():
            raise ValueError("vicreg_squared needs one scale a group: give the graph as edges")
        pairs.append((1.0, rows, np.full(len(rows), len(rows) ** -0.5)))
        rest = 1 - invariance * float(s @ s)
        if rest > 0:
            for m in range(1, min(len(rows), k + 1)):  # Helmert's basis
                entries = np.append(np.ones(m), -m) / np.sqrt(m * (m + 1))
                pairs.append((rest, rows[: m + 1], entries))
    return _largest_pairs(pairs, k, g.rows)


def _largest_pairs(pairs: list[Pair], k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(values [<= k], vectors [n, <= k]) of the k pairs of largest values; values fall."""
    pairs = sorted(pairs, key=lambda pair: -pair[0])[:k]
    vectors = np.zeros((n, len(pairs)))
    for column, (_, rows, entries) in enumerate(pairs):
        vectors[rows, column] = entries
    return np.array([value for value, _, _ in pairs]), vectors


def _plain(graph: graph_lib.GraphLike) -> graph_lib.Graph:
    g = graph_lib.as_graph(graph)
    return g.plain() if isinstance(g, graph_lib.Views) else g


def _products(g: graph_lib.Graph) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """x -> G @ x in float64, and the degrees."""
    if isinstance(g, graph_lib.Groups):
        scale = np.ones(g.rows) if g.scale is None else np.asarray(g.scale, np.float64)
        rows, ids = np.arange(g.rows), np.asarray(g.ids)
        member = scipy.sparse.csr_array((scale, (rows, ids)), shape=(g.rows, g.rows))
        return lambda x: member @ (member.T @ x), member @ (member.T @ np.ones(g.rows))
    matrix = _sparse(g) if isinstance(g, graph_lib.Edges) else np.asarray(g.dense(), np.float64)
    return lambda x: matrix @ x, matrix @ np.ones(g.rows)


def _sparse(g: graph_lib.Edges) -> Any:
    edges, weights = np.asarray(g.edges), np.asarray(g.weights, np.float64)
    matrix = scipy.sparse.csr_array((weights, (edges[:, 0], edges[:, 1])), shape=(g.n, g.n))
    matrix.eliminate_zeros()  # padding would tie parts together
    return matrix
