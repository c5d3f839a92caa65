"""Joint-embedding losses with a similarity graph where the papers have "the two views".

Every loss is a pure function of the rows of the *global* batch, z [N, K], and a graph of N rows: a
dense [N, N] array or any object of graph.py. Under jit with sharded rows it equals one device; a
loss of each device's rows followed by a mean is another, wrong loss. Half precision is computed in
float32. Self-loops are ignored: that a row is alike to itself teaches nothing. A graph without any
other edge contributes exactly 0 to value and gradient of the terms that pull rows together.
NaN in z or in the weights propagates: hence comparisons that are written so that NaN is kept.
Derivatives are reverse-mode (`jax.grad`, `jax.hessian`): the backward passes are written by hand,
and `jax.jvp` of them raises TypeError.

    >>> from pal_jax import graph, losses
    >>> z = jnp.asarray([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 1.0]])  # views of two samples
    >>> views = graph.from_views(samples=2, views=2)
    >>> print(f"{losses.simclr(z, views, temperature=1.0):.4f}")  # log(e + 2) - 1
    0.5514
    >>> print(f"{losses.vicreg(z, views, views=2, variance=0, covariance=0):.4f}")  # 25 / 4
    6.2500
    >>> grad = jax.grad(losses.barlow_twins)(z, graph.from_labels([0, 1, 0, 1]))
    >>> grad.shape
    (4, 2)
"""

import jax
import jax.numpy as jnp

from pal_jax import gram, streaming
from pal_jax import graph as graph_lib
from pal_jax.errors import pick

Array = jax.Array


def vicreg(
    z: Array,
    graph: graph_lib.GraphLike,
    *,
    views: int = 1,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    unbiased: bool = False,
) -> Array:
    """VICReg on a graph.

      invariance / (K sum_{i!=j} G_ij)  sum_{i!=j} G_ij |z_i - z_j|^2
    + variance / (V K)        sum_v sum_k max(0, 1 - sqrt(C^v_kk + eps))
    + 2 covariance / (V K)    sum_v sum_{k!=l} (C^v_kl)^2

    C^v is the unbiased covariance of the rows of view v. With two views and G = "same sample" this
    is the published code. V = 1 pools all rows into one covariance (0.1 to 1 % away with two
    views). The factor 2 / V makes the last term the published sum for V = 2 and keeps its size for
    every other V. C^v_kl^2 is the plug-in estimate from this batch: for Gaussian rows without
    correlation it is var_k var_l / (N / V - 1) too large in the mean. `unbiased` multiplies the
    covariances of the first and of the second half of the samples instead.

    Args:
        z: [N, K] floating, N = V B, view-major.
        graph: [N, N] array or graph object, non-negative. An asymmetric G counts as
            (G + G^T) / 2.
        views: V, the number of equal blocks of rows with moments of their own; 1 pools them.
        invariance, variance, covariance: weights of the three terms.
        eps: added to the variance, in units of z^2; keeps the gradient of a collapsed z finite.
        unbiased: estimate C_kl^2 without bias, at 1.5 to 2 times the variance; single batches
            may give a negative value. The rows of a view must be independent samples, so give
            `views`. The hinge has no such estimate and stays as it is.

    Returns:
        Scalar, float32 (float64 for a float64 z). The covariance is formed as N / V x N / V where
        that is smaller than K x K; a nearly diagonal one then loses relative precision (1e-3 of a
        tiny term).

    Raises:
        ValueError: z is not [N >= 2, K] floating; the graph is of another size or has concrete
            negative weights; `views` does not divide N into blocks of 2 or more, 4 if `unbiased`.

    Source: Bardes, Ponce, LeCun, ICLR 2022; constants, facebookresearch/vicreg main_vicreg.py.
    """
    z, g = _inputs(z, graph)
    k = z.shape[1]
    edges = g.degree().sum() - g.diagonal().sum()
    pull = g.energy(z) / (k * _or_one(edges))

    z_v = gram.blocks(z, views)
    if unbiased:
        var, redundancy = _variance(_centred(z_v)), _off_diagonal_of_halves(z_v)
    else:
        off_diagonal, diagonal = zip(*map(gram.scatter, z_v), strict=True)
        freedom = z_v.shape[1] - 1
        var, redundancy = jnp.stack(diagonal) / freedom, sum(off_diagonal) / freedom**2
    hinge = jnp.maximum(0, 1 - jnp.sqrt(var + eps)).mean()  # of [V, K], the diagonals of C^v

    return invariance * pull + variance * hinge + 2 * covariance / (views * k) * redundancy


def _centred(z_v: Array) -> Array:
    return z_v - z_v.mean(axis=1, keepdims=True)


