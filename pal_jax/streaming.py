"""The losses that need all N x N similarities, without N x N memory.

Similarities are s_ij = x_i . x_j of given rows x; a temperature is x / sqrt(temperature).

`log_sums` is the normaliser of the contrastive softmax. S is symmetric, so one B x B tile serves
the rows i and the rows j, forward and backward: half of the products, N^2 time, O(N K) memory.
`sum_rows` is for whatever needs S and G side by side: B rows of both at a time, recomputed in the
backward pass; O(B N) memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pal_jax import graph as graph_lib

Array = jax.Array

# By backend: up to so many rows N x N is formed at once; beyond, tiles of so many rows. On a CPU
# 128 x 128 stay in a core's cache, and 2048 x 2048 are 16 MiB, which spare the backward pass the
# products and exponentials of the tiles. An accelerator needs larger products, and splits a dense
# N x N over its devices, where every device works through all the tiles.
SIZES = {"cpu": (2048, 128), "other": (8192, 2048)}
STRIP_ENTRIES = 2**22  # of a block of rows: 16 MiB in float32

# exp(2 bound) must be finite in float32 for one shift to serve every row; log of its range is 88.
_LARGEST_BOUND = 40.0
_NOTHING = -1e30  # the log of 0, but finite: -inf would make the gradient of an empty sum NaN


def log_sums(x: Array, bound: float | None = None) -> Array:
    """[N] log sum_{k!=i} exp(x_i . x_k): dense for few rows, in tiles beyond (`SIZES`).

    Args:
        x: [N, K] floating, N at least 2.
        bound: a number that no |x_i . x_k| exceeds, if one is known. Below 40 one constant replaces
            the running maximum of each row, which saves an exponential a pair.
    """
    dense_rows, tile = SIZES.get(jax.default_backend(), SIZES["other"])
    bound = bound if bound is not None and bound < _LARGEST_BOUND else None
    if len(x) <= dense_rows:
        return dense_log_sums(x, bound)
    return tiled_log_sums(x, bound, tile)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def dense_log_sums(x: Array, bound: float | None) -> Array:
    """`log_sums` from all N x N at once. Reverse-mode only."""
    return _dense(x, bound)[0]


def _dense(x: Array, bound: float | None) -> tuple[Array, tuple[Array, Array, Array]]:
    s = jnp.where(jnp.eye(len(x), dtype=bool), _NOTHING, x @ x.T)
    shift = s.max(axis=1, keepdims=True) if bound is None else jnp.full((len(x), 1), bound, x.dtype)
    e = jnp.exp(s - shift)
    sums = e.sum(axis=1)
    return shift[:, 0] + jnp.log(sums), (x, e, sums)


def _dense_bwd(
    bound: float | None, residual: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array]:
    """d x_i = sum_j (c_i p_ij + c_j p_ji) x_j, p_ij = e_ij / sums_i."""
    x, e, sums = residual
    c = cotangent / sums
    if bound is not None:  # one shift: e is symmetric, so one product serves both terms
        return ((e * (c[:, None] + c[None, :])) @ x,)
    p = c[:, None] * e
    return (p @ x + p.T @ x,)


dense_log_sums.defvjp(_dense, _dense_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def tiled_log_sums(x: Array, bound: float | None, tile: int) -> Array:
    """`log_sums` in tiles of `tile` rows. Reverse-mode only; not meant to be split over devices."""
    return _forward(x, bound, tile)[0]


def _forward(x: Array, bound: float | None, tile: int) -> tuple[Array, tuple[Array, Array]]:
    blocks, real = _blocks(x, tile)
    visit = _add_shifted if bound is not None else _add_online

    def step(carry: Any, pair: Array) -> tuple[Any, None]:
        return visit(carry, pair, blocks, real, bound), None

    shape = real.shape
    start = (jnp.full(shape, bound or _NOTHING, x.dtype), jnp.zeros(shape, x.dtype))
    (shift, sums), _ = jax.lax.scan(step, start, _pairs(len(blocks)))
    out = (shift + jnp.log(jnp.where(real > 0, sums, 1))).reshape(-1)[: len(x)]
    return out, (x, out)


def _add_shifted(carry: Any, pair: Array, blocks: Array, real: Array, bound: Any) -> Any:
    """Adds a tile's exponentials to the sums of its rows and of its columns, one shift for all."""
    shift, sums = carry
    i, j = pair
    e = jnp.exp(_similarities(blocks, i, j) - bound)
    # Products with 0 and 1 leave out the padding, and keep XLA from computing e once a sum.
    sums = sums.at[i].add(e @ real[j])
    return shift, sums.at[j].add(jnp.where(i == j, 0, real[i] @ e))


def _add_online(carry: Any, pair: Array, blocks: Array, real: Array, bound: Any) -> Any:
    """The same with the largest similarity so far of each row as its shift."""
    del bound
    i, j = pair
    s = _similarities(blocks, i, j)
    s = jnp.where((real[i][:, None] * real[j][None, :]) > 0, s, _NOTHING)
    carry = _raise_shift(carry, i, s)
    transposed = jnp.where(i == j, _NOTHING, s.T)  # a tile on the diagonal was just counted
    return _raise_shift(carry, j, transposed)


