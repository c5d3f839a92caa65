r"""Images a second of a whole training step, beside a plain PyTorch step that does the same work.

    pip install torch torchvision      # optional; without them the peer's columns stay empty
    python -m benchmarks.train_step    # two minutes on one core
    python -m benchmarks.train_step --only resnet18

VICReg, two views, AdamW, float32, one process, one core; ours and PyTorch's in turn, the best of
each, in CPU time. `step` starts from augmented views; `all` starts from uint8 images, which the
peer augments with torchvision, image by image. share: of the measured rate of a matrix product, by
XLA's count of the step's operations. compile: CPU seconds. MiB: memory of our step beside its
arguments. Below, what the time of a step goes to.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX and torch count the cores

from pal_jax import memory  # noqa: E402

memory.use_huge_pages()  # as main.py does; PyTorch's step gains, too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from pal_jax import graph as graph_lib  # noqa: E402
from pal_jax import losses, models, train, views  # noqa: E402

Step = Callable[[], Any]
PROJECTOR = (256, 2, 128)
MOMENTS = {"mean": 0.5, "std": 0.25}
COLOUR = {"crop": 0.8, "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
COLOUR |= {"hue": 0.1, "grayscale": 0.2}
GREY = {"rotate": 15.0, "zoom": 0.15, "shift": 1.0}


class Case(NamedTuple):
    name: str
    encoder: str
    side: int
    channels: int
    samples: int
    strengths: dict[str, float]


CASES = (
    Case("convnet 8x8", "convnet", 8, 1, 256, GREY),
    Case("convnet 32x32", "convnet", 32, 3, 256, COLOUR),
    Case("resnet18 32x32", "resnet18", 32, 3, 32, COLOUR),
)


def best(steps: dict[str, Step], budget: float) -> dict[str, float]:
    """Least CPU seconds of each step, called in turn until `budget` of them are over.

    On the one core that all threads share, CPU time is what an idle machine would take. Each is
    called twice and timed the second time: the first call pays for memory that the step before it
    gave back.
    """
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.process_time() + budget
    while time.process_time() < end or min(map(len, times.values())) < 3:
        for name, step in steps.items():
            step()
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: min(seconds) for name, seconds in times.items()}


class Ours:
    """The step of train.py on one device, and its parts."""

    def __init__(self, case: Case):
        rng = np.random.default_rng(0)
        shape = (case.samples, case.side, case.side, case.channels)
        self.images = rng.integers(0, 256, shape).astype(np.uint8)
        moments = {name: np.full(case.channels, value) for name, value in MOMENTS.items()}
        self.views = functools.partial(views.image_views, count=2, **moments, **case.strengths)
        self.key = jax.random.key(0)
        self.x = jax.jit(self.views)(self.key, self.images)
        self.model = models.build(case.encoder, projector=PROJECTOR)
        self.optimizer = optax.adamw(1e-3, weight_decay=1e-4)
        self.variables = jax.jit(self.model.init)(self.key, self.x)
        self.groups = np.arange(case.samples, dtype=np.int32)

    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    def compiled(self, make_views: Callable[..., jax.Array]) -> tuple[Any, float]:
        """(the compiled step, seconds it took to compile)."""
        step = functools.partial(
            train.train_step,
            views=make_views,
            apply=self.model.apply,
            loss=functools.partial(losses.vicreg, views=2),
            optimizer=self.optimizer,
        )
        arguments = (self.state(), self.key, self.images, self.groups)
        start = time.process_time()
        compiled = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
        return compiled, time.process_time() - start

    def state(self) -> train.TrainState:
        variables = jax.tree.map(jnp.array, self.variables)
        opt_state = self.optimizer.init(variables["params"])
        zero = jnp.zeros((), jnp.int32)
        return train.TrainState(zero, variables["params"], variables["batch_stats"], opt_state)

    def runner(self, compiled: Any) -> Step:
        held = [self.state()]

        def run() -> None:
            held[0], metrics = compiled(held[0], self.key, self.images, self.groups)
            jax.block_until_ready(metrics)

        return run

    def parts(self) -> dict[str, Step]:
        """views; forward with the loss; forward and backward."""
        views_only = jax.jit(self.views)

        def value(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": self.variables["batch_stats"]}
            _, z, batch_stats = self.model.apply(variables, x, train=True)
            graph = graph_lib.from_groups(jnp.tile(jnp.asarray(self.groups), 2))
            return losses.vicreg(z, graph, views=2), batch_stats

        forward, gradient = jax.jit(value), jax.jit(jax.grad(value, has_aux=True))
        params = self.variables["params"]
        return {
            "views": lambda: jax.block_until_ready(views_only(self.key, self.images)),
            "forward": lambda: jax.block_until_ready(forward(params, self.x)),
            "gradient": lambda: jax.block_until_ready(gradient(params, self.x)),
        }


def peer_steps(case: Case, ours: Ours) -> dict[str, Step]:
    """PyTorch's step, whole and in parts, or nothing where torch and torchvision are missing."""
    try:
        from benchmarks import torch_peer

        augment = torch_peer.augmentation(case.side, case.channels, case.strengths)
    except ImportError:
        return {}
    peer = torch_peer.Peer(case.encoder, case.side, case.channels, PROJECTOR)
    assert peer.parameters() == ours.parameters(), "not the same net"
    x = torch_peer.channels_last(np.asarray(ours.x))
    return {
        "torch step": lambda: peer.step(x),
        "torch all": lambda: peer.step(augment(ours.images)),
        "torch views": lambda: augment(ours.images),
        "torch forward": lambda: peer.forward(x),
        "torch gradient": lambda: peer.gradient(x),
    }


