r"""Value and gradient of each loss: time beside lightly's PyTorch losses and beside the floor.

    pip install lightly torch          # optional; without them the columns of lightly stay empty
    python -m benchmarks.losses        # two minutes on one core
    python -m benchmarks.losses --only vicreg

One process, one core, float32, two views (`graph.from_views`); the columns in turn, in any order,
and the best of each. Seconds are the processor's, so that other work on the machine adds none:

    ours       the loss on the two-view graph
    two views  the same loss as code for two views and nothing else, on the same products
    ids        the loss on group ids, known at run time only, as in a train step
    lightly    or, for the spectral loss, its definition, which is N x N
    floor      the matrix products that the loss cannot do without, at the rate of a 1024^3 product
"""

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX and torch count the cores

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from pal_jax import gram, graph, losses, spectral, streaming  # noqa: E402

Array = jax.Array
Step = Callable[[], Any]
PLAIN = "plain N x N"  # a peer of our own: the definition as one would type it


class Loss(NamedTuple):
    ours: Callable[..., Array]  # (z, graph)
    two_views: Callable[[Array], Array]  # of z: the same value without a graph
    flops: Callable[[int, int], float]  # of the needed products, for n samples of width k
    peer: str = ""  # lightly's class, or PLAIN
    directed: bool = False


def halves(z: Array) -> tuple[Array, Array]:
    return z[: len(z) // 2], z[len(z) // 2 :]


def vicreg(z: Array, g: graph.GraphLike) -> Array:
    return losses.vicreg(z, g, views=2)


def vicreg_of_two_views(z: Array) -> Array:
    a, b = halves(z)
    n, k = a.shape
    loss = 25 * jnp.square(a - b).mean()
    for view in (a, b):
        off_diagonal, diagonal = gram.scatter(view)
        std = jnp.sqrt(diagonal / (n - 1) + 1e-4)
        loss += 12.5 * jnp.maximum(0, 1 - std).mean() + off_diagonal / (n - 1) ** 2 / k
    return loss


def simclr_of_two_views(z: Array) -> Array:
    x = z * jnp.sqrt(2 / jnp.square(z).sum(axis=1, keepdims=True))  # temperature 0.5
    a, b = halves(x)
    return streaming.log_sums(x, 2.0).mean() - 2 * (a * b).sum() / len(z)


def barlow_twins(z: Array, g: graph.GraphLike) -> Array:
    return losses.barlow_twins(z, g, views=2)


def barlow_twins_of_two_views(z: Array) -> Array:
    def standardised(view: Array) -> Array:
        view = view - view.mean(axis=0, keepdims=True)
        return view * jax.lax.rsqrt(jnp.square(view).mean(axis=0, keepdims=True) + 1e-5)

    a, b = map(standardised, halves(z))
    c = a.T @ b / len(a)
    off = jnp.square(gram.without_diagonal(c)).sum()
    return jnp.square(1 - jnp.diagonal(c)).sum() + 5e-3 * off


def spectral_of_two_views(z: Array) -> Array:
    a, b = halves(z)
    pull = jnp.square(z).sum() + 2 * (a * b).sum()
    return gram.squared_norm(z) - 2 * pull + 2 * len(z)


def plain_spectral(z: Array, g: Array) -> Array:
    return jnp.square(z @ z.T - g).sum()


def vicreg_squared_of_two_views(z: Array) -> Array:
    (a, b), (n, k) = halves(z), z.shape
    whiten = gram.squared_norm(z) / n**2 - 2 * jnp.square(z).sum() / n + k
    return whiten + 2 * jnp.square(a - b).sum() / n


def barlow_twins_squared_of_two_views(z: Array) -> Array:
    a, b = halves(z)
    return jnp.square(gram.second_moment(a + b) / len(z) - jnp.eye(z.shape[1])).sum()


LOSSES = {
    "vicreg": Loss(
        vicreg,
        vicreg_of_two_views,
        lambda n, k: 2 * 2 * 2 * n * k * min(n, k),  # of each view the moment and its gradient
        "VICRegLoss",
    ),
    "simclr": Loss(
        losses.simclr,
        simclr_of_two_views,
        lambda n, k: 3 * (2 * n) ** 2 * k,  # half of S, which is symmetric, and its gradient
        "NTXentLoss",
    ),
    "barlow_twins": Loss(
        barlow_twins,
        barlow_twins_of_two_views,
        lambda n, k: 3 * 2 * n * k * k,  # C, and the gradients of its two sides
        "BarlowTwinsLoss",
        directed=True,
    ),
    "spectral_contrastive": Loss(
        spectral.spectral_contrastive,
        spectral_of_two_views,
        lambda n, k: 2 * 2 * (2 * n) * k * k,
        PLAIN,
    ),
    "vicreg_squared": Loss(
        spectral.vicreg_squared, vicreg_squared_of_two_views, lambda n, k: 2 * 2 * (2 * n) * k * k
    ),
    "barlow_twins_squared": Loss(
        spectral.barlow_twins_squared,
        barlow_twins_squared_of_two_views,
        lambda n, k: 2 * 2 * n * k * k,
    ),
}
CASES = [
    *(("vicreg", n, 128) for n in (256, 1024, 4096)),
    *(("vicreg", n, k) for n, k in ((1024, 2048), (256, 2048), (256, 8192))),
    *(("simclr", n, 128) for n in (256, 512, 1024, 4096)),
    *(("barlow_twins", n, k) for n, k in ((256, 128), (4096, 128), (1024, 2048))),
    ("spectral_contrastive", 2048, 128),
    ("vicreg_squared", 2048, 128),
    ("barlow_twins_squared", 2048, 128),
]


def best(steps: list[Step], budget: float) -> list[float]:
    """Least seconds of each step, called in turn until `budget` seconds are over.

    The order is drawn anew each time: a step finds in the cache what the one before it left there.
    """
    for step in steps:
        step()
    least, order = [float("inf")] * len(steps), random.Random(0)
    end, rounds = time.perf_counter() + budget, 0
    while time.perf_counter() < end or rounds < 3:
        rounds += 1
        for i in order.sample(range(len(steps)), len(steps)):
            start = time.process_time()
            steps[i]()
            least[i] = min(least[i], time.process_time() - start)
    return least


def jax_step(loss: Callable[..., Array], *args: Any) -> Step:
    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(*args))


