"""What the embedding alone says: neighbours, a kernel over samples, and natural communities."""

import dataclasses
import functools
import hashlib
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from pal_jax.active.field import Field
from pal_jax.errors import UserError

_NEIGHBOURS = 10  # of each sample in the graph
_SPREAD = 0.99  # of the kernel (I - spread S)^-1: how far an answer is heard
_RANK = 256  # eigenvectors that stand for the kernel
_DENSE = 500  # up to here all eigenvectors are computed exactly
_CELLS = 64  # that communities are made of, or twice, four times ... as many
_MERGED = 0.75  # communities a cell from which on there are more cells
_CORE = 24  # most central samples of a community: typical of it
# Shares of three kernels in one: along the graph, near by, and over all of the data.
_CLUSTERED, _SMOOTH = (0.7, 0.3, 0.0), (0.4, 0.2, 0.4)
_SINGLE, _TOGETHER = 1_024, 64  # nodes placed one by one, and how many at once after these
# squares of coordinates, in units of a typical neighbour's distance, up to which float32 tells
# neighbours apart, and beyond which float64 does not
_COARSE, _FINE = 1e4, 1e11
_BLOCK = 1_024  # rows of a sparse product at a time
_CHUNK = 1 << 24  # numbers of an [n, chunk] block of distances
_NUMBERS = 1 << 20  # of an embedding that are looked at together


