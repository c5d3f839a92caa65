r"""Accuracy of the partition against the number of yes/no answers: this engine and its rivals.

    python -m benchmarks.questions                                   # digits, right answers
    python -m benchmarks.questions --flip 0.1 --methods pal scan     # 10 % of the answers wrong
    python -m benchmarks.questions --data embedding.npz --answers 0 50 100 200 400 800 1600 3200
    python -m benchmarks.questions --flip 0 0.1 --save docs/questions.json --again pal \
        --plot docs/questions.png

No training: all methods get the same features and hear the same oracle. docs/questions.md has the
protocol and the tables. With --save, curves that the file holds are read from it instead of
measured, but for the methods of --again; it is written after each curve, so a stopped run goes on.
Rivals whose package is not here (pip install -r requirements/benchmarks.txt) are left out, unless
the file has them.
"""

import argparse
import collections
import contextlib
import functools
import inspect
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import datasets, floor
from benchmarks.judge import Judge, SpentError, accuracy, checks_up_to, oracle_of
from benchmarks.rivals import RIVALS, Setting, missing
from pal_jax.active import strategies
from pal_jax.active.questions import Oracle, Question
from pal_jax.active.sampler import Sampler

VOTES = 3  # questions a pair, asked by rivals that have no other answer to wrong answers
GOALS = (0.95, 0.98, 0.99)
# Every strategy there is, by the signature that all of them share.
STRATEGIES = {
    name: function
    for name, function in vars(strategies).items()
    if inspect.isfunction(function)
    and not name.startswith("_")
    and list(inspect.signature(function).parameters) == ["knowledge", "count", "rng"]
}
# What the Sampler is told beside the error rate, and how many questions are proposed together.
ENGINES: dict[str, dict[str, Any]] = {
    "pal": {},
    "pal_estimated": {"error_rate": None},
    "pal_together": {"at_once": 25},
    "pal_screens": {"candidates": 8},
    **{f"pal:{name}": {"strategy": function} for name, function in STRATEGIES.items()},
}

# What the issue tracker gives for COBRAS on digits: shown, marked, where its package is not here.
QUOTED = {
    ("digits", "clean"): dict(
        zip((25, 50, 100, 200, 400, 800, 1600), (0.42, 0.63, 0.85, 0.88, 0.92, 0.95, 0.98),
            strict=True)
    ),
    ("digits", "10 % wrong"): dict(
        zip((25, 50, 100, 200, 400, 800, 1600), (0.41, 0.62, 0.64, 0.62, 0.61, 0.67, 0.60),
            strict=True)
    ),
}  # fmt: skip

# answers: counts, ascending; accuracy: from so many on; seconds: [of all]; budget: [last look]
Curve = dict[str, list[Any]]


def noise_name(flip: float, sticky: bool) -> str:
    return f"{100 * flip:g} % wrong{', sticky' if sticky else ''}" if flip else "clean"


def engine_curve(
    x: np.ndarray,
    y: np.ndarray,
    oracle: Oracle,
    checks: Sequence[int],
    seed: int,
    progress: Callable[[int], object],
    at_once: int = 1,
    **settings: Any,
) -> Curve:
    """Accuracy after so many questions, each with M candidates one screen. `at_once` are proposed
    before the first of them is answered; looks come while they are."""
    budget = settings.get("candidates", 1) * (checks[-1] + at_once)
    sampler = Sampler(len(x), budget=budget, seed=seed, **settings)
    proposed: collections.deque[Question] = collections.deque()
    asked, answers, scores = 0, [], []
    for check in checks:
        while asked < check:
            proposed = proposed or collections.deque(sampler.propose(x, at_once))
            if not proposed:
                break
            sampler.tell(oracle([proposed.popleft()]))
            asked += 1
        if not answers or asked > answers[-1]:
            answers.append(asked)
            scores.append(accuracy(sampler.partition(x).groups, y))
        progress(check)
    return {"answers": answers, "accuracy": scores}


