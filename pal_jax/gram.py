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


def _moment(z: Array, g: graph_lib.Graph) -> Array:
    """[K, K] sum_{i!=j} G_ij z_i z_j^T = Z^T G Z without the self-loops."""
    return z.T @ (g.matmul(z) - g.diagonal()[:, None] * z)


def _moment_fwd(z: Array, g: graph_lib.Graph) -> Any:
    alike = g.matmul(z) - g.diagonal()[:, None] * z
    return z.T @ alike, (z, alike, g)


def _moment_bwd(residual: Any, cotangent: Array) -> Any:
    z, alike, g = residual
    if isinstance(g, graph_lib.Groups):  # symmetric: one product of N K^2 where autodiff needs two
        gradient = alike @ (cotangent + cotangent.T)
    else:
        back = g.T.matmul(z) - g.diagonal()[:, None] * z
        gradient = alike @ cotangent.T + back @ cotangent
    _, pull_back = jax.vjp(functools.partial(_moment, z), g)
    return gradient, *pull_back(cotangent)


moment = jax.custom_vjp(_moment)
moment.defvjp(_moment_fwd, _moment_bwd)