def sgemm_rate() -> float:
    """Floating-point operations a second of a float32 product of 1024 x 1024 matrices."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    return 2 * 1024**3 / best({"": lambda: jax.block_until_ready(product(x, x))}, 0.5)[""]


def measure(case: Case, seconds: float, rate: float) -> tuple[str, list[str]]:
    """The line of one case, and the lines of what its time goes to."""
    ours = Ours(case)
    x = ours.x
    bare, compile_seconds = ours.compiled(lambda key, images: x)
    whole, _ = ours.compiled(ours.views)
    steps = {"step": ours.runner(bare), "all": ours.runner(whole)}
    times = best(steps | ours.parts() | peer_steps(case, ours), seconds)
    share = bare.cost_analysis()["flops"] / times["step"] / rate
    cells = []
    for name in ("step", "all"):
        here = case.samples / times[name]
        there = times.get(f"torch {name}")
        cells += [f"{here:>8.0f}"]
        cells += [
            f"{case.samples / there:>8.0f} {there / times[name]:>6.2f}" if there else " -" * 7
        ]
    mebibytes = bare.memory_analysis().temp_size_in_bytes / 2**20
    line = f"{case.name:<15} {case.samples:>5} {''.join(cells)} {share:>6.2f}"
    line += f" {compile_seconds:>8.1f} {mebibytes:>6.0f}"
    rows = []
    for who in ("", "torch "):
        if f"{who}step" in times:
            t = {name: times[f"{who}{name}"] for name in ("views", "forward", "gradient", "step")}
            parts = (t["views"], t["forward"], t["gradient"] - t["forward"])
            parts += (t["step"] - t["gradient"],)
            name = who.strip() or "ours"
            rows.append(f"{case.name:<15} {name:<6}" + "".join(f"{1e3 * p:>10.1f}" for p in parts))
    return line, rows


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step beside PyTorch's.")
    parser.add_argument("--only", default="", help="a case: convnet, resnet18, ...")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case")
    options = parser.parse_args()
    rate = sgemm_rate()
    print(f"sgemm {rate / 1e9:.0f} GFLOP/s; jax {jax.__version__}; samples/s, one core")
    print(
        "case            batch    step   torch  ratio     all   torch  ratio  share  compile    MiB"
    )
    below = []
    for case in CASES:
        if options.only in case.name:
            line, rows = measure(case, options.seconds, rate)
            print(line, flush=True)
            below += rows
    print("\nms              who        views   forward  backward    update")
    print("\n".join(below))


if __name__ == "__main__":
    main()
