r"""Images a second and core of each stage of the input, of made-up records or real ones.

    pip install torch torchvision      # optional; without them its column stays empty
    python -m benchmarks.input         # made-up JPEG records of ImageNet's size, a minute
    python -m benchmarks.input --data=tfds:imagenet2012 --data_dir=DIR

read: record files to the bytes of an image file. decode: those to the central square at --size.
views: two augmented views of a decoded image, compiled for the CPU; on an accelerator they cost the
host nothing. Stages are timed in turn and the best of each counts, in CPU time, so that other jobs
hardly matter. torchvision decodes and augments image by image, as its users do. workers: reading
and decoding as a run does them, through Grain.
"""

import argparse
import functools
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORES = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, CORES[:1])  # before JAX and torch count the cores

import jax  # noqa: E402
import numpy as np  # noqa: E402

from pal_jax import data, synthetic, views  # noqa: E402
from pal_jax.errors import UserError  # noqa: E402
from pal_jax.records import Records  # noqa: E402

Stage = Callable[[], Any]
STRENGTHS = {"crop": 0.92, "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2}
STRENGTHS |= {"hue": 0.1, "grayscale": 0.2}
BATCH = 32


def best(stages: dict[str, Stage], budget: float) -> dict[str, float]:
    """Least CPU seconds of each stage, called in turn until `budget` of them are over."""
    for stage in stages.values():
        stage()
    times: dict[str, list[float]] = {name: [] for name in stages}
    end = time.process_time() + budget
    while time.process_time() < end:
        for name, stage in stages.items():
            start = time.process_time()
            stage()
            times[name].append(time.process_time() - start)
    return {name: min(seconds) for name, seconds in times.items()}


def our_stages(records: Records, image_key: str = "image") -> dict[str, Stage]:
    """Each handles the first BATCH records."""
    files = [records.source[row][image_key] for row in range(BATCH)]
    augment = jax.jit(
        functools.partial(
            views.image_views, count=2, mean=np.full(3, 0.5), std=np.full(3, 0.25), **STRENGTHS
        )
    )
    key, images = jax.random.key(0), jax.device_put(records[:BATCH])
    return {
        "read": lambda: [records.source[row] for row in range(BATCH)],
        "decode": lambda: [records.decode(io.BytesIO(file)) for file in files],
        "views": lambda: jax.block_until_ready(augment(key, images)),
    }


def torchvision_stages(records: Records, size: int, image_key: str = "image") -> dict[str, Stage]:
    """The same work image by image, or nothing where torchvision is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from PIL import Image
        from torchvision import transforms as t  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    torch.set_num_threads(1)
    s = STRENGTHS
    jitter = t.ColorJitter(s["brightness"], s["contrast"], s["saturation"], s["hue"])
    augment = t.Compose(
        [
            t.RandomResizedCrop(size, scale=(1 - s["crop"], 1.0)),
            t.RandomHorizontalFlip(s["flip"]),
            jitter,
            t.RandomGrayscale(s["grayscale"]),
            t.ToTensor(),
            t.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    square = t.Compose([t.Resize(size), t.CenterCrop(size)])
    files = [records.source[row][image_key] for row in range(BATCH)]
    decoded = [Image.fromarray(image) for image in records[:BATCH]]
    return {
        "decode ": lambda: [square(Image.open(io.BytesIO(f)).convert("RGB")) for f in files],
        "views ": lambda: [augment(image) for image in decoded for _ in range(2)],
    }


def stream(records: Records, workers: int) -> tuple[float, float]:
    """Images that `workers` threads on as many cores read and decode in a second of CPU time, and
    in a second of the clock."""
    os.sched_setaffinity(0, CORES[:workers])  # the workers, started below, inherit it
    chosen = Records(records.source, "image", records.decode, workers=workers)
    rates = []
    for _ in range(3):
        start, clock = time.process_time(), time.perf_counter()
        for _ in chosen.chunks(0, len(chosen), BATCH):
            pass
        cpu, wall = time.process_time() - start, time.perf_counter() - clock
        rates.append((len(chosen) / cpu, len(chosen) / wall))
    os.sched_setaffinity(0, CORES[:1])
    return max(rate[0] for rate in rates), max(rate[1] for rate in rates)


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second of each stage of the input.")
    parser.add_argument("--data", default="", help="tfds:NAME; else made-up records are written")
    parser.add_argument("--data_dir", default="", help="the folder of the TFDS sets")
    parser.add_argument("--records", type=int, default=512, help="that are streamed")
    parser.add_argument("--size", type=int, default=224, help="side of the decoded squares")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the stages together")
    options = parser.parse_args()
    if options.records < BATCH:
        parser.error(f"--records {options.records} is not even the {BATCH} of one batch")
    try:
        measure(options)
    except UserError as error:
        parser.error(str(error))


def measure(options: argparse.Namespace) -> None:
    """Prints the tables."""
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            synthetic.write_tfds(Path(folder), {"train": options.records})
        records = data.load(
            options.data or "tfds:imagenet2012",
            data_dir=options.data_dir or folder,
            image_size=options.size,
            limit=options.records,
            stream=True,
        ).inputs
        assert isinstance(records, Records)
        peers = torchvision_stages(records, options.size)
        times = best(our_stages(records) | peers, options.seconds)
        print(f"{options.data or 'made-up records'}, {options.size}x{options.size}; images/s")
        print("stage      ours  torchvision  ratio")
        for name in ("read", "decode", "views"):
            ours = BATCH / times[name]
            theirs = BATCH / times[f"{name} "] if f"{name} " in times else None
            column = f"{theirs:>12.0f} {ours / theirs:>6.2f}" if theirs else f"{'-':>12} {'-':>6}"
            print(f"{name:<8} {ours:>6.0f} {column}")
        print("\nworkers  images per core second  images/s by the clock")
        for workers in sorted({1, len(CORES)}):
            per_core, by_clock = stream(records, workers)
            print(f"{workers:>7} {per_core:>23.0f} {by_clock:>22.0f}", flush=True)


if __name__ == "__main__":
    main()
