"""What the losses share about rows: dtype, blocks, norms and products of their moments."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pal_jax import graph as graph_lib

Array = jax.Array


def embeddings(z: Array) -> Array:
    """z as a loss computes with it: [N >= 2, K >= 1], float64 if it is that, otherwise float32.

    Half precision is cast up before the first square: VICReg in float16 is NaN at |z| = 30.

    Raises:
        ValueError: not [N, K], fewer than two rows, or not floating.
    """
    if z.ndim != 2 or z.shape[0] < 2 or z.shape[1] < 1:
        raise ValueError(f"embeddings must be [N, K] with 2 rows or more; got {z.shape}")
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"embeddings must be floating; got {z.dtype}: cast them first")
    return z if z.dtype == jnp.float64 else z.astype(jnp.float32)


def blocks(z: Array, views: int) -> Array:
    """[V, N / V, K]: the rows of each view, which lie one block after the other.

    Raises:
        ValueError: V does not divide N, or leaves fewer than two rows a block.
    """
    n, k = z.shape
    if views < 1 or n % views or n // views < 2:
        raise ValueError(f"{views=} must divide the {n} rows of z into blocks of 2 or more")
    return z.reshape(views, n // views, k)


@jax.custom_vjp
def squared_norm(x: Array) -> Array:
    """|X^T X|_F^2 = |X X^T|_F^2 for x [N, K]: the smaller side is formed, min(N, K)^2 entries."""
    return _squared_norm(x)[0]


def _squared_norm(x: Array) -> tuple[Array, tuple[Array, Array]]:
    n, k = x.shape
    gram = x @ x.T if n < k else x.T @ x
    return jnp.square(gram).sum(), (x, gram)


def _squared_norm_bwd(residual: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    # 4 X X^T X by hand: autodiff does not see that the Gram matrix is symmetric
    # and multiplies twice.
    x, gram = residual
    n, k = x.shape
    return (4 * cotangent * (gram @ x if n < k else x @ gram),)


squared_norm.defvjp(_squared_norm, _squared_norm_bwd)


def product(x: Array, y: Array) -> Array:
    """<X^T X, Y^T Y>_F = |X Y^T|_F^2 for x [N, K], y [M, K], from the smaller side."""
    if x.shape[0] * y.shape[0] < x.shape[1] ** 2:
        return jnp.square(x @ y.T).sum()
    return jnp.vdot(x.T @ x, y.T @ y)


def between_samples(z: Array, views: int) -> Array:
    """Sum of (z_i . z_j)^2 over all pairs of rows of different samples, z view-major."""
    z_v = blocks(z, views)
    of_one_sample = jnp.square(jnp.einsum("abk,cbk->bac", z_v, z_v))  # [B, V, V]
    return squared_norm(z) - of_one_sample.sum()


@jax.custom_vjp
def scatter(z: Array) -> tuple[Array, Array]:
    """(sum_{k!=l} S_kl^2, [K] S_kk) of S = X^T X, with X the centred rows of z [N, K].

    The smaller side is formed, min(N, K)^2 entries. Where that is N x N, the first value is a
    difference and loses relative precision if S is nearly diagonal.
    """
    return _scatter(z)[0]


def _scatter(z: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    n, k = z.shape
    x = z - z.mean(axis=0, keepdims=True)
    if n < k:
        square, (_, gram) = _squared_norm(x)
        diagonal = jnp.square(x).sum(axis=0)
        return (square - jnp.square(diagonal).sum(), diagonal), (x, gram, diagonal)
    gram = x.T @ x
    diagonal = jnp.diagonal(gram)
    return (jnp.square(without_diagonal(gram)).sum(), diagonal), (x, gram, diagonal)


def _scatter_bwd(
    residual: tuple[Array, Array, Array], cotangent: tuple[Array, Array]
) -> tuple[Array]:
    # One product where autodiff needs two, and both values share it. It is the gradient at x; its
    # columns sum to 0 as those of x do, so centring adds nothing to it.
    x, gram, diagonal = residual
    n, k = x.shape
    off, on = 4 * cotangent[0], 2 * cotangent[1]
    if n < k:
        return (off * (gram @ x) + (on - off * diagonal)[None, :] * x,)
    return (x @ jnp.where(jnp.eye(k, dtype=bool), on[None, :], off * gram),)


scatter.defvjp(_scatter, _scatter_bwd)


def without_diagonal(c: Array) -> Array:
    """A square matrix with zeros on its diagonal."""
    return jnp.where(jnp.eye(len(c), dtype=bool), 0, c)


def moment(z: Array, g: graph_lib.Graph, *, loops: bool) -> Array:
    """[K, K] Z^T G Z = sum_ij G_ij z_i z_j^T, with or without the self-loops."""
    if isinstance(g, graph_lib.Views):
        return _moment_of_views(z, g, loops)
    return _moment(loops, z, g)


def _moment_of_views(z: Array, g: graph_lib.Views, loops: bool) -> Array:
    """Products of N / V rows for two views, where a graph in general has N."""
    # Slices, not a reshape: XLA sees through them to the blocks that z was concatenated from.
    z_v = jnp.split(z if g.scale is None else g.scale[:, None] * z, g.views)
    if loops and g.joins == "all":
        return second_moment(sum(z_v[1:], start=z_v[0]))
    c, later = jnp.zeros((z.shape[1],) * 2, z.dtype), z_v[-1]
    for view in reversed(z_v[:-1]):
        c += view.T @ later
        later += view
    return {"all": c + c.T, "later": c, "earlier": c.T}[g.joins]


@jax.custom_vjp
def second_moment(x: Array) -> Array:
    """[K, K] X^T X."""
    return x.T @ x


def _second_moment_bwd(x: Array, cotangent: Array) -> tuple[Array]:
    return (x @ (cotangent + cotangent.T),)


second_moment.defvjp(lambda x: (x.T @ x, x), _second_moment_bwd)


def _alike(loops: bool, z: Array, g: graph_lib.Graph) -> Array:
    """[N, K] G @ z, with or without the self-loops."""
    return g.matmul(z) if loops else g.matmul(z) - g.diagonal()[:, None] * z


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _moment(loops: bool, z: Array, g: graph_lib.Graph) -> Array:
    return z.T @ _alike(loops, z, g)


def _moment_fwd(loops: bool, z: Array, g: graph_lib.Graph) -> Any:
    alike = _alike(loops, z, g)
    return z.T @ alike, (z, alike, g)


def _moment_bwd(loops: bool, residual: Any, cotangent: Array) -> Any:
    z, alike, g = residual
    if isinstance(g, graph_lib.Groups):  # symmetric: one product of N K^2 where autodiff needs two
        gradient = alike @ (cotangent + cotangent.T)
    else:
        gradient = alike @ cotangent.T + _alike(loops, z, g.T) @ cotangent
    _, pull_back = jax.vjp(lambda g: z.T @ _alike(loops, z, g), g)
    return gradient, *pull_back(cotangent)


_moment.defvjp(_moment_fwd, _moment_bwd)
