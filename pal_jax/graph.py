"""Similarity graphs G: what is known about which rows are alike.

G is [N, N] with G_ij > 0 where rows i and j are known to be alike. Four kinds share one set of
operations, so a loss is written once: `Dense` holds the array, `Groups` one integer a row, `Edges`
a list of pairs, and `Views` nothing but its shape. Only the first builds N x N; the products of the
others are segment sums, O(N K) and O(E K), and sums of blocks.

Decided for all of them:
- Self-loops (G_ii) are kept as given. `from_views`, `from_groups` and `from_labels` have them, as a
  row is alike to itself; losses that cannot learn from them ignore them, and say so.
- A row of degree 0 is legal; `normalize` leaves it 0.
- G may be asymmetric (`Dense`, `Edges`): row i then leads to column j.
- Weights are cast to the dtype of the embeddings; bool and integer arrays are fine.
- Concrete negative weights are an error where a graph is built or handed to a loss that needs
  G >= 0. Traced ones cannot be looked at: they propagate, as NaN does.

    >>> from pal_jax import graph
    >>> np.asarray(graph.from_views(samples=2, views=2), int)
    array([[1, 0, 1, 0],
           [0, 1, 0, 1],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    >>> labelled = graph.from_labels([7, 7, -1])  # the third label is not known
    >>> graph.degree(graph.with_views(labelled, 2)).tolist()
    [4.0, 4.0, 2.0, 4.0, 4.0, 2.0]
    >>> graph.laplacian(graph.from_edges(3, [[0, 1]], [0.5]).dense()).tolist()
    [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from pal_jax.graph_kinds import Dense, Edges, Groups, Laplacian, Views

Array = jax.Array


Graph = Dense | Groups | Views | Edges
GraphLike = Array | np.ndarray | Graph


def from_views(samples: int, views: int, directed: bool = False) -> Views:
    """Self-supervised: the `views` rows of each sample are alike.

    Args:
        samples: B, number of samples; N = views * B rows, view-major.
        views: V, rows a sample.
        directed: only the edges from a view to a later one, (a, i) -> (b, i) with a < b, and no
            self-loops. Barlow Twins as published multiplies view 1 with view 2 and is not
            symmetric in them.
    """
    if samples < 1 or views < 1:
        raise ValueError(f"a graph of views needs both at 1 or more; got {samples=}, {views=}")
    return Views(samples, views, "later" if directed else "all", jnp.zeros(()).dtype)


def from_groups(ids: npt.ArrayLike) -> Groups:
    """Rows of equal id are alike. Any integers, [N]; they may be traced."""
    ids = _integers(ids, "group ids")
    concrete = _concrete(ids)
    if concrete is not None:  # on the host, where ids beyond int32 survive
        compact = jnp.asarray(np.unique(concrete, return_inverse=True)[1], jnp.int32)
    else:
        compact = jnp.unique(ids, return_inverse=True, size=len(ids))[1].astype(jnp.int32)
    return Groups(compact)


def from_labels(labels: npt.ArrayLike, known: npt.ArrayLike | None = None) -> Groups:
    """Supervised, or with `known` semi-supervised: rows of equal known label are alike.

    Args:
        labels: [N] integers.
        known: [N] bool; a row whose label is not known is alike to itself alone. None: known where
            the label is not negative, the usual mark of a missing one.

    For the views of labelled samples write `with_views(from_labels(labels, known), views)`.
    """
    compact = from_groups(labels).ids
    if known is None:  # asked before int32 could turn large labels into negative ones
        known = (labels if isinstance(labels, Array) else np.asarray(labels)) >= 0
    known = jnp.asarray(known).astype(bool)
    chex.assert_equal_shape([compact, known])
    n = compact.shape[0]
    row = jnp.arange(n, dtype=jnp.int32)
    # A label is named by its first known row, so no name can be that of an unknown row.
    first = jax.ops.segment_min(jnp.where(known, row, n), compact, num_segments=n)
    return Groups(jnp.where(known, first[compact], row))


def from_edges(n: int, edges: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Edges:
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
    edges = edges if isinstance(edges, Array) else np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"edges must be [E, 2] integers; got {edges.shape} {edges.dtype}")
    weights = jnp.ones(len(edges)) if weights is None else _floating(jnp.asarray(weights))
    if weights.shape != edges.shape[:1]:
        raise ValueError(f"{len(edges)} edges need as many weights; got {weights.shape}")
    _refuse_outside(edges, n)
    _refuse_negative(weights)
    edges = jnp.asarray(edges).astype(jnp.int32)
    if len(edges) == 0:
        return Edges(edges, weights, n)

    low, high = edges.min(axis=1), edges.max(axis=1)
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
    if isinstance(graph, Views):
        graph = graph.plain()
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
    if not isinstance(graph, Graph):
        weights = jnp.asarray(graph)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(f"a dense graph must be [N, N]; got {weights.shape}")
        graph = Dense(weights)
    if isinstance(graph, Dense):
        graph = Dense(_floating(graph.weights))
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
    if isinstance(graph, Graph):
        return Laplacian(graph)
    return Laplacian(as_graph(graph)).dense()


def normalize(graph: Any) -> Any:
    """Degree-normalised graph D^(-1/2) G D^(-1/2), of the kind it was given.

    Rows of degree 0 stay 0. An asymmetric G has row sums on its left and column sums on its right.
    Directed views become edges.
    """
    g = as_graph(graph)
    out = g.scaled(_inverse_root(g.degree()), _inverse_root(g.T.degree()))
    return out if isinstance(graph, Graph) else out.dense()


def require_nonnegative(graph: Graph) -> Graph:
    """The graph; a ValueError if its concrete weights are negative somewhere."""
    if isinstance(graph, Dense | Edges):
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


def _integers(ids: npt.ArrayLike, what: str) -> Array | np.ndarray:
    ids = ids if isinstance(ids, Array) else np.asarray(ids)
    if ids.ndim != 1 or ids.shape[0] == 0:
        raise ValueError(f"{what} must be one integer a row, [N]; got shape {ids.shape}")
    if ids.dtype.kind not in "iub":
        raise ValueError(f"{what} must be integers; got {ids.dtype}")
    return ids


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


def _refuse_outside(edges: Array | np.ndarray, n: int) -> None:
    known = _concrete(edges)
    if known is not None and ((known < 0) | (known >= n)).any():
        bad = known[((known < 0) | (known >= n)).any(axis=1)][0]
        raise ValueError(f"edge {tuple(bad.tolist())} leaves the rows 0 to {n - 1}")