def rival_curve(
    method: str,
    x: np.ndarray,
    y: np.ndarray,
    oracle: Oracle,
    checks: Sequence[int],
    setting: Setting,
    progress: Callable[[int], object],
) -> Curve:
    judge = Judge(oracle, y, checks, progress)
    with contextlib.suppress(SpentError):
        RIVALS[method](x, judge, setting)
    return {"answers": list(checks), "accuracy": judge.finish()}


def measure(
    method: str,
    x: np.ndarray,
    y: np.ndarray,
    flip: float,
    sticky: bool,
    seed: int,
    checks: Sequence[int],
    progress: Callable[[int], object] = lambda answers: None,
) -> Curve:
    """One curve. `seed` shuffles the samples, drives the noise, and is the method's own seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    x.setflags(write=False)
    oracle = oracle_of(y, flip, sticky, seed)
    start = time.perf_counter()
    if method in ENGINES:
        settings = {"error_rate": flip, **ENGINES[method]}
        curve = engine_curve(x, y, oracle, checks, seed, progress, **settings)
    else:
        setting = Setting(seed, VOTES if flip else 1, len(np.unique(y)))
        curve = rival_curve(method, x, y, oracle, checks, setting, progress)
    curve = changes({**curve, "accuracy": [round(float(score), 4) for score in curve["accuracy"]]})
    curve["seconds"] = [round(time.perf_counter() - start, 1)]
    curve["budget"] = [checks[-1]]
    return curve


def changes(curve: Curve) -> Curve:
    """The looks at which the accuracy was another than at the one before: all that is kept."""
    scores = curve["accuracy"]
    kept = [i for i, score in enumerate(scores) if not i or score != scores[i - 1]]
    return {key: [curve[key][i] for i in kept] for key in ("answers", "accuracy")}


def after(curve: Curve, answers: int) -> float:
    """Accuracy at the last look that was not later than so many answers."""
    return curve["accuracy"][np.searchsorted(curve["answers"], answers, side="right") - 1]


def needed(curve: Curve, goal: float) -> int | None:
    """The first look at which the accuracy is `goal` or more: so many answers; None: never."""
    reached = (a for a, score in zip(curve["answers"], curve["accuracy"], strict=True)
               if score >= goal)  # fmt: skip
    return next(reached, None)


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.pstdev(values):.{digits}f}"


def needed_cell(curves: Sequence[Curve], goal: float) -> str:
    counts = [count for curve in curves if (count := needed(curve, goal)) is not None]
    if len(counts) == len(curves):
        return spread(counts, 0)
    return f"{len(counts)} of {len(curves)} seeds" if counts else "never"


def table(
    title: str, curves: dict[str, list[Curve]], answers: Sequence[int], goals: Sequence[float]
) -> str:
    """Markdown: a method a row; mean and standard deviation over the seeds."""
    heads = ["", *(str(a) for a in answers), *(f"to {goal:g}" for goal in goals), "s"]
    lines = [
        f"{title}\n",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for method, several in curves.items():
        cells = [spread([after(curve, a) for curve in several], 3) for a in answers]
        cells += [needed_cell(several, goal) for goal in goals]
        seconds = statistics.mean(curve["seconds"][0] for curve in several)
        lines.append("| " + " | ".join([method, *cells, f"{seconds:.0f}"]) + " |")
    return "\n".join(lines)


def quoted_row(data: str, noise: str, answers: Sequence[int], goals: Sequence[float]) -> str:
    scores = QUOTED.get((data, noise), {})
    cells = [f"{scores[a]:.2f}" if a in scores else "" for a in answers] + [""] * len(goals)
    return "| " + " | ".join(["cobras (quoted, not measured here)", *cells, ""]) + " |"


class Results:
    """Curves by data, noise, method and seed, kept in a JSON file if there is one."""

    def __init__(self, path: Path | None):
        self.path = path
        self.curves: dict[str, Any] = {}
        if path and path.exists():
            self.curves = json.loads(path.read_text())

    def get(self, *keys: str) -> Curve | None:
        return functools.reduce(lambda node, key: (node or {}).get(key), keys, self.curves)

    def put(self, curve: Curve, *keys: str) -> None:
        node = self.curves
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = curve
        if self.path:
            text = json.dumps(self.curves, indent=1)
            # A list a line: short to read, short to compare.
            self.path.write_text(_one_line_lists(text) + "\n")


def _one_line_lists(text: str) -> str:
    parts = text.split("[")
    inside = (part.split("]", 1) for part in parts[1:])
    return parts[0] + "".join(f"[{' '.join(a.split())}]{b}" for a, b in inside)


def run(
    args: argparse.Namespace, source: str, results: Results
) -> Iterator[tuple[str, dict[str, list[Curve]]]]:
    """Measures what is not there yet; the curves of each noise by method."""
    x, y = datasets.load(source)
    x, y = x[: args.limit], y[: args.limit]
    data = Path(source).stem
    print(f"\n{data}: {floor.sentence(x, y, [flip for flip in args.flip if flip])}", flush=True)
    budget = args.budget or max(args.answers)
    checks = checks_up_to(budget, args.answers)
    for flip in args.flip:
        noise = noise_name(flip, args.sticky and flip > 0)
        curves: dict[str, list[Curve]] = {}
        for method, seed in itertools.product(args.methods, range(args.seeds)):
            keys = (data, noise, method, str(seed))
            curve = results.get(*keys)
            if method in args.again or curve is None or curve["budget"][0] < budget:
                if missing(method):
                    print(f"{method} is left out: no package {missing(method)}", file=sys.stderr)
                    continue
                name = f"{data}, {noise}, {method}, seed {seed}"
                with tqdm(total=budget, desc=name, unit="answer", leave=False) as bar:
                    curve = measure(
                        method, x, y, flip, args.sticky, seed, checks,
                        lambda answers, bar=bar: bar.update(answers - bar.n),
                    )  # fmt: skip
                results.put(curve, *keys)
            curves.setdefault(method, []).append(curve)
        yield noise, curves


def main() -> None:
    methods = [*ENGINES, *RIVALS]
    parser = argparse.ArgumentParser(description="Accuracy of the partition against answers.")
    parser.add_argument("--data", nargs="+", default=["digits"], help="digits, breast_cancer, "
                        "wine, iris, or an .npz with x [n, d] and y [n]")  # fmt: skip
    parser.add_argument("--limit", type=int, help="use only so many samples of it")
    parser.add_argument("--methods", nargs="+", choices=methods, default=["pal", *RIVALS],
                        metavar="METHOD", help=", ".join(methods))  # fmt: skip
    parser.add_argument("--answers", nargs="+", type=int, help="columns of the table",
                        default=[0, 25, 50, 100, 200, 400, 800, 1600])  # fmt: skip
    parser.add_argument("--goals", nargs="*", type=float, help="accuracies to be reached",
                        default=GOALS)  # fmt: skip
    parser.add_argument("--budget", type=int, help="answers to buy; default: the last column")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flip", nargs="+", type=float, default=[0.0], help="share of wrong "
                        "answers")  # fmt: skip
    parser.add_argument("--sticky", action="store_true", help="a pair is always answered alike")
    parser.add_argument("--save", type=Path, help="a JSON file of curves, read and added to")
    parser.add_argument("--again", nargs="+", default=[], choices=methods, metavar="METHOD",
                        help="methods to measure again, though the file holds them")  # fmt: skip
    parser.add_argument("--plot", type=Path, help="draw the curves of the first data set")
    args = parser.parse_args()
    args.answers.sort()

    results = Results(args.save)
    for source in args.data:
        data = Path(source).stem
        for noise, curves in run(args, source, results):
            print("\n" + table(f"{data}, {noise}", curves, args.answers, args.goals))
            if "cobras" in args.methods and missing("cobras") and "cobras" not in curves:
                print(quoted_row(data, noise, args.answers, args.goals))
            sys.stdout.flush()
    if args.plot:
        from benchmarks import drawing  # matplotlib is an optional dependency of the benchmarks

        drawing.draw(results.curves[Path(args.data[0]).stem], args.plot)


if __name__ == "__main__":
    main()
