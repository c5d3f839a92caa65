"""Convolutions whose gradients are fast on CPUs, too.

There XLA's gradient of a kernel takes much longer than the products in it. On CPUs, in float32, a
3x3 convolution of stride 1 is therefore made of 2x2 tiles (Winograd 1980; Lavin and Gray 2016,
F(2x2, 3x3)): sixteen products, in which an output costs four multiplications a channel instead of
nine, exact but for rounding (1e-6 of the largest output). The gradients of other small kernels are
one product a pixel of the kernel. All else is XLA's, as all is on other devices.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# One tile: y [2, 2] = A ((G k G') * (B x B')) A' for pixels x [4, 4] and a kernel k [3, 3].
_B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 1, 1, 0), (0, 1, -1, -1))
_CHANNELS = 16  # with fewer, products are too small to be worth the slices they are made of

Matrix = Sequence[Sequence[float]]
Grid = Sequence[Sequence[Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """x [n, H, W, C], kernel [s, s, C, K], s odd -> [n, ceil(H / stride), ceil(W / stride), K].

    Around the images are s // 2 zeros. On CPUs, the backward pass of 2x2 tiles keeps them: four
    times x, beside x itself.
    """
    output, _ = _for_cpus(x, kernel, stride)
    other = functools.partial(_direct, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=output, default=other)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    _, gradients = _for_cpus(*saved, stride)
    other = functools.partial(_direct_gradients, stride=stride)
    return jax.lax.platform_dependent(*saved, dy, cpu=gradients, default=other)


convolve.defvjp(_forward, _backward)


def _for_cpus(x: Array, kernel: Array, stride: int) -> tuple[Callable, Callable]:
    """(x, kernel) -> output, and (x, kernel, gradient of it) -> gradients."""
    side, _, channels, _ = kernel.shape
    output = functools.partial(_direct, stride=stride)
    if x.dtype != jnp.float32 or channels < _CHANNELS or side > 3:
        return output, functools.partial(_direct_gradients, stride=stride)
    if (side, stride) == (3, 1):
        return _tiled, _tiled_gradients
    return output, functools.partial(_sliced_gradients, stride=stride)


def _direct(x: Array, kernel: Array, *, stride: int) -> Array:
    edge = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(edge, edge)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _direct_gradients(x: Array, kernel: Array, dy: Array, *, stride: int) -> tuple[Array, Array]:
    return jax.vjp(functools.partial(_direct, stride=stride), x, kernel)[1](dy)


def _sliced_gradients(x: Array, kernel: Array, dy: Array, *, stride: int) -> tuple[Array, Array]:
    """As `_direct_gradients`, the kernel's from one product for each of its pixels."""
    (dx,) = jax.vjp(lambda x: _direct(x, kernel, stride=stride), x)[1](dy)
    side, high, wide = len(kernel), *dy.shape[1:3]
    pixels = _slices(x, side // 2, side, high, wide, stride)
    rows = dy.reshape(-1, dy.shape[-1])
    return dx, _stacked([[pixel.T @ rows for pixel in row] for row in pixels])


def _tiled(x: Array, kernel: Array, *, turned: bool = False) -> Array:
    """`convolve` for s = 3 and a stride of 1; `turned`, from [n, H, W, K] to [n, H, W, C]."""
    kernels = _both_sides(_G, [list(row) for row in kernel])
    if turned:  # after the sums: summing turned matrices takes much longer
        kernels = [[k.T for k in row] for row in kernels]
    products = [
        [tile @ k for tile, k in zip(*rows, strict=True)]
        for rows in zip(_tiles(x), kernels, strict=True)
    ]
    n, height, width, _ = x.shape
    y = _stacked(_both_sides(_A, products))
    y = y.reshape(2, 2, n, -(-height // 2), -(-width // 2), -1).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(n, 2 * y.shape[1], 2 * y.shape[3], -1)
    return y[:, :height, :width]


def _tiled_gradients(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """Of `_tiled`: dx [n, H, W, C] and dkernel [3, 3, C, K], for dy [n, H, W, K]."""
    dx = _tiled(dy, kernel[::-1, ::-1], turned=True)
    high, wide = -(-dy.shape[1] // 2), -(-dy.shape[2] // 2)
    outputs = _both_sides(_transposed(_A), _slices(dy, 0, 2, high, wide, 2))
    products = [
        # XLA takes these tiles from the forward pass, where they are computed the same way.
        [tile.T @ output for tile, output in zip(*rows, strict=True)]
        for rows in zip(_tiles(x), outputs, strict=True)
    ]
    return dx, _stacked(_both_sides(_transposed(_G), products))


def _tiles(x: Array) -> list[list[Array]]:
    """B x B' of all tiles, which are those of the 2x2 outputs: [4][4] of [tiles, C]."""
    high, wide = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    return _both_sides(_B, _slices(x, 1, 4, high, wide, 2))


def _slices(x: Array, edge: int, side: int, high: int, wide: int, stride: int) -> Grid:
    """Each pixel of the `high` x `wide` windows of x: [side][side] of [n high wide, C].

    Windows are `side` wide and begin `edge` before the image, `stride` apart; outside are zeros.
    """
    height, width, channels = x.shape[1:]
    reach = (stride * (high - 1) + side - edge, stride * (wide - 1) + side - edge)
    more = [(edge, max(0, end - size)) for end, size in zip(reach, (height, width), strict=True)]
    x = jnp.pad(x, ((0, 0), *more, (0, 0)))
    return [
        [
            x[
                :,
                i : i + stride * (high - 1) + 1 : stride,
                j : j + stride * (wide - 1) + 1 : stride,
            ].reshape(-1, channels)
            for j in range(side)
        ]
        for i in range(side)
    ]


def _both_sides(matrix: Matrix, grid: Grid) -> list[list[Array]]:
    """matrix grid matrix', where the entries of the grid are arrays of one shape."""
    left = [[_weighted(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_weighted(row, entries) for row in matrix] for entries in left]


def _weighted(weights: Sequence[float], parts: Sequence[Array]) -> Array:
    """Sum of weight times part.

    Written out, so that the zeros cost nothing and one loop makes what a product needs.
    """
    terms = [np.float32(w) * part for w, part in zip(weights, parts, strict=True) if w]
    return functools.reduce(jnp.add, terms)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _stacked(grid: Grid) -> Array:
    """The grid's entries as one array [rows, columns, ...]."""
    return jnp.stack([jnp.stack(row) for row in grid])
