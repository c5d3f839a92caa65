"""The squared losses: those whose optima are known in closed form (closed_form.py).

They are defined for any symmetric G and take it as given, self-loops included. With the degree-1
graph `graph.normalize(G)` the first two are one problem; `degree_normalized(loss)` is the loss on
that graph, and what one trains with. Without `apart` none forms N x N on Groups or Edges.
Derivatives are reverse-mode, as of losses.py.

By definition they are plug-in estimates: the squared K x K moment of one batch is too large, by
(tr(M)^2 + |M|_F^2) / N for N independent Gaussian rows of second moment M. With `views`, rows are V
views of independent samples, and the estimate of the population's loss is unbiased.

    >>> from pal_jax import graph, spectral
    >>> groups = graph.from_groups([0, 1, 0, 1])
    >>> z = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> float(spectral.spectral_contrastive(z, groups))  # Z Z^T = G
    0.0
    >>> round(float(spectral.degree_normalized(spectral.vicreg_squared)(z, groups)), 4)
    0.5
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pal_jax import gram, streaming
from pal_jax import graph as graph_lib

Array = jax.Array


def spectral_contrastive(
    z: Array,
    graph: graph_lib.GraphLike,
    *,
    views: int | None = None,
    mu: float | None = None,
    apart: graph_lib.GraphLike | None = None,
) -> Array:
    """The spectral contrastive loss: by definition, or with `views` as one trains with it.

    views=None:  |Z Z^T - G|_F^2 = |Z^T Z|_F^2 - 2 <Z, G Z> + |G|_F^2
    views=V:     -2 <G, Z Z^T> / sum(G) + <W, (Z Z^T)^2> / sum(W),   without self-loops in G

    W_ij = 1 where rows i and j are of different views and of different samples. The second form
    is that of the published code, for two views with `from_views`. They are different losses: the
    first is a sum over all pairs, the pairs of a row with itself included, grows with N, and has
    its optimum at rows of length about sqrt(K / N) on a normalised graph. The second is a mean
    over pairs, so that an ordinary learning rate works for every N, and its <W, ...> is the
    unbiased estimate of the population's push.

    Args:
        z: [N, K] floating; for `views`, N = V B, view-major.
        graph: [N, N] array or graph object. For the definition any real weights.
        views: V >= 2; None for the definition.
        mu: with `views` only: rows longer than sqrt(mu) are cut to sqrt(mu), and all is divided by
            mu. None: 1, as in the published code (10 for ImageNet).
        apart: [N, N] array or graph object, non-negative: weight of the pairs that are pushed
            apart, so that "unknown" need not mean "not alike". None: 1 for all. In the definition
            it weighs the square of every pair i != j with G_ij = 0; with `views` it multiplies W.
            Taken in blocks of rows: N^2 time, O(N) memory.

    Returns:
        Scalar, float32 (float64 for a float64 z). Near its optimum the definition's value is a
        small difference of terms as large as |G|_F^2; the gradient is not.

    Raises:
        ValueError: z is not [N >= 2, K] floating; the graph is of another size; `views` below 2 or
            not dividing N into blocks of 2 or more; `mu` without `views`; concrete negative weights
            in `apart` or, with `views`, in the graph.

    Source: HaoChen et al., NeurIPS 2021; code, jhaochenz/spectral_contrastive_learning
    models/spectral.py.
    """
    z, g = _inputs(z, graph)
    w = None if apart is None else graph_lib.require_nonnegative(_inputs(z, apart)[1])
    if views is not None:
        return _between_views(z, graph_lib.require_nonnegative(g), views, mu or 1.0, w)
    if mu is not None:
        raise ValueError(f"{mu=} cuts rows of the published loss: give `views` as well")
    if w is not None:
        return streaming.sum_rows(_weighted_squares, z, [g, w])[0]
    return gram.squared_norm(z) - 2 * g.inner(z) + g.squared_norm()


def vicreg_squared(
    z: Array,
    graph: graph_lib.GraphLike,
    *,
    invariance: float = 1.0,
    views: int | None = None,
) -> Array:
    """VICReg^2: |Z^T Z / N - I|_F^2 + (2 invariance / N) tr(Z^T L Z), L = D - G.

    Args:
        z: [N, K] floating; the second moment is about 0, not about the mean.
        graph: [N, N] array or graph object; an asymmetric G counts as (G + G^T) / 2.
        invariance: lambda. A direction of eigenvalue l of L is learnt where lambda l < 1, so with
            an unnormalised G of degree d it must be below about 1 / d, or all of z collapses.
        views: None for the definition. V: |Z^T Z / N|_F^2, which is the mean of (z_i . z_j)^2
            over all pairs of rows, becomes the mean over pairs of different samples: unbiased.

    Returns:
        Scalar, float32 (float64 for a float64 z); K for z = 0. With `views` it may be negative.

    Raises:
        ValueError: z is not [N >= 2, K] floating; the graph is of another size; `views` does not
            divide N into blocks of 2 or more.

    Source: Balestriero, LeCun, NeurIPS 2022 (arXiv 2205.11508); Cabannes et al., ICCV 2023.
    """
    z, g = _inputs(z, graph)
    n, k = z.shape
    # |Z^T Z / N - I|_F^2, spelled out so that it may come from the N x N side.
    if views is None:
        square = gram.squared_norm(z) / n**2
    else:
        square = gram.between_samples(z, views) / (n * (n - views))
    whiten = square - 2 * jnp.square(z).sum() / n + k
    return whiten + invariance / n * g.energy(z)


def barlow_twins_squared(
    z: Array, graph: graph_lib.GraphLike, *, views: int | None = None
) -> Array:
    """BT^2: |Z^T G Z / N - I|_F^2.

    Args:
        z: [N, K] floating.
        graph: [N, N] array or graph object, taken as given; asymmetric G allowed.
        views: None for the definition. V: <M - I, M' - I> with the moments of the first and of the
            second half of the samples, unbiased if no edge joins the halves (edges that do are
            left out). May be negative.

    Returns:
        Scalar, float32 (float64 for a float64 z); K for z = 0 or an empty graph. The definition's
        minimum is 0 if G has K positive eigenvalues or more.

    Raises:
        ValueError: z is not [N >= 2, K] floating; the graph is of another size; `views` does not
            divide N into blocks of 2 or more.

    Source: Balestriero, LeCun, NeurIPS 2022 (arXiv 2205.11508).
    """
    z, g = _inputs(z, graph)
    n, k = z.shape
    eye = jnp.eye(k, dtype=z.dtype)
    if views is None:
        return jnp.square(gram.moment(z, g, loops=True) / n - eye).sum()
    samples = gram.blocks(z, views).shape[1]
    first = (jnp.arange(n) % samples < samples // 2)[:, None]
    x, y = jnp.where(first, z, 0), jnp.where(first, 0, z)
    moment = gram.moment(x, g, loops=True) / (views * (samples // 2))
    other = gram.moment(y, g, loops=True) / (views * (samples - samples // 2))
    return jnp.vdot(moment - eye, other - eye)


def degree_normalized(loss: Callable[..., Array]) -> Callable[..., Array]:
    """The same loss on the degree-normalised graph, for training on groups of any size.

    G's eigenvalues become at most 1, so `invariance` means the same whatever the groups are.
    """

    @functools.wraps(loss)
    def on_normalized(z: Array, graph: graph_lib.GraphLike, **options: Any) -> Array:
        z, g = _inputs(z, graph)
        return loss(z, graph_lib.normalize(g), **options)

    return on_normalized


def _weighted_squares(
    s: Array, graphs: list[Array], others: Array, _rows: Array
) -> tuple[Array, ...]:
    g, w = graphs
    weight = jnp.where(others & (g == 0), w, 1)
    return ((weight * jnp.square(s - g)).sum(axis=1),)


def _between_views(
    z: Array, g: graph_lib.Graph, views: int, mu: float, w: graph_lib.Graph | None
) -> Array:
    """HaoChen's form."""
    if views < 2:
        raise ValueError(f"{views=}: pairs of different views need 2 or more")
    square = jnp.square(z).sum(axis=1, keepdims=True)
    z = z * mu**0.5 * jax.lax.rsqrt(jnp.maximum(square, mu))
    loops = g.diagonal()
    edges = g.degree().sum() - loops.sum()
    alike = g.inner(z) - loops @ jnp.square(z).sum(axis=1)
    pull = alike / jnp.where(edges > 0, edges, 1)
    z_v = gram.blocks(z, views)
    push = _mean_square_between(z, z_v) if w is None else _weighted_square_between(z, z_v, w)
    return (push - 2 * pull) / mu