def _variance(x: Array) -> Array:
    """[V, K] unbiased variance of the centred rows [V, B, K] of each view."""
    return jnp.square(x).sum(axis=1) / (x.shape[1] - 1)


def _off_diagonal_of_halves(z_v: Array) -> Array:
    """sum_v sum_{k!=l} C_kl C'_kl with C, C' of the two halves of the samples: independent."""
    half = z_v.shape[1] // 2
    if half < 2:
        raise ValueError(f"unbiased needs 4 samples or more a view; got {z_v.shape[1]}")
    x, y = _centred(z_v[:, :half]), _centred(z_v[:, half:])
    freedom = (x.shape[1] - 1) * (y.shape[1] - 1)
    products = sum(gram.product(a, b) for a, b in zip(x, y, strict=True)) / freedom
    return products - (_variance(x) * _variance(y)).sum()


def simclr(
    z: Array,
    graph: graph_lib.GraphLike,
    *,
    temperature: float = 0.5,
    positives: str = "each",
    apart: graph_lib.GraphLike | None = None,
) -> Array:
    """InfoNCE on a graph: SimCLR for G = "same sample", SupCon ("out") for G = "same label".

      mean over rows i with deg_i > 0 of
        sum_{j!=i} (G_ij / deg_i) (log sum_{k!=i} A_ik exp(s_ik) - s_ij)

    s_ij = cos(z_i, z_j) / temperature and deg_i = sum_{j!=i} G_ij. A_ik = 1, or with `apart` its
    weight W_ik where G_ik = 0: what is not known to be alike is pushed away, and W says how much.
    Rows without a positive are left out of the mean and still push the others. The sum over k is
    over this batch, so the value rises with N as log N; it is a biased estimate of the same loss
    on all the data.

    Several positives a row have three published conventions, equal where a row has one:
      "each"   the formula above (SupCon; the default)
      "any"    mean over rows of log sum_{k!=i} A_ik exp(s_ik) - log sum_{j!=i} G_ij exp(s_ij)
               (solo-learn): one near positive is enough
      "pairs"  sum_{i!=j} G_ij log(1 + sum_{k!=i, G_ik=0} A_ik exp(s_ik - s_ij)) / sum_{i!=j} G_ij
               (optax, pytorch-metric-learning): positives do not compete, rows weigh by degree

    Beyond 2,048 rows (8,192 on an accelerator) "each" without `apart` works in tiles: N^2 time,
    O(N K) memory, and on several devices every one does all of it.
    All else takes rows of S and G in blocks: N^2 time and O(N) memory.

    Args:
        z: [N, K] floating; a row of zeros has cosine 0 with all others.
        graph: [N, N] array or graph object, non-negative; may be asymmetric (row i's positives j).
        temperature: positive; 0.1 to 0.5 is common. May be traced.
        positives: "each", "any" or "pairs".
        apart: W, [N, N] array or graph object, non-negative: weight of the pairs that are pushed
            apart. None: 1 for all, "unknown" is as good as "not alike". Its entries where G_ij > 0
            or i = j are not read.

    Returns:
        Scalar, float32 (float64 for a float64 z); 0 if no row has a positive.

    Raises:
        ValueError: z is not [N >= 2, K] floating; a graph is of another size or has concrete
            negative weights; no such convention.

    Source: Chen et al., ICML 2020 (google-research/simclr: twice this); Khosla et al., NeurIPS 2020
    (their code: times temperature / 0.07).
    """
    z, g = _inputs(z, graph)
    x = _rows_of_square(z, 1 / jnp.asarray(temperature, z.dtype))  # s_ij = x_i . x_j
    convention = pick(_CONVENTIONS, positives, "convention of positives")
    if apart is None and convention is _each_positive:
        bound = 1 / temperature if isinstance(temperature, int | float) else None
        total, weight = _each_positive_of_all(x, g, bound)
    else:
        graphs = [g] if apart is None else [g, _inputs(z, apart)[1]]
        total, weight = streaming.sum_rows(convention, x, graphs)
    return total / _or_one(weight)


def _each_positive_of_all(x: Array, g: graph_lib.Graph, bound: float | None) -> tuple[Array, Array]:
    """The default: sum_j G_ij s_ij needs only G @ x, so the graph is never N x N here."""
    loops = g.diagonal()
    degree = g.degree() - loops
    anchors = ~(degree <= 0)
    similarity = (x * (g.matmul(x) - loops[:, None] * x)).sum(axis=1)
    losses = streaming.log_sums(x, bound) - similarity / jnp.where(anchors, degree, 1)
    return jnp.where(anchors, losses, 0).sum(), anchors.sum().astype(x.dtype)


