r"""Time and memory of the contrastive softmax without N x N, beside plain dense JAX.

    python -m benchmarks.memory                    # N = 8,192 and 32,768; two minutes on one core
    python -m benchmarks.memory --rows 65536
    python -m benchmarks.memory --temperature 0.01 # too cold for one shift: the running maximum

Value and gradient of SimCLR (two views, K = 128, float32) on one CPU core; `dense` is the same loss
with a logsumexp over all N x N, and autodiff. Every measurement is a process of its own: its memory
is the growth of the peak resident set from the moment the program is compiled and its input is
there. Seconds are the processor's, so that other work on the machine adds none.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time

WIDTH = 128
DENSE_BYTES = 9  # an entry of S that plain JAX needs at its peak: two arrays, and the rest


def resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(form: str, rows: int, repeats: int, temperature: float) -> dict[str, float]:
    """Best seconds and MiB of value and gradient, in this process and on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pal_jax import graph, losses

    def dense(z, g):
        x = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        s = x @ x.T / temperature
        positives = jnp.roll(jnp.arange(rows), rows // 2)
        s = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, s)
        return (jax.nn.logsumexp(s, axis=1) - s[jnp.arange(rows), positives]).mean()

    tiled = functools.partial(losses.simclr, temperature=temperature)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(rows, WIDTH)), jnp.float32)
    g = graph.from_views(rows // 2, 2)
    step = jax.jit(jax.value_and_grad({"dense": dense, "tiled": tiled}[form])).lower(z, g).compile()
    before = resident_mib()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(step(z, g))
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "mib": resident_mib() - before}


def measure_apart(form: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--form", form, "--rows", str(rows)]
    command += ["--repeats", str(options.repeats), "--temperature", str(options.temperature)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the contrastive softmax.")
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--form", choices=["dense", "tiled"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(
            json.dumps(measure(options.form, options.rows[0], options.repeats, options.temperature))
        )
        return

    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    print("   rows  dense s  tiled s  ratio  dense MiB  tiled MiB")
    for rows in options.rows:
        tiled = measure_apart("tiled", rows, options)
        dense = dict.fromkeys(tiled, float("nan"))  # where it does not fit
        if DENSE_BYTES * rows**2 < available:
            dense = measure_apart("dense", rows, options)
        ratio = tiled["seconds"] / dense["seconds"]
        print(
            f"{rows:>7} {dense['seconds']:>8.2f} {tiled['seconds']:>8.2f} {ratio:>6.2f}"
            f" {dense['mib']:>10.0f} {tiled['mib']:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