def lightly_losses() -> dict[str, Callable[[], Any]]:
    """Name -> lightly's loss, or nothing where lightly is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from lightly import loss as lightly_loss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    torch.set_num_threads(1)
    names = {loss.peer for loss in LOSSES.values()} - {PLAIN, ""}
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


def measure(
    loss: Loss, samples: int, width: int, peers: dict[str, Callable[[], Any]], budget: float
) -> list[float]:
    """Milliseconds of ours, the two-view code, group ids and, where there is one, the peer."""
    z = np.random.default_rng(0).normal(size=(2 * samples, width)).astype(np.float32)
    rows, g = jnp.asarray(z), graph.from_views(samples, 2, directed=loss.directed)
    ids = graph.from_groups(np.tile(np.arange(samples), 2))
    np.testing.assert_allclose(loss.ours(rows, g), loss.two_views(rows), rtol=1e-4)
    steps = [
        jax_step(loss.ours, rows, g),
        jax_step(loss.two_views, rows),
        jax_step(loss.ours, rows, ids),
    ]
    if loss.peer == PLAIN:
        steps.append(jax_step(plain_spectral, rows, g.dense()))
    elif loss.peer in peers:
        steps.append(torch_step(peers[loss.peer](), z))
    return [1e3 * seconds for seconds in best(steps, budget)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of each loss beside lightly's.")
    parser.add_argument("--only", default="", help="a loss: vicreg, simclr, ...")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each line")
    options = parser.parse_args()
    peers, rate = lightly_losses(), sgemm_rate()
    print(f"sgemm {rate / 1e9:.0f} GFLOP/s; jax {jax.__version__}; times in ms, ratios of ours")
    print("loss                 samples width     ours  two views  ratio      ids", end="")
    print("   lightly  ratio   floor  ratio")
    for name, samples, width in CASES:
        if not name.startswith(options.only):
            continue
        loss = LOSSES[name]
        ours, two_views, ids, *peer = measure(loss, samples, width, peers, options.seconds)
        floor = 1e3 * loss.flops(samples, width) / rate
        theirs = f"{peer[0]:>9.2f} {ours / peer[0]:>6.3f}" if peer else f"{'-':>9} {'-':>6}"
        print(
            f"{name:<20} {samples:>7} {width:>5} {ours:>8.2f} {two_views:>10.2f}"
            f" {ours / two_views:>6.2f} {ids:>8.2f} {theirs} {floor:>7.2f} {ours / floor:>6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