def _each_positive(
    s: Array, graphs: list[Array], others: Array, _rows: Array
) -> tuple[Array, Array]:
    g, a = _alike_and_apart(graphs, others)
    degree = g.sum(axis=1)
    anchors = ~(degree <= 0)
    similarity = (g * s).sum(axis=1) / jnp.where(anchors, degree, 1)
    losses = streaming.log_sum(s, jnp.where(g > 0, 1, a)) - similarity
    return jnp.where(anchors, losses, 0), anchors.astype(s.dtype)


def _any_positive(
    s: Array, graphs: list[Array], others: Array, _rows: Array
) -> tuple[Array, Array]:
    g, a = _alike_and_apart(graphs, others)
    anchors = ~(g <= 0).all(axis=1)
    losses = streaming.log_sum(s, jnp.where(g > 0, 1, a)) - streaming.log_sum(s, g)
    return jnp.where(anchors, losses, 0), anchors.astype(s.dtype)


def _pairs_of_positives(
    s: Array, graphs: list[Array], others: Array, _rows: Array
) -> tuple[Array, Array]:
    g, a = _alike_and_apart(graphs, others)
    negatives = streaming.log_sum(s, jnp.where(g > 0, 0, a))
    return (g * jax.nn.softplus(negatives[:, None] - s)).sum(axis=1), g.sum(axis=1)


_CONVENTIONS = {"each": _each_positive, "any": _any_positive, "pairs": _pairs_of_positives}


def _alike_and_apart(graphs: list[Array], others: Array) -> tuple[Array, Array]:
    """[B, N] weights of the positives and of the pushed pairs, both 0 for a row and itself."""
    g = jnp.where(others, graphs[0], 0)
    a = others.astype(g.dtype) if len(graphs) == 1 else jnp.where(others, graphs[1], 0)
    return g, a


def barlow_twins(
    z: Array,
    graph: graph_lib.GraphLike,
    *,
    views: int = 1,
    offdiagonal: float = 5e-3,
    eps: float = 1e-5,
) -> Array:
    """Barlow Twins on a graph.

      sum_k (1 - C_kk)^2 + offdiagonal sum_{k!=l} C_kl^2,   C = Zs^T G Zs / sum_{i!=j} G_ij

    Zs are the rows standardised within their view: (z - mean) / sqrt(var + eps), var with the
    number of rows. Published: two views and `from_views(B, 2, directed=True)`. A symmetric G, such
    as the group ids of a train step, averages C and C^T; they agree in expectation where views are
    drawn alike, so it is the same objective with less noise, about 1 % away on one batch. C is the
    plug-in estimate from this batch: the gradient of its square is biased.

    Args:
        z: [N, K] floating, N = V B, view-major.
        graph: [N, N] array or graph object, non-negative; asymmetric where it should be.
        views: V, the number of equal blocks of rows that are standardised each by itself; 1 pools
            them (5.6e-2 away from the published value with two views).
        offdiagonal: weight of the redundancy term (lambda).
        eps: added to the variance, in units of z^2; keeps the gradient of a collapsed z finite.

    Returns:
        Scalar, float32 (float64 for a float64 z); 0 if the graph has no edge.

    Raises:
        ValueError: z is not [N >= 2, K] floating; the graph is of another size or has concrete
            negative weights; `views` does not divide N into blocks of 2 or more.

    Source: Zbontar et al., ICML 2021; facebookresearch/barlowtwins main.py (offdiagonal 0.0051).
    """
    z, g = _inputs(z, graph)
    zs = jnp.concatenate([_standardised(block, eps) for block in gram.blocks(z, views)])
    edges = g.degree().sum() - g.diagonal().sum()
    c = gram.moment(zs, g, loops=False) / _or_one(edges)
    off = gram.without_diagonal(c)
    loss = jnp.square(1 - jnp.diagonal(c)).sum() + offdiagonal * jnp.square(off).sum()
    return jnp.where(edges <= 0, 0, loss)


def _standardised(x: Array, eps: float) -> Array:
    x = x - x.mean(axis=0, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=0, keepdims=True) + eps)


def _inputs(z: Array, graph: graph_lib.GraphLike) -> tuple[Array, graph_lib.Graph]:
    z = gram.embeddings(z)
    g = graph_lib.as_graph(graph, rows=len(z))
    return z, graph_lib.require_nonnegative(g).astype(z.dtype)


def _or_one(x: Array) -> Array:
    """x, or 1 where it is 0: the mean over nothing is 0."""
    return jnp.where(x > 0, x, 1)


def _rows_of_square(z: Array, square: Array) -> Array:
    """Rows of squared length `square`; a row of zeros stays 0 and has a finite gradient."""
    given = jnp.square(z).sum(axis=1, keepdims=True)
    return z * jnp.sqrt(square / jnp.where(given > 0, given, 1))
