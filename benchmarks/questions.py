r"""Accuracy of the partition after some number of yes/no answers, strategy by strategy.

    python -m benchmarks.questions
    python -m benchmarks.questions --flip 0.1 --answers 100 200 400
    python -m benchmarks.questions --data embedding.npz --strategies informative

Accuracy is that of the best one-to-one map of groups to classes over all samples; surplus groups
are errors. Each seed shuffles the samples and drives the oracle's noise. No training: the
embedding is what the file holds, or the 64 pixels of scikit-learn's digits.
"""

import argparse
import statistics
import time

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

from pal_jax.active import strategies
from pal_jax.active.oracles import LabelOracle, NoisyOracle
from pal_jax.active.sampler import Sampler

STRATEGIES = {"random": strategies.random_pairs, "informative": strategies.most_informative}


def accuracy(groups: np.ndarray, labels: np.ndarray) -> float:
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


def curve(x: np.ndarray, y: np.ndarray, strategy: str, seed: int, args) -> list[float]:
    """Accuracy after each of `args.answers` judgements."""
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    oracle = NoisyOracle(LabelOracle(y), args.flip, seed)
    sampler = Sampler(
        len(x),
        budget=max(args.answers),
        seed=seed,
        strategy=STRATEGIES[strategy],
        error_rate=None if args.estimate else args.flip,
        candidates=args.candidates,
    )
    found = []
    for answers in args.answers:
        while sampler.spent < answers and sampler.ask(
            oracle, x, args.at_once, at_once=args.at_once
        ):
            pass
        found.append(accuracy(sampler.partition(x).groups, y))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the partition against answers.")
    parser.add_argument("--data", help="an .npz with x [n, d] and y [n]; default: digits")
    parser.add_argument("--limit", type=int, help="use only so many samples of it")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--answers", nargs="+", type=int, default=[0, 25, 50, 100, 200, 400, 800])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flip", type=float, default=0.0, help="share of wrong answers")
    parser.add_argument("--estimate", action="store_true", help="do not tell the sampler --flip")
    parser.add_argument("--candidates", type=int, default=1, help="of a question")
    parser.add_argument("--at-once", type=int, default=1, help="questions asked together")
    args = parser.parse_args()
    args.answers.sort()

    if args.data is None:
        x, y = load_digits(return_X_y=True)
    else:
        with np.load(args.data, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    x, y = x[: args.limit].reshape(len(x[: args.limit]), -1), y[: args.limit]

    print("answers      " + "".join(f"{answers:>15}" for answers in args.answers))
    for strategy in args.strategies:
        start = time.perf_counter()
        curves = [curve(x, y, strategy, seed, args) for seed in range(args.seeds)]
        cells = [
            f"{statistics.mean(column):.3f} +- {statistics.pstdev(column):.3f}"
            for column in zip(*curves, strict=True)
        ]
        seconds = (time.perf_counter() - start) / args.seeds
        print(f"{strategy:<13}" + "".join(f"{cell:>15}" for cell in cells) + f"   {seconds:.0f} s")


if __name__ == "__main__":
    main()
