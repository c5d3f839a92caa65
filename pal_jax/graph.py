"""Similarity graphs G: what is known about which rows are alike.

G is [N, N] with G_ij > 0 where rows i and j are known to be alike. Three kinds share one set of
operations, so a loss is written once: `Dense` holds the array, `Groups` one integer a row, `Edges`
a list of pairs. The last two never build N x N; their products are segment sums, O(N K) and O(E K).

Decided for all of them:
- Self-loops (G_ii) are kept as given. `from_views`, `from_groups` and `from_labels` have them, as a
  row is alike to itself; losses that cannot learn from them ignore them, and say so.
- A row of degree 0 is legal; `normalize` leaves it 0.
- G may be asymmetric (`Dense`, `Edges`): row i then leads to column j.
- Weights are cast to the dtype of the embeddings; bool and integer arrays are fine.
- Concrete negative weights are an error where a graph is built or handed to a loss that needs
  G >= 0. Traced ones cannot be looked at: they propagate, as NaN does.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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

Graph = Dense | Groups | Edges
GraphLike = Array | np.ndarray | Graph


def from_views(samples: int, views: int, directed: bool = False) -> Groups | Edges:
    """Self-supervised: the `views` rows of each sample are alike.

    Args:
        samples: B, number of samples; N = views * B rows, view-major.
        views: V, rows a sample.
        directed: only the edges from a view to a later one, (a, i) -> (b, i) with a < b. Barlow
            Twins as published multiplies view 1 with view 2 and is not symmetric in them.

    Returns:
        Groups (with self-loops), or for `directed` Edges: B V (V - 1) / 2 of them, no self-loop.
    """
    if samples < 1 or views < 1:
        raise ValueError(f"a graph of views needs both at 1 or more; got {samples=}, {views=}")
    if not directed:
        return Groups(jnp.tile(jnp.arange(samples, dtype=jnp.int32), views))
    earlier, later = np.triu_indices(views, k=1)
    pairs = np.stack([earlier, later], axis=1)[:, None, :] * samples  # [V(V-1)/2, 1, 2]
    edges = (pairs + np.arange(samples)[None, :, None]).reshape(-1, 2)
    return Edges(jnp.asarray(edges, jnp.int32), jnp.ones(len(edges)), samples * views)


def from_groups(ids: Array | np.ndarray) -> Groups:
    """Rows of equal id are alike. Any integers, [N]; they may be traced."""
    concrete = _integers(ids, "group ids")
    if concrete is not None:  # on the host, where ids beyond int32 survive
        compact = jnp.asarray(np.unique(concrete, return_inverse=True)[1], jnp.int32)
    else:
        ids = jnp.asarray(ids)
        compact = jnp.unique(ids, return_inverse=True, size=ids.shape[0])[1].astype(jnp.int32)
    return Groups(compact)


def from_labels(labels: Array | np.ndarray, known: Array | np.ndarray | None = None) -> Groups:
    """Supervised, or with `known` semi-supervised: rows of equal known label are alike.

    Args:
        labels: [N] integers.
        known: [N] bool; a row whose label is not known is alike to itself alone. None: known where
            the label is not negative, the usual mark of a missing one.

    For the views of labelled samples write `with_views(from_labels(labels, known), views)`.
    """
    compact = from_groups(labels).ids
    known = jnp.asarray(labels) >= 0 if known is None else jnp.asarray(known).astype(bool)
    chex.assert_equal_shape([compact, known])
    n = compact.shape[0]
    row = jnp.arange(n, dtype=jnp.int32)
    # A label is named by its first known row, so no name can be that of an unknown row.
    first = jax.ops.segment_min(jnp.where(known, row, n), compact, num_segments=n)
    return Groups(jnp.where(known, first[compact], row))


def from_edges(
    n: int, edges: Array | np.ndarray, weights: Array | np.ndarray | None = None
) -> Edges:
    """Pairs that are alike: a symmetric graph of n rows.

    Args:
        n: N.
        edges: [E, 2] integers in [0, n). A pair stands for both directions; named again, in
            either order, it counts once, with its largest weight.
        weights: [E] non-negative, None: all 1. Weight 0 is no edge, which pads a list to a
            constant length.

    Returns:
        Edges with 2 E entries, E of them (i, j) and E (j, i); repeated ones have weight 0.

    Raises:
        ValueError: concrete edges outside [0, n), concrete negative weights, wrong shapes.
    """
    edges = jnp.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or not jnp.issubdtype(edges.dtype, jnp.integer):
        raise ValueError(f"edges must be [E, 2] integers; got {edges.shape} {edges.dtype}")
    weights = jnp.ones(len(edges)) if weights is None else _floating(jnp.asarray(weights))
    if weights.shape != edges.shape[:1]:
        raise ValueError(f"{len(edges)} edges need as many weights; got {weights.shape}")
    _refuse_outside(edges, n)
    _refuse_negative(weights)
    if len(edges) == 0:
        return Edges(edges.astype(jnp.int32), weights, n)

    low, high = edges.min(axis=1).astype(jnp.int32), edges.max(axis=1).astype(jnp.int32)
    order = jnp.lexsort((high, low))
    low, high, weights = low[order], high[order], weights[order]
    new = jnp.append(True, (low[1:] != low[:-1]) | (high[1:] != high[:-1]))
    pair = jnp.cumsum(new) - 1
    largest = jax.ops.segment_max(weights, pair, num_segments=len(edges))
    weights = jnp.where(new, largest[pair], 0)
    there, back = jnp.stack([low, high], axis=1), jnp.stack([high, low], axis=1)
    once = jnp.where(low == high, 0, weights)  # a self-loop has one direction
    return Edges(jnp.concatenate([there, back]), jnp.concatenate([weights, once]), n)


def with_views(graph: Graph, views: int) -> Graph:
    """The graph of all views of samples, view-major: alike samples have alike views.

    Ones(V, V) kron G. So self-loops of `graph` become edges between the views of one sample.
    """
    if isinstance(graph, Groups):
        scale = None if graph.scale is None else jnp.tile(graph.scale, views)
        return Groups(jnp.tile(graph.ids, views), scale)
    if isinstance(graph, Dense):
        return Dense(jnp.tile(graph.weights, (views, views)))
    blocks = np.indices((views, views)).reshape(2, -1).T * graph.n  # [V^2, 2], first rows
    blocks = jnp.asarray(blocks, graph.edges.dtype)
    edges = (graph.edges[None, :, :] + blocks[:, None, :]).reshape(-1, 2)
    return Edges(edges, jnp.tile(graph.weights, views * views), graph.n * views)


def as_graph(graph: GraphLike, rows: int | None = None) -> Graph:
    """A graph object from an [N, N] array or a graph object.

    Raises:
        ValueError: neither, not square, or not of `rows` rows.
    """
    if not isinstance(graph, Dense | Groups | Edges):
        weights = jnp.asarray(graph)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(f"a dense graph must be [N, N]; got {weights.shape}")
        graph = Dense(_floating(weights))
    if rows is not None and graph.rows != rows:
        raise ValueError(
            f"the graph has {graph.rows} rows and the embeddings have {rows}; both need one a view "
            "(graph.with_views makes the graph of the views of samples)"
        )
    return graph


def degree(graph: GraphLike) -> Array:
    """[N] row sums of G."""
    return as_graph(graph).degree()


def laplacian(graph: GraphLike) -> Any:
    """L = D - G with D the row sums: an array for an array, an operator for a graph object."""
    if isinstance(graph, Dense | Groups | Edges):
        return Laplacian(graph)
    return Laplacian(as_graph(graph)).dense()


def normalize(graph: Any) -> Any:
    """Degree-normalised graph D^(-1/2) G D^(-1/2), of the kind it was given.

    Rows of degree 0 stay 0. An asymmetric G has row sums on its left and column sums on its right.
    """
    g = as_graph(graph)
    out = g.scaled(_inverse_root(g.degree()), _inverse_root(g.T.degree()))
    return out if isinstance(graph, Dense | Groups | Edges) else out.dense()


def require_nonnegative(graph: Graph) -> Graph:
    """The graph; a ValueError if its concrete weights are negative somewhere."""
    if not isinstance(graph, Groups):
        _refuse_negative(graph.weights)
    return graph


def _inverse_root(degree: Array) -> Array:
    # Two `where`: the outer one hides 1/sqrt(0) from the value only, its derivative would be NaN.
    known = degree > 0
    return jnp.where(known, jax.lax.rsqrt(jnp.where(known, degree, 1)), 0)


def _floating(weights: Array) -> Array:
    if jnp.issubdtype(weights.dtype, jnp.floating):
        return weights
    return weights.astype(float)


def _integers(ids: Array | np.ndarray, what: str) -> np.ndarray | None:
    """The concrete values of [N] integers, None for traced ones."""
    if np.ndim(ids) != 1 or np.shape(ids)[0] == 0:
        raise ValueError(f"{what} must be one integer a row, [N]; got shape {np.shape(ids)}")
    dtype = ids.dtype
    if dtype.kind not in "iub":
        raise ValueError(f"{what} must be integers; got {dtype}")
    return _concrete(ids)


def _concrete(x: Any) -> np.ndarray | None:
    if isinstance(x, Tracer) or (isinstance(x, Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)


def _refuse_negative(weights: Array) -> None:
    known = _concrete(weights)
    if known is not None and (known < 0).any():
        raise ValueError(
            f"{(known < 0).sum()} edge weights are negative, the least {known.min()}; "
            "G_ij >= 0 says how sure it is that two rows are alike, 0 that nothing is known"
        )


def _refuse_outside(edges: Array, n: int) -> None:
    known = _concrete(edges)
    if known is not None and ((known < 0) | (known >= n)).any():
        bad = known[((known < 0) | (known >= n)).any(axis=1)][0]
        raise ValueError(f"edge {tuple(bad.tolist())} leaves the rows 0 to {n - 1}")
