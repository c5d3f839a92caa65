"""What the losses share about rows: their dtype, their blocks, and the norm of their covariance."""

import jax
import jax.numpy as jnp

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
