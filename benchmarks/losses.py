r"""Value and gradient of each loss: time beside lightly's PyTorch losses and beside the floor.

    pip install lightly torch          # optional; without them the columns of lightly stay empty
    python -m benchmarks.losses        # a minute on one core
    python -m benchmarks.losses --only vicreg

One process, one core, float32, two views as group ids; ours and lightly's in turn, the best of
each. The floor is the time of the matrix products that the loss cannot do without, at the measured
rate of a 1024^3 product. The spectral loss stands beside its definition, which is N x N.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX and torch count the cores

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from pal_jax import graph, losses, spectral  # noqa: E402

Step = Callable[[], Any]
PLAIN = "plain N x N"  # a peer of our own: the definition as one would type it


class Case(NamedTuple):
    name: str
    samples: int
    width: int
    loss: Callable[..., jax.Array]  # (z, graph)
    flops: Callable[[int, int], float]  # of the needed products, for n samples of width k
    peer: str  # lightly's class, or PLAIN


def plain_spectral(z: jax.Array, g: jax.Array) -> jax.Array:
    return jnp.square(z @ z.T - g).sum()


def vicreg_flops(n: int, k: int) -> float:
    return 2 * 2 * 2 * n * k * min(n, k)  # two views; the moment and its gradient


def simclr_flops(n: int, k: int) -> float:
    return 3 * (2 * n) ** 2 * k  # half of S, since it is symmetric, and its gradient


def barlow_twins_flops(n: int, k: int) -> float:
    return 3 * 2 * n * k * k  # C, and the gradients of its two sides


def spectral_flops(n: int, k: int) -> float:
    return 2 * 2 * (2 * n) * k * k


def vicreg(z: jax.Array, g: graph.GraphLike) -> jax.Array:
    return losses.vicreg(z, g, views=2)


def barlow_twins(z: jax.Array, g: graph.GraphLike) -> jax.Array:
    return losses.barlow_twins(z, g, views=2)


CASES = [
    *(Case("vicreg", n, 128, vicreg, vicreg_flops, "VICRegLoss") for n in (256, 1024, 4096)),
    *(
        Case("vicreg", n, k, vicreg, vicreg_flops, "VICRegLoss")
        for n, k in ((1024, 2048), (256, 2048), (256, 8192))
    ),
    *(Case("simclr", n, 128, losses.simclr, simclr_flops, "NTXentLoss") for n in (256, 1024, 4096)),
    *(
        Case("barlow_twins", n, k, barlow_twins, barlow_twins_flops, "BarlowTwinsLoss")
        for n, k in ((256, 128), (4096, 128), (1024, 2048))
    ),
    Case("spectral", 2048, 128, spectral.spectral_contrastive, spectral_flops, PLAIN),
]


def best(steps: list[Step], budget: float) -> list[float]:
    """Least seconds of each step, called in turn until `budget` seconds are over."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times[0]) < 3:
        for step, seconds in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]


def jax_step(loss: Callable[..., jax.Array], z: np.ndarray, g: Any) -> Step:
    step, rows = jax.jit(jax.value_and_grad(loss)), jnp.asarray(z)
    return lambda: jax.block_until_ready(step(rows, g))


def lightly_losses() -> dict[str, Callable[[], Any]]:
    """Name -> lightly's loss, or nothing where lightly is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from lightly import loss as lightly_loss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    torch.set_num_threads(1)
    names = {case.peer for case in CASES if case.peer != PLAIN}
    return {name: getattr(lightly_loss, name) for name in names}


def torch_step(loss: Any, z: np.ndarray) -> Step:
    import torch  # pyright: ignore[reportMissingImports]

    a, b = (torch.tensor(view, requires_grad=True) for view in np.split(z, 2))

    def step() -> None:
        a.grad = b.grad = None
        loss(a, b).backward()

    return step


def sgemm_rate() -> float:
    """Floating-point operations a second of a float32 product of 1024 x 1024 matrices."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    return 2 * 1024**3 / best([lambda: jax.block_until_ready(product(x, x))], 0.5)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of each loss beside lightly's.")
    parser.add_argument("--only", default="", help="a loss: vicreg, simclr, ...")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    options = parser.parse_args()
    peers, rate = lightly_losses(), sgemm_rate()
    print(f"sgemm {rate / 1e9:.0f} GFLOP/s; jax {jax.__version__}; times in ms")
    print("loss          samples width     ours  lightly  ratio  floor  ours/floor")
    for case in CASES:
        if options.only not in case.name:
            continue
        z = np.random.default_rng(0).normal(size=(2 * case.samples, case.width))
        z, g = z.astype(np.float32), graph.from_views(case.samples, 2)
        steps = [jax_step(case.loss, z, g)]
        if case.peer == PLAIN:
            steps.append(jax_step(plain_spectral, z, g.dense()))
        elif case.peer in peers:
            steps.append(torch_step(peers[case.peer](), z))
        ours, *peer = [1e3 * seconds for seconds in best(steps, options.seconds)]
        floor = 1e3 * case.flops(case.samples, case.width) / rate
        theirs = f"{peer[0]:>8.2f} {ours / peer[0]:>6.3f}" if peer else f"{'-':>8} {'-':>6}"
        print(
            f"{case.name:<13} {case.samples:>7} {case.width:>5} {ours:>8.2f} {theirs}"
            f" {floor:>6.2f} {ours / floor:>11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
