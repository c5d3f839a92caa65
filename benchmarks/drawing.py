"""The picture of README and docs/questions.md: accuracy against answers, clean and with errors."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Name on the picture and colour, in the order of drawing; blue is for this project alone.
STYLES = {
    "random_pairs": ("random pairs + closure", "#b8b8b8"),
    "cobras": ("COBRAS", "#8c6bb1"),
    "scan": ("nearest-representative scan", "#66a182"),
    "margin_svm": ("margin SVM, labels by pairs", "#d9a441"),
    "mcvopt": ("MCVOpt, labels by pairs", "#cc5a49"),
    "pal": ("pal_jax", "#1f5fbf"),
}
PANELS = {"clean": "every answer right", "10 % wrong": "one answer in ten wrong"}
ZERO = 7  # where the partition before any answer stands on the log axis
TICKS = (10, 25, 50, 100, 200, 400, 800, 1600)


def draw(results: dict[str, Any], path: Path) -> None:
    """Mean over the seeds as a line, their range as a band; dots are partitions at 0 answers."""
    panels = {noise: title for noise, title in PANELS.items() if noise in results}
    settings: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 4.2), sharey=True, squeeze=False
        )
        for ax, (noise, title) in zip(axes[0], panels.items(), strict=True):
            for method, (label, colour) in STYLES.items():
                if method in results[noise]:
                    _line(ax, list(results[noise][method].values()), label, colour)
            if "spectral" in results[noise]:
                scores = [curve["accuracy"][0] for curve in results[noise]["spectral"].values()]
                label = "spectral clustering, 0 answers, classes given"
                ax.plot(ZERO, np.mean(scores), "D", color="#555555", ms=5, label=label, zorder=4)
            _dress(ax, title)
        axes[0, 0].set_ylabel("accuracy of the partition, all samples")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles[::-1], labels[::-1], loc="lower center", ncols=3, frameon=False, fontsize=9
        )
        figure.tight_layout(rect=(0, 0.14, 1, 1))
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
        plt.close(figure)


def _line(ax: Axes, curves: list[dict[str, list[float]]], label: str, colour: str) -> None:
    last = min(TICKS[-1], *(int(curve["budget"][0]) for curve in curves))
    answers = np.unique(np.geomspace(TICKS[0], last, 300).astype(int))
    scores = np.array([_step(curve, answers) for curve in curves])
    width, order = (2.4, 5) if colour == STYLES["pal"][1] else (1.5, 3)
    ax.plot(answers, scores.mean(axis=0), color=colour, lw=width, label=label, zorder=order)
    ax.fill_between(answers, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.12, lw=0)
    start = np.mean([curve["accuracy"][0] for curve in curves])
    ax.plot(ZERO, start, "o", color=colour, ms=4, zorder=order)


def _step(curve: dict[str, list[float]], answers: np.ndarray) -> np.ndarray:
    last = np.searchsorted(curve["answers"], answers, side="right") - 1
    return np.array(curve["accuracy"])[last]


def _dress(ax: Axes, title: str) -> None:
    ax.set_xscale("log")
    ax.set_xticks([ZERO, *TICKS], [str(answers) for answers in (0, *TICKS)])
    ax.minorticks_off()
    ax.set_xlim(ZERO * 0.85, TICKS[-1] * 1.05)
    ax.set_ylim(0, 1.01)
    ax.grid(color="#eeeeee", zorder=0)
    ax.set_xlabel("answers")
    ax.set_title(title, loc="left", fontsize=11)