def _raise_shift(carry: Any, i: Array, s: Array) -> Any:
    shift, sums = carry
    new = jnp.maximum(shift[i], s.max(axis=1))
    e = jnp.where(s > _NOTHING, jnp.exp(s - new[:, None]), 0)
    total = sums[i] * jnp.exp(shift[i] - new) + e.sum(axis=1)
    return shift.at[i].set(new), sums.at[i].set(total)


def _backward(
    bound: float | None, tile: int, residual: tuple[Array, Array], cotangent: Array
) -> tuple[Array]:
    """d x_i = sum_j (c_i p_ij + c_j p_ji) x_j, p_ij = exp(s_ij - out_i): symmetric in i and j."""
    x, out = residual
    blocks, real = _blocks(x, tile)
    shape = real.shape
    c = _padded(cotangent, tile).reshape(shape)
    log_sum = _padded(out, tile).reshape(shape)

    def weights(i: Array, j: Array) -> Array:
        s = _similarities(blocks, i, j)
        if bound is not None:
            per_row = c * jnp.exp(bound - log_sum)
            return jnp.exp(s - bound) * (per_row[i][:, None] + per_row[j][None, :])
        there = (real[i][:, None] * real[j][None, :]) > 0  # elsewhere exp could overflow
        s = jnp.where(there, s, _NOTHING)
        rows = c[i][:, None] * jnp.exp(s - log_sum[i][:, None])
        return rows + c[j][None, :] * jnp.exp(s - log_sum[j][None, :])

    def step(dx: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        w = weights(i, j)
        dx = dx.at[i].add(w @ blocks[j])
        return dx.at[j].add(jnp.where(i == j, 0, w.T @ blocks[i])), None

    dx, _ = jax.lax.scan(step, jnp.zeros_like(blocks), _pairs(len(blocks)))
    return (dx.reshape(-1, x.shape[1])[: len(x)],)


tiled_log_sums.defvjp(_forward, _backward)


def _similarities(blocks: Array, i: Array, j: Array) -> Array:
    """[B, B] similarities of two blocks of rows; a row's similarity with itself is -1e30."""
    s = blocks[i] @ blocks[j].T
    return jnp.where((i == j) & jnp.eye(len(s), dtype=bool), _NOTHING, s)


def _blocks(x: Array, tile: int) -> tuple[Array, Array]:
    """[blocks, tile, K] rows, padded with zeros, and [blocks, tile] 1 where a row is real."""
    rows = _padded(x, tile)
    real = jnp.arange(len(rows)) < len(x)
    return rows.reshape(-1, tile, x.shape[1]), real.astype(x.dtype).reshape(-1, tile)


def _padded(x: Array, tile: int) -> Array:
    return jnp.pad(x, [(0, -len(x) % tile)] + [(0, 0)] * (x.ndim - 1))


def _pairs(blocks: int) -> Array:
    """[blocks (blocks + 1) / 2, 2] all pairs i <= j."""
    return jnp.asarray(np.stack(np.triu_indices(blocks), axis=1), jnp.int32)


# (similarities [B, N], rows of the graphs [B, N] each, others [B, N] bool: not the row itself,
# row ids [B]) -> values to add up, each [B]
RowFunction = Callable[[Array, list[Array], Array, Array], tuple[Array, ...]]


def sum_rows(f: RowFunction, x: Array, graphs: list[graph_lib.Graph]) -> tuple[Array, ...]:
    """Sums over all rows of what `f` makes of their similarities and their rows of the graphs.

    Args:
        f: of B rows at a time; must be finite for any of them, also in its gradient.
        x: [N, K] floating; similarities are x_i . x_j.
        graphs: of N rows each, in the dtype of x.

    Returns:
        One scalar for each value of f. At most max(N, STRIP_ENTRIES) entries of each [B, N] array
        exist at a time, in the backward pass too.
    """
    n = len(x)
    size = min(n, max(1, STRIP_ENTRIES // n))

    @jax.checkpoint
    def strip(start: Array) -> tuple[Array, ...]:
        rows = start + jnp.arange(size, dtype=jnp.int32)
        inside = rows < n
        s = x[jnp.minimum(rows, n - 1)] @ x.T
        others = rows[:, None] != jnp.arange(n, dtype=jnp.int32)[None, :]
        values = f(s, [g.block(start, size) for g in graphs], others, rows)
        return tuple(jnp.where(inside, value, 0).sum() for value in values)

    starts = jnp.arange(0, n, size, dtype=jnp.int32)
    return tuple(total.sum() for total in jax.lax.map(strip, starts))


def log_sum(s: Array, weights: Array) -> Array:
    """[B] log sum_k weights_ik exp(s_ik) over positive weights; about -1e30 if there is none."""
    known = ~(weights <= 0)  # so that NaN is kept
    return jax.nn.logsumexp(
        jnp.where(known, s + jnp.log(jnp.where(known, weights, 1)), _NOTHING), axis=1
    )
