"""convolution.py against float64 NumPy, and what it is compiled to."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pal_jax.convolution import convolve

CASES = [
    (1, 1, 16, (8, 8)),
    (1, 2, 32, (5, 8)),
    (3, 1, 16, (8, 8)),
    (3, 1, 16, (7, 4)),
    (3, 1, 32, (1, 5)),
    (3, 1, 3, (8, 6)),
    (3, 2, 16, (8, 8)),
    (3, 2, 16, (7, 5)),
    (3, 2, 3, (6, 6)),
    (7, 2, 3, (9, 12)),
    (7, 1, 16, (6, 4)),
]


def reference(x, kernel, dy, stride):
    """(output, gradient of x, gradient of the kernel), pixel by pixel of the kernel."""
    x, kernel, dy = (np.asarray(a, np.float64) for a in (x, kernel, dy))
    side = len(kernel)
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    high, wide = (-(-size // stride) for size in x.shape[1:3])
    y = np.zeros((len(x), high, wide, kernel.shape[-1]))
    dx, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in itertools.product(range(side), repeat=2):
        seen = (
            slice(None),
            slice(i, i + stride * high, stride),
            slice(j, j + stride * wide, stride),
        )
        pixels = padded[seen][:, :high, :wide]
        y += np.einsum("nhwc,ck->nhwk", pixels, kernel[i, j])
        if dy.shape == y.shape:
            dkernel[i, j] = np.einsum("nhwc,nhwk->ck", pixels, dy)
            dx[seen][:, :high, :wide] += np.einsum("nhwk,ck->nhwc", dy, kernel[i, j])
    edge = side // 2
    return y, dx[:, edge : edge + x.shape[1], edge : edge + x.shape[2]], dkernel


def arrays(side, stride, channels, size, outputs=24):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *size, channels)).astype(np.float32)
    kernel = rng.standard_normal((side, side, channels, outputs)).astype(np.float32)
    dy = rng.standard_normal((3, -(-size[0] // stride), -(-size[1] // stride), outputs))
    return x, kernel, dy.astype(np.float32)


def value_and_gradients(x, kernel, dy, stride):
    y, backward = jax.vjp(functools.partial(convolve, stride=stride), x, kernel)
    return y, *backward(dy)


def compiled_text(x, kernel, dy, stride):
    both = jax.jit(functools.partial(value_and_gradients, stride=stride))
    return both.lower(x, kernel, dy).compile().as_text() or ""


@pytest.mark.parametrize(("side", "stride", "channels", "size"), CASES)
def test_output_and_gradients_are_those_of_float64(side, stride, channels, size):
    x, kernel, dy = arrays(side, stride, channels, size)
    here = jax.jit(functools.partial(value_and_gradients, stride=stride))(x, kernel, dy)
    for ours, exact in zip(here, reference(x, kernel, dy, stride), strict=True):
        assert ours.dtype == np.float32
        assert np.abs(ours - exact).max() < 2e-6 * np.abs(exact).max()


def test_a_3x3_convolution_is_products_alone_on_cpus():
    text = compiled_text(*arrays(3, 1, 16, (8, 8)), stride=1)
    assert " convolution(" not in text
    assert " dot(" in text


def test_the_gradient_of_a_strided_kernel_is_no_convolution_on_cpus():
    text = compiled_text(*arrays(3, 2, 16, (8, 8)), stride=2)
    assert text.count(" convolution(") == 2  # the output and the gradient of x


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_get_convolutions_alone(platform):
    both = jax.jit(functools.partial(value_and_gradients, stride=1))
    text = both.trace(*arrays(3, 1, 16, (8, 8))).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot" not in text


def test_bfloat16_is_rounded_once():
    """Tiles add in the dtype of x, so that half precision would lose more than its rounding."""
    x, kernel, dy = (jnp.asarray(a, jnp.bfloat16) for a in arrays(3, 1, 32, (8, 8)))
    here = value_and_gradients(x, kernel, dy, 1)
    for ours, exact in zip(here, reference(x, kernel, dy, 1), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert np.abs(np.asarray(ours, np.float64) - exact).max() < 2**-8 * np.abs(exact).max()