@dataclasses.dataclass(frozen=True)
class Graph:
    """A symmetric weighted graph in compressed rows: row i is indptr[i] .. indptr[i + 1]."""

    indptr: np.ndarray  # [n + 1]
    indices: np.ndarray  # [nnz]
    weights: np.ndarray  # [nnz] float64

    def matmul(self, x: np.ndarray) -> np.ndarray:
        """W @ x for x [n, r], in the dtype of x; O(nnz r) time, O(n r) memory.

        Rows in order of their degree, a block at a time: term s of all rows that have so many is
        one slice, and a block of sums stays in the cache.
        """
        out = np.empty_like(x)
        degree = np.diff(self.indptr)
        order = np.argsort(-degree, kind="stable")
        weights = self.weights.astype(x.dtype)[:, None]
        for start in range(0, len(order), _BLOCK):
            rows = order[start : start + _BLOCK]
            sums = np.zeros((len(rows), x.shape[1]), x.dtype)
            for term in range(degree[rows[0]]):
                entries = self.indptr[rows[degree[rows] > term]] + term
                sums[: len(entries)] += weights[entries] * x[self.indices[entries]]
            out[rows] = sums
        return out

    def rows(self) -> np.ndarray:
        """[nnz] the row of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def normalised(self) -> "Graph":
        """D^(-1/2) W D^(-1/2); rows of degree 0 stay 0."""
        rows = self.rows()
        degree = np.bincount(rows, self.weights, minlength=len(self.indptr) - 1)
        scale = np.where(degree > 0, 1.0 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0)
        weights = self.weights * scale[rows] * scale[self.indices]
        return dataclasses.replace(self, weights=weights)


class Geometry:
    """Everything that depends on the embedding only; each part is computed when first read.

    Args:
        embeddings: [n, d] finite floats.
        single: so many first nodes the fields place one by one, the others in blocks. One by one
            answers a question soonest, in blocks many answers.
    """

    def __init__(self, embeddings: np.ndarray, single: int = _SINGLE):
        self.embeddings = embeddings
        self.n = len(embeddings)
        self.single = single
        self._memory: dict[str, np.ndarray] = {}

    @functools.cached_property
    def differ(self) -> bool:
        """Whether any two samples do; else the embedding says nothing."""
        return bool((self.embeddings != self.embeddings[:1]).any())

    @functools.cached_property
    def _nearest(self) -> tuple[np.ndarray, np.ndarray]:
        return nearest(self.embeddings, min(_NEIGHBOURS, self.n - 1))

    @functools.cached_property
    def graph(self) -> Graph:
        """Nearest neighbours with self-tuning weights, symmetric; nothing on the diagonal."""
        return neighbour_graph(*self._nearest)

    @functools.cached_property
    def _normalised(self) -> tuple[Graph, np.ndarray]:
        graph = self.graph.normalised()
        return graph, graph.rows()

    @functools.cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        return top_eigenpairs(self._normalised[0], min(_RANK, self.n))

    @functools.cached_property
    def features(self) -> np.ndarray:
        """[n, r] phi with phi phi^T = the kernel (I - spread S)^-1, scaled to a unit diagonal.

        What the r eigenvectors miss of the diagonal is left out, so |phi_i| <= 1; it is 1 when
        r = n, and small for a sample that its neighbours say little about.
        """
        values, vectors = self._spectrum
        features = vectors / np.sqrt(1.0 - _SPREAD * values)
        # The missing eigenvectors have kernel values near 1: a typical 1 / (1 - spread 0).
        missing = np.maximum(1.0 - np.square(vectors).sum(axis=1), 0.0)
        diagonal = np.square(features).sum(axis=1) + missing
        return features / np.sqrt(diagonal)[:, None]

    @functools.cached_property
    def _points(self) -> np.ndarray:
        """[n, d] of which |difference|^2 is 1 at the typical 10th neighbour.

        float32, or float64 where classes are so tight, or a sample so far away, that float32 would
        make noise of the distances of neighbours, and of the kernel no kernel.
        """
        z = _bounded(self.embeddings)
        square = self._nearest[1][:, -1] if self.n > 1 else np.ones(1)
        positive = square[square > 0]
        unit = np.median(positive) if len(positive) else 1.0
        largest = np.square(z).sum(axis=1).max()
        points = z / np.sqrt(max(unit, largest / _FINE))
        return points.astype(np.float32) if largest <= _COARSE * unit else points

    @functools.cached_property
    def _features(self) -> np.ndarray:
        return self.features.astype(np.float32)

    @functools.cached_property
    def _squares(self) -> np.ndarray:
        return np.square(self._points).sum(axis=1)

    @functools.cached_property
    def _width(self) -> float:
        """Mean |z_i - z_j|^2 of two samples, in units of that of a typical 10th neighbour."""
        return max(2.0 * float(self._points.var(axis=0).sum()), 1e-12)

    def kernel(
        self,
        rows: np.ndarray,
        columns: np.ndarray | slice,
        shares: tuple[float, float, float] = _CLUSTERED,
    ) -> np.ndarray:
        """[R, C] float32 similarity of samples: 1 for a sample and itself; O((r + d) R C).

        Three kernels, mixed: that of the graph, which carries an answer through a whole cluster;
        exp(-|z_i - z_j|^2 / s^2) with s^2 that of a typical 10th neighbour, which tells samples
        that are unlike those around them; and the same with s^2 the mean over all pairs, which
        draws smooth borders where classes overlap. On digits with all labels known the last error
        stands at rank 700 of the uncertain samples by the first alone, at 118 with the second.
        """
        graph, near, wide = shares
        square = self._squares[rows][:, None] + self._squares[columns]
        square -= 2.0 * (self._points[rows] @ self._points[columns].T)
        square = np.maximum(square, 0.0, dtype=np.float32)
        out = np.float32(near) * np.exp(-square)
        out += np.float32(graph) * (self._features[rows] @ self._features[columns].T)
        if wide:
            out += np.float32(wide) * np.exp(square * np.float32(-1.0 / self._width))
        out[np.asarray(rows)[:, None] == np.arange(self.n)[columns]] = 1.0
        return out

    @functools.cached_property
    def fields(self) -> tuple[Field, Field]:
        """What placed samples say about all others, for data in clusters and for data without."""
        clustered = functools.partial(self.kernel, shares=_CLUSTERED)
        smooth = functools.partial(self.kernel, shares=_SMOOTH)
        return (
            Field(clustered, self.n, _TOGETHER, self.single),
            Field(smooth, self.n, _TOGETHER, self.single),
        )

    def between(self, member: np.ndarray, count: int) -> np.ndarray:
        """[C, C] summed normalised edge weights between groups, [n] int each below `count`."""
        graph, rows = self._normalised
        edges = member[rows] * count + member[graph.indices]
        return np.bincount(edges, graph.weights, minlength=count * count).reshape(count, count)

    @functools.cached_property
    def _profiles(self) -> np.ndarray:
        """[n, cells] float32 exp(-|z_i - c|^2) to the centre c of each cell: where it lies."""
        one = np.zeros((self.n, int(self.cells.max()) + 1), np.float32)
        one[np.arange(self.n), self.cells] = 1.0
        centres = (one.T @ self._points) / one.sum(axis=0)[:, None]
        square = self._squares[:, None] + np.square(centres).sum(axis=1)
        square -= 2.0 * (self._points @ centres.T)
        return np.exp(-np.maximum(square, 0.0, dtype=np.float32))

    def likeness(self, member: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Two [C, C] cosines in [0, 1] of groups: of their mean features, and of their profiles.

        The first goes along the graph, the second straight through space.
        """
        order = np.argsort(member, kind="stable")
        ends = np.cumsum(np.bincount(member, minlength=count))[:-1]

        def sums(rows: np.ndarray) -> np.ndarray:  # a third of the time of a product with one-hots
            return np.stack([part.sum(axis=0) for part in np.split(rows[order], ends)])

        return _cosines(sums(self._features)), _cosines(sums(self._profiles))

    def pull(self, weight: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[R, C] how central the samples of some rows are for samples weighted by [n, C]."""
        return self._features[rows] @ (self._features.T @ weight.astype(np.float32))

    def remember(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What others derive from the embedding alone: made at the first call."""
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]

    @property
    def cells(self) -> np.ndarray:
        """[n] int: small pieces of which communities are made, numbered from 0."""
        return self._pieces[0]

    @property
    def communities(self) -> np.ndarray:
        """[n] int: a partition of highest modularity made of whole cells, numbered from 0."""
        return self._pieces[1]

    @functools.cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells and communities. Where hardly any two cells are merged there are more of them:
        each may hold several classes."""
        count = _CELLS
        while True:
            cells = k_means(self._spectral(count // 4), min(count, -(-self.n // 8)))
            communities = self._merged(cells)
            few = communities.max() < _MERGED * (cells.max() + 1)
            if few or count * 8 >= self.n:
                return cells, communities
            count *= 2

    def _spectral(self, width: int) -> np.ndarray:
        """[n, width] directions of the first eigenvectors."""
        values, vectors = self._spectrum
        use = min(width, len(values))
        points = vectors[:, :use] / np.sqrt(1.0 - _SPREAD * values[:use])
        norm = np.linalg.norm(points, axis=1, keepdims=True)
        return points / np.where(norm > 0, norm, 1.0)

    def _merged(self, cells: np.ndarray) -> np.ndarray:
        rows = self.graph.rows()
        count = int(cells.max()) + 1
        edges = cells[rows] * count + cells[self.graph.indices]
        between = np.bincount(edges, self.graph.weights, minlength=count * count)
        return merge_by_modularity(between.reshape(count, count))[cells]

    @functools.cached_property
    def medoids(self) -> np.ndarray:
        """The most central sample of each community."""
        order = np.lexsort((-self.centrality(self.communities), self.communities))
        return order[np.flatnonzero(np.diff(self.communities[order], prepend=-1))]

    @functools.cached_property
    def core(self) -> np.ndarray:
        """[n] bool: the most central samples of each community."""
        order = np.lexsort((-self.centrality(self.communities), self.communities))
        starts = np.flatnonzero(np.diff(self.communities[order], prepend=-1))
        core = np.zeros(self.n, bool)
        for start in starts:
            piece = order[start : start + _CORE]
            core[piece[self.communities[piece] == self.communities[order[start]]]] = True
        return core

    def centrality(self, groups: np.ndarray) -> np.ndarray:
        """[n] similarity of each sample to all of its own group, given as [n] int."""
        _, inverse = np.unique(groups, return_inverse=True)
        sums = np.zeros((inverse.max() + 1, self.features.shape[1]))
        np.add.at(sums, inverse, self.features)
        return np.einsum("nr,nr->n", self.features, sums[inverse])


class LastEmbedding:
    """Knows the embedding seen last again, about which so many questions are.

    It is known by its content, at the price of checking and hashing it, a block of rows at a
    time. The very array of last time is known again for nothing if it is read-only, and so is all
    that it is a view of (as NumPy makes of a JAX array, or `setflags(write=False)`); an array
    that can be written to may have been changed in place, so its content decides.

    Args:
        n: number of samples.
    """

    def __init__(self, n: int):
        self.n = n
        self._array: weakref.ref[np.ndarray] | None = None
        self._content = b""

    def __call__(self, embeddings: np.ndarray) -> tuple[np.ndarray, bytes]:
        """[n, d] embeddings as they are, and a digest; UserError if they cannot be used."""
        array = np.asarray(embeddings)
        if self._array is None or self._array() is not array or not read_only(array):
            check_embeddings(array, self.n)
            content = hashlib.blake2b(f"{array.shape} {array.dtype}".encode())
            for rows in blocks(array):
                content.update(np.ascontiguousarray(rows).data)
            self._content = content.digest()
            self._array = weakref.ref(array) if read_only(array) else None
        return array, self._content


class LastGeometry:
    """The geometry of the embedding seen last.

    Args:
        n: number of samples.
    """

    def __init__(self, n: int):
        self._look = LastEmbedding(n)
        self._content = b""
        self._geometry: Geometry | None = None

    def __call__(self, embeddings: np.ndarray) -> Geometry:
        """Of [n, d] embeddings; UserError if they cannot be used."""
        array, content = self._look(embeddings)
        if self._geometry is None or content != self._content:
            self._geometry, self._content = Geometry(array.astype(np.float64)), content
        return self._geometry


def read_only(array: np.ndarray) -> bool:
    """Neither it nor any array it is a view of can be written to."""
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return base is None or (isinstance(base, memoryview) and base.readonly)


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """[n, d] a few thousand rows at a time, so that what is derived from them stays small."""
    step = max(1, _NUMBERS // rows.shape[1])
    return (rows[start : start + step] for start in range(0, len(rows), step))


def check_embeddings(embeddings: np.ndarray, n: int) -> None:
    """UserError unless they are [n, d] finite numbers."""
    z = np.asarray(embeddings)
    if z.ndim != 2 or len(z) != n or not z.shape[1] or not (
        np.issubdtype(z.dtype, np.floating) or np.issubdtype(z.dtype, np.integer)
    ):  # fmt: skip
        raise UserError(
            f"embeddings are {n} rows of one or more numbers, not {z.dtype}{list(z.shape)}"
        )
    bad = np.concatenate([~np.isfinite(rows).all(axis=1) for rows in blocks(z)])
    if bad.any():
        raise UserError(
            f"the embeddings of {bad.sum()} samples, the first is {bad.argmax()}, are not finite: "
            "training has diverged, try a lower learning rate"
        )


def nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and squared distances, both [n, k], of the k nearest other samples, in order.

    Distances are in units of the largest |coordinate|.
    Blocks of rows, so that memory grows with n and not with n^2. Candidates are found in
    float32, or in float64 where that does not tell them apart; their distances and order are
    computed in float64; of equals, the smaller id first.
    """
    centred = _bounded(points)
    index, distance = _nearest(centred, centred.astype(np.float32), k)
    if k and np.square(centred).sum(axis=1).max() > _COARSE * np.median(distance[:, -1]):
        return _nearest(centred, centred, k)
    return index, distance


