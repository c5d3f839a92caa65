"""The kinds of similarity graph: an array, group ids, views, a list of edges, and a Laplacian.

`Dense`, `Groups`, `Views` and `Edges` answer the same questions (`matmul`, `degree`, `energy`,
...), so that a loss is written once. All are pytrees. Build them with the functions of graph.py.
"""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def _node(cls: Any, *, static: tuple[str, ...] = ()) -> Any:
    data = [f.name for f in dataclasses.fields(cls) if f.name not in static]
    return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A graph that is its array. N x N memory, so for small N and for arbitrary weights."""

    weights: Array  # [N, N] floating

    @property
    def rows(self) -> int:
        """N."""
        return self.weights.shape[0]

    @property
    def T(self) -> "Dense":  # noqa: N802 (the name that NumPy gave it)
        """The graph with every edge turned round."""
        return Dense(self.weights.T)

    def astype(self, dtype: Any) -> "Dense":
        """The same graph with weights of `dtype`."""
        return Dense(self.weights.astype(dtype))

    def matmul(self, z: Array) -> Array:
        """G @ z, for z [N, K] of the graph's dtype."""
        return self.weights @ z

    def degree(self) -> Array:
        """[N] row sums of G."""
        return self.weights.sum(axis=1)

    def diagonal(self) -> Array:
        """[N] weights of the self-loops."""
        return jnp.diagonal(self.weights)

    def inner(self, z: Array) -> Array:
        """sum_ij G_ij z_i . z_j = <Z, G Z>."""
        return jnp.vdot(z, self.weights @ z)

    def energy(self, z: Array) -> Array:
        """sum_ij G_ij |z_i - z_j|^2 (for a symmetric G, 2 tr(Z^T L Z)), from one product G @ z."""
        # Self-loops add nothing; dropping them keeps the digits that a heavy diagonal would cancel.
        # Centring changes nothing either and keeps the digits of a z far from the origin.
        g = jnp.where(jnp.eye(self.rows, dtype=bool), 0, self.weights)
        z = z - z.mean(axis=0, keepdims=True)
        ends = g.sum(axis=1) + g.sum(axis=0)
        return ends @ jnp.square(z).sum(axis=1) - 2 * jnp.vdot(z, g @ z)

    def squared_norm(self) -> Array:
        """|G|_F^2."""
        return jnp.square(self.weights).sum()

    def scaled(self, left: Array, right: Array) -> "Dense":
        """diag(left) G diag(right)."""
        return Dense(left[:, None] * self.weights * right[None, :])

    def block(self, start: Array, size: int) -> Array:
        """[size, N] rows of G from `start` on; rows past the end are of no meaning."""
        return self.weights[start + jnp.arange(size, dtype=jnp.int32)]

    def dense(self) -> Array:
        """[N, N] array."""
        return self.weights

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Cliques: G_ij = scale_i scale_j where ids_i = ids_j, else 0. Symmetric, O(N) memory.

    Build it with `from_groups`, which brings any integers into [0, N).
    """

    ids: Array  # [N] int32, each in [0, N)
    scale: Array | None = None  # [N] floating, non-negative; None: all 1

    @property
    def rows(self) -> int:
        """N."""
        return self.ids.shape[0]

    @property
    def T(self) -> "Groups":  # noqa: N802
        """The graph itself: cliques are symmetric."""
        return self

    def astype(self, dtype: Any) -> "Groups":
        """The same graph with weights of `dtype`."""
        return Groups(self.ids, self._scale().astype(dtype))

    def matmul(self, z: Array) -> Array:
        """G @ z, for z [N, K] of the graph's dtype: a segment sum."""
        scale = self._scale()[:, None]
        return scale * self._group_sums(scale * z)[self.ids]

    def degree(self) -> Array:
        """[N] row sums of G; without `scale`, the size of each row's group."""
        scale = self._scale()
        return scale * self._group_sums(scale)[self.ids]

    def diagonal(self) -> Array:
        """[N] weights of the self-loops."""
        return jnp.square(self._scale())

    def inner(self, z: Array) -> Array:
        """sum_ij G_ij z_i . z_j = <Z, G Z>: squared sums of the groups."""
        return jnp.square(self._group_sums(self._scale()[:, None] * z)).sum()

    def energy(self, z: Array) -> Array:
        """sum_ij G_ij |z_i - z_j|^2 = 2 sum_i deg_i |z_i - (G z)_i / deg_i|^2.

        Distances to the mean of the group, so views that nearly agree keep their digits.
        """
        degree = self.degree()
        mean = self.matmul(z) / jnp.where(degree > 0, degree, 1)[:, None]
        return 2 * degree @ jnp.square(z - mean).sum(axis=1)

    def squared_norm(self) -> Array:
        """|G|_F^2."""
        return jnp.square(self._group_sums(jnp.square(self._scale()))).sum()

    def scaled(self, left: Array, right: Array) -> "Groups":
        """diag(left) G diag(right); symmetric as cliques are, so `right` must equal `left`."""
        del right
        return Groups(self.ids, self._scale() * left)

    def block(self, start: Array, size: int) -> Array:
        """[size, N] rows of G from `start` on; rows past the end are of no meaning."""
        rows = start + jnp.arange(size, dtype=jnp.int32)
        scale = self._scale()
        same = self.ids[rows][:, None] == self.ids[None, :]
        return jnp.where(same, scale[rows][:, None] * scale[None, :], 0)

    def dense(self) -> Array:
        """[N, N] array; for small N and for tests."""
        scale = self._scale()
        same = self.ids[:, None] == self.ids[None, :]
        return jnp.where(same, scale[:, None] * scale[None, :], 0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)

    def _scale(self) -> Array:
        return jnp.ones(self.rows) if self.scale is None else self.scale

    def _group_sums(self, x: Array) -> Array:
        return jax.ops.segment_sum(x, self.ids, num_segments=self.rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """G_ij = scale_i scale_j where rows i and j are views of one sample, view-major, else 0.

    The graph that is known from its shape: sums over blocks of rows take the place of gathers, and
    a jitted loss becomes the two-view code that one would have written by hand. `joins` says which
    views an edge goes to: "all", its own too, or in a directed graph the "later" or the "earlier".
    """

    samples: int  # B
    views: int  # V; N = V B
    joins: Literal["all", "later", "earlier"]
    dtype: Any  # of the weights where there is no scale
    scale: Array | None = None  # [N] floating, non-negative; None: all 1. Only where joins is "all"

    @property
    def rows(self) -> int:
        """N."""
        return self.samples * self.views

    @property
    def T(self) -> "Views":  # noqa: N802
        """The graph with every edge turned round."""
        turned = {"all": "all", "later": "earlier", "earlier": "later"}[self.joins]
        return dataclasses.replace(self, joins=turned)

    def astype(self, dtype: Any) -> "Views":
        """The same graph with weights of `dtype`."""
        scale = None if self.scale is None else self.scale.astype(dtype)
        return dataclasses.replace(self, dtype=jnp.dtype(dtype), scale=scale)

    def matmul(self, z: Array) -> Array:
        """G @ z, for z [N, K] of the graph's dtype: sums of whole blocks."""
        if self.scale is None:
            return self._sums(z)
        scale = self.scale[:, None]
        return scale * self._sums(scale * z)

    def degree(self) -> Array:
        """[N] row sums of G."""
        return self._scale() * self._sums(self._scale())

    def diagonal(self) -> Array:
        """[N] weights of the self-loops; a directed graph has none."""
        if self.joins == "all":
            return jnp.square(self._scale())
        return jnp.zeros(self.rows, self.dtype)

    def inner(self, z: Array) -> Array:
        """sum_ij G_ij z_i . z_j = <Z, G Z>, view by view."""
        z_v = self._blocks(z if self.scale is None else self.scale[:, None] * z)
        total, inner = z_v[0], jnp.zeros((), z.dtype)
        for view in z_v[1:]:
            inner += (view * total).sum()
            total += view
        return jnp.square(total).sum() if self.joins == "all" else inner

    def energy(self, z: Array) -> Array:
        """sum_ij G_ij |z_i - z_j|^2, view by view."""
        z_v, s_v = self._blocks(z), self._blocks(self._scale())
        directions = 2 if self.joins == "all" else 1
        total = jnp.zeros((), z.dtype)
        for a, b in itertools.combinations(range(self.views), 2):
            square = jnp.square(z_v[a] - z_v[b])
            weighted = square if self.scale is None else (s_v[a] * s_v[b])[:, None] * square
            total += directions * weighted.sum()
        return total

    def squared_norm(self) -> Array:
        """|G|_F^2."""
        square = jnp.square(self._scale())
        return (square * self._sums(square)).sum()

    def scaled(self, left: Array, right: Array) -> "Views | Edges":
        """diag(left) G diag(right); `right` must equal `left` unless G is directed."""
        if self.joins == "all":
            return dataclasses.replace(self, scale=self._scale() * left)
        edges = self.plain()
        assert isinstance(edges, Edges)
        return edges.scaled(left, right)

    def block(self, start: Array, size: int) -> Array:
        """[size, N] rows of G from `start` on; rows past the end are of no meaning."""
        return self._weights(start + jnp.arange(size, dtype=jnp.int32))

    def dense(self) -> Array:
        """[N, N] array; for small N and for tests."""
        return self._weights(jnp.arange(self.rows, dtype=jnp.int32))

    def plain(self) -> "Groups | Edges":
        """The same graph as group ids or, if directed, as edges."""
        if self.joins == "all":
            return Groups(
                jnp.tile(jnp.arange(self.samples, dtype=jnp.int32), self.views), self.scale
            )
        ends = np.stack(np.triu_indices(self.views, k=1), axis=1)  # (earlier, later) views
        ends = ends if self.joins == "later" else ends[:, ::-1]
        edges = ends[:, None, :] * self.samples + np.arange(self.samples)[None, :, None]
        edges = jnp.asarray(edges.reshape(-1, 2), jnp.int32)
        return Edges(edges, jnp.ones(len(edges), self.dtype), self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)

    def _scale(self) -> Array:
        return jnp.ones(self.rows, self.dtype) if self.scale is None else self.scale

    def _blocks(self, x: Array) -> Array:
        return x.reshape(self.views, self.samples, *x.shape[1:])

    def _sums(self, x: Array) -> Array:
        """Of x [N, ...], each row's sum over the views that it is joined to."""
        # View by view, as XLA makes a window over all of them of a cumsum, and its sum over an axis
        # costs a CPU another array.
        x_v, total = self._blocks(x), jnp.zeros((self.samples, *x.shape[1:]), x.dtype)
        sums = []
        for view in x_v[::-1] if self.joins == "later" else x_v:
            sums.append(total)
            total = total + view
        if self.joins == "all":
            sums = [total] * self.views
        return jnp.concatenate(sums[::-1] if self.joins == "later" else sums)

    def _weights(self, rows: Array) -> Array:
        """[len(rows), N] rows of G."""
        columns = jnp.arange(self.rows, dtype=rows.dtype)[None, :]
        joined = rows[:, None] % self.samples == columns % self.samples
        if self.joins == "later":
            joined &= rows[:, None] < columns
        elif self.joins == "earlier":
            joined &= rows[:, None] > columns
        scale = self._scale()
        return jnp.where(joined, scale[rows][:, None] * scale[None, :], 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """G_ij = weights_e for the e-th edge (i, j), else 0. O(E) memory.

    Each entry stands once: (i, j) and (j, i) are two. `from_edges` makes a symmetric graph of
    pairs; a directed one is built directly.
    """

    edges: Array  # [E, 2] int32, (row, column), each in [0, n), no pair twice
    weights: Array  # [E] floating
    n: int  # N

    @property
    def rows(self) -> int:
        """N."""
        return self.n

    @property
    def T(self) -> "Edges":  # noqa: N802
        """The graph with every edge turned round."""
        return Edges(self.edges[:, ::-1], self.weights, self.n)

    def astype(self, dtype: Any) -> "Edges":
        """The same graph with weights of `dtype`."""
        return Edges(self.edges, self.weights.astype(dtype), self.n)

    def matmul(self, z: Array) -> Array:
        """G @ z, for z [N, K] of the graph's dtype: a gather and a segment sum."""
        return self._row_sums(self.weights[:, None] * z[self.edges[:, 1]])

    def degree(self) -> Array:
        """[N] row sums of G."""
        return self._row_sums(self.weights)

    def diagonal(self) -> Array:
        """[N] weights of the self-loops."""
        loop = self.edges[:, 0] == self.edges[:, 1]
        return self._row_sums(jnp.where(loop, self.weights, 0))

    def inner(self, z: Array) -> Array:
        """sum_ij G_ij z_i . z_j = <Z, G Z>, edge by edge."""
        return self.weights @ (z[self.edges[:, 0]] * z[self.edges[:, 1]]).sum(axis=1)

    def energy(self, z: Array) -> Array:
        """sum_ij G_ij |z_i - z_j|^2, edge by edge."""
        difference = z[self.edges[:, 0]] - z[self.edges[:, 1]]
        return self.weights @ jnp.square(difference).sum(axis=1)

    def squared_norm(self) -> Array:
        """|G|_F^2."""
        return jnp.square(self.weights).sum()

    def scaled(self, left: Array, right: Array) -> "Edges":
        """diag(left) G diag(right)."""
        weights = left[self.edges[:, 0]] * self.weights * right[self.edges[:, 1]]
        return Edges(self.edges, weights, self.n)

    def block(self, start: Array, size: int) -> Array:
        """[size, N] rows of G from `start` on; rows past the end are of no meaning."""
        row = self.edges[:, 0] - start
        row = jnp.where(row >= 0, row, size)  # a negative index would count from the end
        zeros = jnp.zeros((size, self.n), self.weights.dtype)
        return zeros.at[row, self.edges[:, 1]].add(self.weights, mode="drop")

    def dense(self) -> Array:
        """[N, N] array; for small N and for tests."""
        zeros = jnp.zeros((self.n, self.n), self.weights.dtype)
        return zeros.at[self.edges[:, 0], self.edges[:, 1]].add(self.weights)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)

    def _row_sums(self, x: Array) -> Array:
        return jax.ops.segment_sum(x, self.edges[:, 0], num_segments=self.n)


@dataclasses.dataclass(frozen=True, eq=False)
class Laplacian:
    """L = D - G of a graph object, as an operator: it has a product but no N x N array."""

    graph: "Dense | Groups | Views | Edges"

    def matmul(self, z: Array) -> Array:
        """L @ z, for z [N, K]."""
        return self.graph.degree()[:, None] * z - self.graph.matmul(z)

    def dense(self) -> Array:
        """[N, N] array; for small N and for tests."""
        return jnp.diag(self.graph.degree()) - self.graph.dense()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)


_node(Dense)
_node(Groups)
_node(Views, static=("samples", "views", "joins", "dtype"))
_node(Edges, static=("n",))
_node(Laplacian)
