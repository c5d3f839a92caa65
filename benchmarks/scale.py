r"""What the question engine costs from a thousand samples to a million, and what a sketch loses.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.scale --plot docs/scale.png
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.scale --flip 0.05
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.scale --quality

The first prints a table, a size a row, each measured in a process of its own: a mixture of 100
Gaussians in 64 dimensions, and a journal of 100,000 right answers, such as a scan buys: a sample
against representatives of classes until one is like it. Seconds are the processor's, of the one
thread that asks, so that other work on the machine adds none; those of `tell` are the wall's, with
the disk in them. The best of some where a thing can be done again. Neighbours are searched by a
second thread meanwhile; its seconds are those for two samplers, one that asks from the start and
one that reads the journal. Memory is the growth of the peak resident set from the moment the
embedding is there.

The second is the same with a share of the answers wrong, which the sampler is told. The third
compares the sketch with the exact engine on the same data: answers to given accuracies, and the
peak memory of either. --data takes an .npz with x and y instead of a mixture.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import datasets
from benchmarks.judge import accuracy
from pal_jax.active.journal import Journal
from pal_jax.active.oracles import LabelOracle, NoisyOracle
from pal_jax.active.questions import Answer, Oracle, Question
from pal_jax.active.sampler import Sampler

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ANSWERS, TOLD, ASKED, BATCH = 100_000, 1_000, 100, 4_096
NOTHING = 1e-5  # seconds of a thread that has nothing to do
LONG = 10.0  # seconds after which nothing is timed again
WARM = 200  # answers of the engine's own before the first questions are timed
CLASSES, WIDTH, NOISE = 100, 64, 1.0
PIECES = 3  # Gaussians of a class, where quality is measured
BUDGET = 10 * ANSWERS
# Of a row: its key, what it is called, and the unit in which it is printed, in seconds or GiB.
COLUMNS = {
    "ready": ("first question, s", 1.0),
    "propose": (f"{ASKED} questions, ms", 1e-3),
    "load": (f"load {ANSWERS:,}, s", 1.0),
    "ready_loaded": ("first question then, s", 1.0),
    "propose_loaded": (f"{ASKED} questions then, ms", 1e-3),
    "tell": (f"tell {TOLD:,}, ms", 1e-3),
    "batch": (f"batch {BATCH:,}, ms", 1e-3),
    "first_batch": ("first after tell, ms", 1e-3),
    "partition": ("partition, s", 1.0),
    "neighbours": ("neighbours, s", 1.0),
    "gib": ("memory, GiB", 1.0),
}


def mixture(n: int, classes: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x [n, WIDTH] float32 around centres from a standard normal, and y [n]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = rng.standard_normal((classes, WIDTH), np.float32)
    x = rng.standard_normal((n, WIDTH), np.float32)
    x *= np.float32(noise)
    for c in range(classes):
        x[y == c] += centres[c]
    return x, y


def oracle_of(y: np.ndarray, flip: float) -> Oracle:
    return NoisyOracle(LabelOracle(y), flip, seed=0) if flip else LabelOracle(y)


def scan(y: np.ndarray, rng: np.random.Generator, flip: float = 0.0) -> Iterator[Answer]:
    """Answers without end, a share of them wrong: classes are told apart, then samples find theirs.

    Each sample is compared with its own class at once four times in five, else with another
    first; when all samples are placed it begins again.
    """
    first = np.unique(y, return_index=True)[1].tolist()
    oracle = oracle_of(y, flip)
    pairs = [(i, j) for j in first for i in first if i < j]
    while True:
        for sample in rng.permutation(len(y)).tolist():
            if sample not in first:
                if rng.random() < 0.2:
                    other = first[int(rng.integers(len(first)))]
                    pairs.append((other, sample))
                pairs.append((first[y[sample]], sample))
            yield from oracle([Question(i, (j,)) for i, j in pairs])
            pairs = []


def timed(
    work: Callable[[], object], repeats: int = 1, clock: Callable[[], float] = time.thread_time
) -> float:
    """Seconds of the fastest of so many calls, or of as many as fit into ten seconds."""
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < LONG:
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def others_time() -> float:
    """Seconds of the processor in all other threads."""
    return time.process_time() - time.thread_time()


def measure(folder: Path, flip: float = 0.0) -> dict[str, float]:
    """All columns of one size, from the embedding and the journal in `folder`."""
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    x.setflags(write=False)
    before = peak_gib()
    with Journal(folder / "journal") as journal:
        out = measure_fresh(x, y, flip) | measure_loaded(x, y, journal, flip)
    return {"n": float(len(x)), **out, "gib": peak_gib() - before}


def measure_fresh(x: np.ndarray, y: np.ndarray, flip: float) -> dict[str, float]:
    sampler = Sampler(len(x), budget=BUDGET, error_rate=flip)
    ready = timed(lambda: sampler.propose(x, 1))
    sampler.ask(oracle_of(y, flip), x, WARM, at_once=ASKED)
    return {"ready": ready, "propose": timed(lambda: sampler.propose(x, ASKED), 3)}


def measure_loaded(x: np.ndarray, y: np.ndarray, journal: Journal, flip: float) -> dict[str, float]:
    samplers: list[Sampler] = []
    out = {"load": timed(lambda: samplers.append(restored(len(x), journal, flip)))}
    sampler, start = samplers[0], others_time()
    out["ready_loaded"] = timed(lambda: sampler.propose(x, 1))
    out["propose_loaded"] = timed(lambda: sampler.propose(x, ASKED), 3)
    out["partition"] = timed(lambda: sampler.partition(x), 2)  # the first waits for neighbours
    out["neighbours"] = others_time() - start
    sampler.believe(x)  # as a run does before its batches, where answers may be wrong
    more, size = scan(y, np.random.default_rng(2), flip), min(BATCH, len(x))
    tells, batches = [], []
    for _ in range(5):
        answers = [next(more) for _ in range(TOLD)]
        tells.append(timed(lambda told=answers: sampler.tell(told), clock=time.perf_counter))
        batches.append(timed(lambda: sampler.batch(size)))
    out |= {"tell": min(tells), "first_batch": min(batches)}
    return out | {"batch": timed(lambda: sampler.batch(size), 10)}


def restored(n: int, journal: Journal, flip: float) -> Sampler:
    """A sampler that has told all that the journal holds."""
    sampler = Sampler(n, budget=BUDGET, journal=journal, error_rate=flip)
    sampler.tell([])
    return sampler


def table(rows: Sequence[dict[str, float]]) -> str:
    """Markdown: a size a row; under it how each column grew, as a power of the size."""
    heads = ["samples", *(title for title, _ in COLUMNS.values())]
    lines = ["| " + " | ".join(heads) + " |", "|---:" * len(heads) + "|"]
    for before, row in zip([None, *rows], rows, strict=False):
        if before:
            ratio = math.log(row["n"] / before["n"])
            powers = [power(before[key], row[key], ratio) for key in COLUMNS]
            lines.append("| | " + " | ".join(powers) + " |")
        cells = [cell(row[key], unit) for key, (_, unit) in COLUMNS.items()]
        lines.append("| " + " | ".join([f"{int(row['n']):,}", *cells]) + " |")
    return "\n".join(lines)


def cell(value: float, unit: float) -> str:
    return f"{float(f'{value / unit:.3g}'):,g}" if value > NOTHING else "-"


def power(before: float, now: float, ratio: float) -> str:
    if min(before, now) <= NOTHING:
        return ""
    return f"n^{math.log(now / before) / ratio:.2f}"


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Seconds against samples, both on logarithmic axes, beside n log n."""
    import matplotlib

    matplotlib.use("Agg")  # a file, no window
    import matplotlib.pyplot as plt

    n = np.array([row["n"] for row in rows])
    settings: dict[Any, Any] = {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with plt.rc_context(settings):
        figure, ax = plt.subplots(figsize=(7.2, 4.4))
        for key, (title, _) in COLUMNS.items():
            if key != "gib":
                label = title.rsplit(",", 1)[0]
                seconds = np.array([row[key] for row in rows])
                seconds[seconds <= NOTHING] = np.nan
                ax.loglog(n, seconds, "o-", ms=4, lw=1.6, label=label)
        guide = n * np.log(n)
        ax.loglog(n, guide / guide[-1] * 10.0, ":", color="#555555", label="n log n")
        ax.set_xlabel("samples")
        ax.set_ylabel("seconds")
        ax.grid(color="#eeeeee")
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.tight_layout()
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
        plt.close(figure)


def in_its_own_process(arguments: Sequence[str]) -> Any:
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def all_sizes(sizes: Sequence[int], flip: float) -> list[dict[str, float]]:
    rows = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            x, y = mixture(n, CLASSES, NOISE, seed=0)
            np.save(Path(folder, "x.npy"), x)
            np.save(Path(folder, "y.npy"), y)
            with Journal(Path(folder, "journal")) as journal:
                log = scan(y, np.random.default_rng(1), flip)
                journal.append([next(log) for _ in range(ANSWERS)])
            del x, y
            print(f"{n:,} samples ...", file=sys.stderr, flush=True)
            rows.append(in_its_own_process(["--measure", folder, "--flip", str(flip)]))
    return rows


def curve(data: Path, exact: int, looks: Sequence[int], seed: int) -> dict[str, Any]:
    """Accuracy at each number of answers, seconds and memory, of a sampler with this `exact`."""
    with np.load(data) as file:
        x, y = file["x"], file["y"]
    x.setflags(write=False)
    before, start = peak_gib(), time.perf_counter()
    sampler = Sampler(len(x), budget=looks[-1], exact=exact, seed=seed)
    oracle, scores = LabelOracle(y), []
    for look in looks:
        sampler.ask(oracle, x, look - sampler.spent, at_once=look - sampler.spent or 1)
        scores.append(accuracy(sampler.partition(x).groups, y))
    return {"accuracy": scores, "seconds": time.perf_counter() - start,
            "gib": peak_gib() - before}  # fmt: skip


def quality(options: argparse.Namespace) -> str:
    """Markdown: the exact engine and the sketch, a seed of the engine a column."""
    looks = list(range(0, options.answers + 1, options.step))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.npz")
        if options.data:
            x, y = datasets.load(options.data)
            x = x.astype(np.float32)
        else:
            x, y = mixture(options.samples, PIECES * options.classes, options.noise, seed=0)
            y //= PIECES
        np.savez(data, x=x, y=y)
        n = len(x)
        lines = [f"{n:,} samples, {options.step} questions at a time; answers to each accuracy\n"]
        heads = ["", *(f"{goal:g}" for goal in options.goals), f"at {looks[-1]}", "s", "GiB"]
        lines += ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
        for name, exact in {"exact": n, "sketch": options.exact}.items():
            found = []
            for seed in range(options.seeds if name == "sketch" else 1):
                print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
                command = ["--curve", str(data), "--exact", str(exact), "--seed", str(seed)]
                command += ["--looks", *map(str, looks)]
                found.append(in_its_own_process(command))
            needed = [spread([first(looks, one["accuracy"], goal) for one in found])
                      for goal in options.goals]  # fmt: skip
            end = " ".join(f"{one['accuracy'][-1]:.3f}" for one in found)
            seconds = statistics.mean(one["seconds"] for one in found)
            gib = max(one["gib"] for one in found)
            lines.append("| " + " | ".join([name, *needed, end, f"{seconds:.0f}", f"{gib:.2f}"])
                         + " |")  # fmt: skip
    return "\n".join(lines)


def first(looks: Sequence[int], scores: Sequence[float], goal: float) -> float:
    """Answers at which the line through the looks reaches the goal; infinity: never."""
    for k, score in enumerate(scores):
        if score >= goal:
            if k == 0:
                return 0.0
            part = (goal - scores[k - 1]) / (score - scores[k - 1])
            return looks[k - 1] + part * (looks[k] - looks[k - 1])
    return math.inf


def spread(counts: Sequence[float]) -> str:
    return " ".join("never" if math.isinf(count) else f"{count:.0f}" for count in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the question engine against samples.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--flip", type=float, default=0.0, help="share of wrong answers")
    parser.add_argument("--plot", type=Path, help="where to save the picture")
    parser.add_argument("--quality", action="store_true", help="the sketch beside the exact engine")
    parser.add_argument("--data", help="for --quality: an .npz with x [n, d] and y [n]")
    parser.add_argument("--samples", type=int, default=100_000, help="of the mixture")
    parser.add_argument(
        "--classes", type=int, default=10, help="of the mixture, three Gaussians each"
    )
    parser.add_argument("--noise", type=float, default=1.5, help="of the mixture")
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--step", type=int, default=20, help="questions proposed together")
    parser.add_argument("--goals", type=float, nargs="+", default=[0.5, 0.7, 0.9, 0.95])
    parser.add_argument("--seeds", type=int, default=3, help="of the sketch")
    parser.add_argument("--exact", type=int, default=20_000, help="samples looked at exactly")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--curve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--looks", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.flip)))
    elif options.curve:
        print(json.dumps(curve(options.curve, options.exact, options.looks, options.seed)))
    elif options.quality:
        print(quality(options))
    else:
        rows = all_sizes(options.sizes, options.flip)
        print(table(rows))
        if options.plot:
            draw(rows, options.plot)


if __name__ == "__main__":
    main()
