"""The kinds of similarity graph: a dense array, group ids, a list of edges, and a Laplacian.

`Dense`, `Groups` and `Edges` answer the same questions (`matmul`, `degree`, `energy`, ...), so
that a loss is written once. All are pytrees. Build them with the functions of graph.py.
"""

import dataclasses
from typing import Any

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

    graph: "Dense | Groups | Edges"

    def matmul(self, z: Array) -> Array:
        """L @ z, for z [N, K]."""
        return self.graph.degree()[:, None] * z - self.graph.matmul(z)

    def dense(self) -> Array:
        """[N, N] array; for small N and for tests."""
        return jnp.diag(self.graph.degree()) - self.graph.dense()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense(), dtype)


for _cls, _static in ((Dense, ()), (Groups, ()), (Edges, ("n",)), (Laplacian, ())):
    _node(_cls, static=_static)
