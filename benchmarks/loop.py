r"""Answers that a partition needs with and without training, and with and without refits.

    python -m benchmarks.loop                                   # digits: all ways, three seeds
    python -m benchmarks.loop --data wine --answers 0 10 25 50 100
    python -m benchmarks.loop --data fashion.npz --seeds 1 --answers 0 25 50 100 200 \
        --goals 0.65 0.7 0.75

Digits: raw pixels and encoders of configs/pal_active.py, looked at as in benchmarks.questions, and
also after each round of training. All other data are taken as they are: nothing is trained.
docs/loop.md has the tables. With --save, curves that the file holds are read from it.
"""

import argparse
import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import datasets
from benchmarks.judge import accuracy, checks_up_to, oracle_of
from benchmarks.questions import GOALS, Curve, Results, engine_curve, table
from configs import pal_active
from pal_jax import experiment, train
from pal_jax.run import Run

REFIT = 25  # judgements between refits, where there are any
# Everything before the first question; what little is trained afterwards is not looked at.
_FIRST = {"train.rounds": 2, "train.first": 0.99}


@dataclasses.dataclass(frozen=True)
class Way:
    """refit: judgements between refits, 0: none. changes: of the config; None: nothing is trained.
    rounds: whether to look after each round too."""

    refit: int
    changes: dict[str, Any] | None = None
    rounds: bool = False


WAYS = {
    "features": Way(0),
    "features, refit": Way(REFIT),
    "self-supervised": Way(0, _FIRST),
    "self-supervised, refit": Way(REFIT, _FIRST),
    "SGD between rounds": Way(0, {}, rounds=True),
    "SGD between rounds, refit": Way(REFIT, {}, rounds=True),
    "SGD in even rounds": Way(0, {"train.first": 0.0}, rounds=True),
}


def features_curve(
    way: Way, data: str, seed: int, checks: Sequence[int], progress: Callable[[int], object]
) -> Curve:
    """Of asking alone; `seed` shuffles the samples."""
    x, y = datasets.load(data)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    x.setflags(write=False)
    oracle = oracle_of(y, 0.0, False, seed)
    return engine_curve(x, y, oracle, checks, seed, progress, refit=way.refit)


def trained_curve(
    way: Way, seed: int, checks: Sequence[int], progress: Callable[[int], object]
) -> Curve:
    """Of a run of configs/pal_active.py on digits with the changes of `way`, without its audit."""
    config = pal_active.get_config()
    config.update_from_flattened_dict(way.changes or {})
    config.seed, config.checkpoint.free = seed, 0.0
    asking = config.asking
    # As many a round as in the whole run.
    asking.per_round = -(-(asking.budget - asking.audit) // (config.train.rounds - 1))
    asking.budget, asking.audit, asking.refit = checks[-1], 0, way.refit
    with tempfile.TemporaryDirectory() as folder:
        run = experiment.build(config, folder)
        assert run.journal is not None
        try:
            return _look_at(run, set(checks), way.rounds, progress)
        finally:
            run.journal.close()


def _look_at(run: Run, checks: set[int], rounds: bool, progress: Callable[[int], object]) -> Curve:
    assert run.make_oracle is not None
    assert run.pool.labels is not None
    oracle, labels = run.make_oracle([], lambda: False), run.pool.labels
    answers: list[int] = []
    scores: list[float] = []

    def look(h: np.ndarray) -> None:
        answers.append(run.sampler.spent)
        scores.append(accuracy(run.sampler.partition(h).groups, labels))
        progress(run.sampler.spent)

    def ask(number: int, h: np.ndarray) -> None:
        if not rounds:
            look(h)
        train.buy_round(
            run.sampler, oracle, h, run.plan, number,
            asked=lambda spent: look(h) if spent in checks else None, stop=lambda: False,
        )  # fmt: skip

    def measure(number: int, state: train.TrainState, embeddings: Any) -> None:
        if rounds:
            look(embeddings[0])

    hooks = train.Hooks(
        measure=measure,
        save=lambda state: None,
        progress=lambda: None,
        log=lambda step, metrics: None,
        stop=lambda: False,
    )
    train.fit(
        run.state, run.key, run.sampler, ask,
        step=run.step, feed=run.feed, embed=run.embed, plan=run.plan, hooks=hooks,
    )  # fmt: skip
    return {"answers": answers, "accuracy": scores}


def curve_of(
    name: str, data: str, seed: int, checks: Sequence[int], progress: Callable[[int], object]
) -> Curve:
    way, start = WAYS[name], time.process_time()
    if way.changes is None:
        curve = features_curve(way, data, seed, checks, progress)
    else:
        curve = trained_curve(way, seed, checks, progress)
    curve["accuracy"] = [round(float(score), 4) for score in curve["accuracy"]]
    curve["seconds"] = [round(time.process_time() - start, 1)]
    curve["budget"] = [checks[-1]]
    return curve


def falls(curves: Sequence[Curve]) -> str:
    """The largest fall of the accuracy below what it was before, of any seed."""
    worst = max(
        float((np.maximum.accumulate(curve["accuracy"]) - curve["accuracy"]).max())
        for curve in curves
    )
    return f"{worst:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers needed with and without training.")
    parser.add_argument(
        "--data",
        default="digits",
        help="digits; or breast_cancer, wine, iris "
        "or an .npz with x and y, of which nothing is trained",
    )
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY",
                        help=", ".join(WAYS))  # fmt: skip
    parser.add_argument("--answers", nargs="+", type=int, default=[0, 10, 25, 50, 100],
                        help="columns of the table; the last is the budget")  # fmt: skip
    parser.add_argument("--goals", nargs="*", type=float, default=GOALS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="a JSON file of curves, read and added to")
    args = parser.parse_args()
    args.answers.sort()
    trainable = args.data == "digits"
    ways = args.ways or [name for name, way in WAYS.items() if trainable or way.changes is None]
    checks = checks_up_to(args.answers[-1], args.answers)
    results = Results(args.save)
    curves: dict[str, list[Curve]] = {}
    for seed, name in itertools.product(range(args.seeds), ways):
        keys = (args.data, name, str(seed))
        curve = results.get(*keys)
        if curve is None or curve["budget"][0] < args.answers[-1]:
            with tqdm(
                total=checks[-1], desc=f"{name}, seed {seed}", unit="answer", leave=False
            ) as bar:
                curve = curve_of(
                    name, args.data, seed, checks, lambda n, bar=bar: bar.update(n - bar.n)
                )
            results.put(curve, *keys)
        curves.setdefault(name, []).append(curve)
    print(table(Path(args.data).stem, curves, args.answers, args.goals))
    print("\nlargest fall: " + ", ".join(f"{name} {falls(c)}" for name, c in curves.items()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