def _nearest(centred: np.ndarray, z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest`, with candidates found among z: the points in the precision to find them in."""
    n = len(z)
    square = np.square(z).sum(axis=1)
    index = np.empty((n, k), np.int64)
    distance = np.empty((n, k))
    rows = max(1, _CHUNK // n)
    for start in range(0, n if k else 0, rows):
        here = np.arange(start, min(start + rows, n))
        block = square - 2.0 * (z[here] @ z.T)  # without |z_i|^2: the same for the whole row
        block[np.arange(len(here)), here] = np.inf
        near = np.sort(np.argpartition(block, k - 1, axis=1)[:, :k], axis=1)
        exact = np.square(centred[near] - centred[here][:, None]).sum(axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        index[here] = np.take_along_axis(near, order, axis=1)
        distance[here] = np.take_along_axis(exact, order, axis=1)
    return index, distance


def _cosines(rows: np.ndarray) -> np.ndarray:
    """[C, C] non-negative cosines of [C, r] rows; 0 for a row of zeros."""
    norm = np.sqrt(np.square(rows).sum(axis=1)) + 1e-12
    return np.maximum((rows @ rows.T) / norm[:, None] / norm, 0.0).astype(np.float64)


def _bounded(points: np.ndarray) -> np.ndarray:
    """Centred, in units of the largest |coordinate|, so that no square overflows."""
    scale = np.abs(points).max()
    points = points / (scale if scale > 0 else 1.0)
    return points - points.mean(axis=0)


def neighbour_graph(index: np.ndarray, distance: np.ndarray) -> Graph:
    """exp(-|z_i - z_j|^2 / (s_i s_j)) to the k nearest, s_i the distance to the k-th.

    Args:
        index, distance: [n, k] the neighbours of each sample and their squared distances.

    Made symmetric by (W + W^T) / 2. Source: Zelnik-Manor and Perona, Self-tuning spectral
    clustering, NeurIPS 2004.
    """
    n, k = index.shape
    width = np.sqrt(distance[:, -1]) if k else np.ones(n)
    positive = width[width > 0]
    # Samples with k exact copies would have width 0: they get a thousandth of a typical one.
    width = np.maximum(width, 1e-3 * np.median(positive) if len(positive) else 1.0)
    rows = np.repeat(np.arange(n), k)
    weights = np.exp(-distance.ravel() / (width[rows] * width[index.ravel()]))
    both = np.concatenate([rows * n + index.ravel(), index.ravel() * n + rows])
    entries, inverse = np.unique(both, return_inverse=True)
    weights = np.bincount(inverse, np.tile(weights / 2, 2), minlength=len(entries))
    indptr = np.searchsorted(entries, np.arange(n + 1) * n)
    return Graph(indptr, entries % n, weights)


def top_eigenpairs(graph: Graph, r: int) -> tuple[np.ndarray, np.ndarray]:
    """The r largest eigenvalues, descending, and their vectors [n, r], of a normalised graph.

    Exact for small n. Beyond, Chebyshev-filtered subspace iteration, good to some digits, which
    is all that a kernel needs; deterministic. Source: Zhou et al., J. Comput. Phys. 219, 2006.
    """
    n = len(graph.indptr) - 1
    if n <= _DENSE:
        dense = np.zeros((n, n))
        dense[graph.rows(), graph.indices] = graph.weights
        values, vectors = np.linalg.eigh(dense)
        return values[::-1][:r], np.ascontiguousarray(vectors[:, ::-1][:, :r])
    start = np.random.default_rng(0).normal(size=(n, r + 16))
    x, values, cut = np.linalg.qr(start)[0], np.zeros(r), 0.0
    for _ in range(4):
        low, half = np.float32((cut - 1.0) / 2), np.float32((cut + 1.0) / 2)
        before = x.astype(np.float32)  # [-1, cut] is damped, what is above it grows
        now = (graph.matmul(before) - low * before) / half
        for _ in range(7):
            before, now = now, (graph.matmul(now) - low * now) * np.float32(2 / half) - before
        x = np.linalg.qr(now.astype(np.float64))[0]
        values, rotation = np.linalg.eigh(x.T @ graph.matmul(x))
        x = x @ rotation
        cut = float(np.clip(values[0], -0.5, 0.98))
    return values[::-1][:r], np.ascontiguousarray(x[:, ::-1][:, :r])


def k_means(points: np.ndarray, k: int, iterations: int = 20) -> np.ndarray:
    """[n] cells, numbered from 0 without gaps; begins farthest-first, so nothing is random."""
    centres = [int(np.square(points - points.mean(axis=0)).sum(axis=1).argmin())]
    distance = np.square(points - points[centres[0]]).sum(axis=1)
    while len(centres) < k and distance.max() > 0:
        centres.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[centres[-1]]).sum(axis=1))
    means = points[centres]
    cells = np.zeros(len(points), np.int64)
    for _ in range(iterations):
        cells = (np.square(means).sum(axis=1) - 2.0 * points @ means.T).argmin(axis=1)
        _, cells = np.unique(cells, return_inverse=True)
        one = np.zeros((len(points), cells.max() + 1))
        one[np.arange(len(points)), cells] = 1.0
        means = (one.T @ points) / one.sum(axis=0)[:, None]
    return cells


def merge_by_modularity(between: np.ndarray) -> np.ndarray:
    """[c] communities of c nodes: greedy merging, kept where modularity is highest.

    Args:
        between: [c, c] symmetric summed edge weights.

    Source: Clauset, Newman and Moore, Phys. Rev. E 70, 2004.
    """
    count = len(between)
    total = between.sum()
    if total <= 0:
        return np.arange(count)
    e = between / total
    label = np.arange(count)
    while True:
        degree = e.sum(axis=1)
        gain = 2.0 * (e - np.outer(degree, degree))
        np.fill_diagonal(gain, -np.inf)
        a, b = divmod(int(gain.argmax()), count)
        if gain[a, b] <= 0:
            return np.unique(label, return_inverse=True)[1]
        e[a] += e[b]
        e[:, a] += e[:, b]
        e[b] = e[:, b] = 0.0
        label[label == b] = a
