r"""Time and memory of the contrastive softmax without N x N, beside plain dense JAX.

    python -m benchmarks.memory                    # N = 8,192 and 32,768; two minutes on one core
    python -m benchmarks.memory --rows 65536

Value and gradient of SimCLR (temperature 0.5, two views, K = 128, float32) on one CPU core, the two
forms in turn. Every measurement is a process of its own: its memory is the growth of the peak
resident set from the moment the program is compiled and its input is there.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

WIDTH = 128
DENSE_BYTES = 16  # bytes an entry of S that plain JAX needs at its peak


def resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(form: str, rows: int, repeats: int) -> dict[str, float]:
    """Best seconds and MiB of value and gradient, in this process and on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pal_jax import graph, losses, streaming

    if form == "dense":
        streaming.SIZES["cpu"] = (rows, rows)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(rows, WIDTH)), jnp.float32)
    g = graph.from_views(rows // 2, 2)
    step = jax.jit(jax.value_and_grad(losses.simclr)).lower(z, g).compile()
    before = resident_mib()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(step(z, g))
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "mib": resident_mib() - before}


def measure_apart(form: str, rows: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--form", form]
    command += ["--rows", str(rows), "--repeats", str(repeats)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the contrastive softmax.")
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--form", choices=["dense", "tiled"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.form, options.rows[0], options.repeats)))
        return

    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    print("   rows  dense s  tiled s  ratio  dense MiB  tiled MiB")
    for rows in options.rows:
        tiled = measure_apart("tiled", rows, options.repeats)
        dense = dict.fromkeys(tiled, float("nan"))  # where it does not fit
        if DENSE_BYTES * rows**2 < available:
            dense = measure_apart("dense", rows, options.repeats)
        ratio = tiled["seconds"] / dense["seconds"]
        print(
            f"{rows:>7} {dense['seconds']:>8.2f} {tiled['seconds']:>8.2f} {ratio:>6.2f}"
            f" {dense['mib']:>10.0f} {tiled['mib']:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
