r"""How well the engine knows what it knows, what prior labels are worth, many and few classes.

    python -m benchmarks.knowing
    python -m benchmarks.knowing calibration --data digits fashion.npz breast_cancer

Nothing is trained. docs/questions.md shows the tables as printed.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from benchmarks import datasets
from benchmarks.judge import accuracy
from pal_jax.active.oracles import LabelOracle, answers_from_groups
from pal_jax.active.sampler import Sampler

ANSWERS = (50, 100, 200)
AUDITS = (20, 40, 40)  # of these answers, random ones at the end
BINS = 15  # of the expected calibration error
TOLD = 1 / 3  # share of the samples that a prior has a label for
POOL = 4_000  # samples of a made-up pool
RAREST = 5  # samples of its smallest class
CLASSES = (2, 10, 50, 250)
LOOKS = (0, 50, 100, 200, 400, 800)
TOGETHER = 10  # questions between two looks

Row = list[str]


def right(groups: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n] bool: in the group that best stands for its class, matched one to one."""
    table = np.zeros((groups.max() + 1, y.max() + 1))
    np.add.at(table, (groups, y), 1)
    rows, columns = linear_sum_assignment(-table)
    class_of = np.full(len(table), -1)
    class_of[rows] = columns
    return class_of[groups] == y


def calibration_error(probability: np.ndarray, correct: np.ndarray) -> float:
    """Mean |probability - share of correct ones| over BINS bins of equal width, by samples."""
    cell = np.minimum((probability * BINS).astype(int), BINS - 1)
    size = np.bincount(cell, minlength=BINS)
    gap = np.bincount(cell, probability - correct, minlength=BINS)
    return float(np.abs(gap).sum() / size.sum())


def shuffled(data: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load(data)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], np.unique(y[order], return_inverse=True)[1]
    x.setflags(write=False)
    return x, y


def calibration(data: Sequence[str], seeds: int) -> Iterator[Row]:
    yield ["data", "answers", "of these audit", "accuracy", "mean probability", "calibration error"]
    for name in data:
        for answers, audit in [*((a, 0) for a in ANSWERS), *zip(ANSWERS, AUDITS, strict=True)]:
            found = []
            for seed in range(seeds):
                x, y = shuffled(name, seed)
                sampler = Sampler(len(x), budget=answers, seed=seed)
                oracle = LabelOracle(y)
                sampler.ask(oracle, x, answers - audit)
                if audit:
                    sampler.audit(oracle, x, audit)
                partition = sampler.partition(x)
                correct = right(partition.groups, y)
                error = calibration_error(partition.probability, correct)
                found.append((correct.mean(), partition.probability.mean(), error))
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(*moments(found), strict=True)]
            yield [Path(name).stem, str(answers), str(audit), *cells]


def moments(rows: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.mean(rows, axis=0), np.std(rows, axis=0)


def prior(data: Sequence[str], seeds: int) -> Iterator[Row]:
    """Answers that a person gives to 0.95 and 0.98, beside what was believed from the start."""
    yield ["data", "prior labels", "accuracy at 0", "answers to 0.95", "answers to 0.98"]
    for name in data:
        for wrong in (None, 0.0, 0.3):
            found = []
            for seed in range(seeds):
                x, y = shuffled(name, seed)
                believed = [] if wrong is None else guesses(y, wrong, seed)
                sampler = Sampler(
                    len(x), budget=400, seed=seed, prior=believed, error_rates={"guess": None}
                )
                found.append(reached(sampler, x, y, (0.95, 0.98)))
            start, *counts = zip(*found, strict=True)
            kind = "none" if wrong is None else f"a third, {wrong:.0%} of them wrong"
            cells = [f"{np.mean(c):.0f} ± {np.std(c):.0f}" for c in counts]
            yield [name, kind, f"{np.mean(start):.3f}", *cells]


def guesses(y: np.ndarray, wrong: float, seed: int):
    """What a model that knows a third of the labels says, a share of them drawn at random."""
    rng = np.random.default_rng([seed, 1])
    label = np.where(rng.random(len(y)) < wrong, rng.integers(0, y.max() + 1, len(y)), y)
    told = np.full(len(y), -1)
    some = rng.permutation(len(y))[: round(TOLD * len(y))]
    told[some] = label[some]
    return answers_from_groups(told, "guess", rng)


def reached(
    sampler: Sampler, x: np.ndarray, y: np.ndarray, goals: Sequence[float]
) -> tuple[float, ...]:
    """Accuracy before the first answer, then answers to each goal; NaN where the budget ends."""
    oracle, counts = LabelOracle(y), {}
    start = found = accuracy(sampler.partition(x).groups, y)
    while True:
        for goal in goals:
            if found >= goal:
                counts.setdefault(goal, sampler.spent)
        if len(counts) == len(goals) or not sampler.ask(oracle, x, 2):
            return (start, *(counts.get(goal, np.nan) for goal in goals))
        found = accuracy(sampler.partition(x).groups, y)


def pool(classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of sizes in geometric progression from RAREST, five to a family, in 64 dimensions."""
    rng = np.random.default_rng(seed)
    low, high = 1.0, (POOL / RAREST) ** (1 / (classes - 1))
    while high - low > 1e-9:  # the ratio of a size to the next smaller one
        ratio = (low + high) / 2
        if RAREST * sum(ratio**k for k in range(classes)) > POOL:
            high = ratio
        else:
            low = ratio
    sizes = np.round(RAREST * low ** np.arange(classes)).astype(int)
    y = rng.permutation(np.repeat(np.arange(classes), sizes))
    family = rng.normal(size=(-(-classes // 5), 64))
    centre = family[np.arange(classes) // 5] + 0.75 * rng.normal(size=(classes, 64))
    x = centre[y] + 0.75 * rng.normal(size=(len(y), 64))
    x.setflags(write=False)
    return x, y


def classes(data: Sequence[str], seeds: int) -> Iterator[Row]:
    """The discovery curve: groups and classes found against answers."""
    del data
    yield ["classes", "sizes", "answers", "groups", "classes found", "accuracy"]
    for count in CLASSES:
        x, y = pool(count, seeds)
        sampler, oracle = Sampler(len(x), budget=10**6), LabelOracle(y)
        size = np.bincount(y)
        for answers in LOOKS:
            if answers:
                sampler.ask(oracle, x, answers - sampler.spent, at_once=TOGETHER)
            groups = sampler.partition(x).groups
            yield [
                str(count), f"{size.min()} to {size.max()}", str(sampler.spent),
                str(groups.max() + 1), str(classes_found(groups, y)),
                f"{accuracy(groups, y):.3f}",
            ]  # fmt: skip
            if sampler.spent < answers:
                break


def classes_found(groups: np.ndarray, y: np.ndarray) -> int:
    """Classes that are the majority of some group and have most of their samples in one."""
    table = np.zeros((groups.max() + 1, y.max() + 1))
    np.add.at(table, (groups, y), 1)
    majority = table > 0.5 * table.sum(axis=1, keepdims=True)
    return int((majority & (table > 0.5 * table.sum(axis=0))).any(axis=0).sum())


PARTS: dict[str, Callable[[Sequence[str], int], Iterator[Row]]] = {
    "calibration": calibration,
    "prior": prior,
    "classes": classes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine knows of its own partition.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--data", nargs="+", default=["digits", "breast_cancer"],
                        help="as benchmarks.questions takes it")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        rows = list(tqdm(PARTS[part](args.data, args.seeds), desc=part, unit="row", leave=False))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---" * len(rows[0]) + "|")
        print(f"\n{part}\n\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