def _mean_square_between(z: Array, z_v: Array) -> Array:
    """<W, (Z Z^T)^2> / sum(W). W's complement is made of blocks, so this needs no N x N."""
    views, samples, _ = z_v.shape
    # A pair of rows is of one view, or of one sample, or of neither; a row with itself is of both.
    same_view = sum(gram.squared_norm(block) for block in z_v)
    selves = jnp.square(jnp.square(z).sum(axis=1)).sum()
    pairs = views * (views - 1) * samples * (samples - 1)
    return (gram.between_samples(z, views) - same_view + selves) / pairs


def _weighted_square_between(z: Array, z_v: Array, w: graph_lib.Graph) -> Array:
    """The same with weights on the pairs."""
    samples = z_v.shape[1]

    def row(s: Array, graphs: list[Array], _others: Array, rows: Array) -> tuple[Array, Array]:
        columns = jnp.arange(len(z), dtype=rows.dtype)[None, :]
        rows = rows[:, None]
        between = (rows // samples != columns // samples) & (rows % samples != columns % samples)
        weight = jnp.where(between, graphs[0], 0)
        return (weight * jnp.square(s)).sum(axis=1), weight.sum(axis=1)

    total, weight = streaming.sum_rows(row, z, [w])
    return total / jnp.where(weight > 0, weight, 1)


def _inputs(z: Array, graph: graph_lib.GraphLike) -> tuple[Array, graph_lib.Graph]:
    z = gram.embeddings(z)
    return z, graph_lib.as_graph(graph, rows=len(z)).astype(z.dtype)
