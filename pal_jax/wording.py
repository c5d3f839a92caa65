"""Figures in words: names, percent, thousands and minutes, as a reader wants them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PERCENT = "\u202f%"  # with the thin space that keeps it on the line of its number

# In the order in which a table shows them.
NAMES = {
    "round": "Round",
    "step": "Step",
    "samples": "Samples",
    "judgements": "Judgements",
    "groups": "Groups",
    "partition_accuracy": "Partition accuracy",
    "random_accuracy": "Random questions",
    "ari": "Adjusted Rand index",
    "nmi": "Normalised mutual information",
    "knn_accuracy": "kNN accuracy",
    "probe_accuracy": "Linear probe",
    "ridge_accuracy": "Ridge probe",
    "effective_rank": "Effective rank",
    "estimated_accuracy": "Estimated accuracy",
    "estimated_accuracy_low": "Estimated accuracy, lower bound",
    "audits_unsure": "Audit answers that were not sure",
    "expected_gain": "Expected gain of 50 more answers",
    "contradictions": "Judgements not followed",
    "loss": "Loss",
    "seconds": "Time",
}


def show(name: str, value: Any) -> str:
    """The value of the figure `name` of summary.json or metrics.jsonl, with its unit."""
    if value is None:
        return "\u2013"
    if name.endswith(("accuracy", "accuracy_low")):
        return percent(value)
    if name == "expected_gain":
        return percent(value)
    if name == "seconds":
        minutes, seconds = divmod(round(value), 60)
        return (f"{minutes}\u202fmin " if minutes else "") + f"{seconds}\u202fs"
    if isinstance(value, int | np.integer):
        return number(int(value), "d")
    return number(value, ".3f" if name in ("ari", "nmi") else ".4g")


def percent(share: float) -> str:
    """0.1234 is 12.3 %."""
    return number(100 * share, ".1f") + PERCENT


def number(value: float, form: str = ".4g") -> str:
    """With thousands apart and a minus sign that is as wide as a plus."""
    return format(value, "," + form).replace("-", "\u2212")


def lead(summary: Mapping[str, Any]) -> str:
    """The run in one sentence."""
    samples, groups = f"{summary['samples']:,} samples", f"{summary['groups']:,} groups"
    if not summary["judgements"]:
        return f"{samples}, {groups}, and not a single question asked."
    return f"{summary['judgements']:,} yes/no answers put {samples} into {groups}."


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, what it means) of the figures that a reader wants first."""
    judgements, samples = summary["judgements"], summary["samples"]
    notes = {
        "samples": "",
        "judgements": f"{judgements / samples:.2f} yes/no answers a sample" if judgements else "",
        "groups": "",
        "partition_accuracy": "of the samples are in the group of their class",
        "estimated_accuracy": "by the audit, without true labels",
        "knn_accuracy": "by the vote of the nearest neighbours",
        "probe_accuracy": "by a linear classifier on the embedding",
        "seconds": "",
    }
    if "estimated_accuracy_low" in summary:
        low = show("accuracy", summary["estimated_accuracy_low"])
        notes["estimated_accuracy"] = f"by the audit, and at least {low}"
    return [
        (NAMES[name], show(name, summary[name]), note)
        for name, note in notes.items()
        if name in summary
    ]


def others(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, figure) of everything that the headline leaves out."""
    told = [name for name, _, _ in headline(summary)]
    named = {NAMES.get(key, key): show(key, value) for key, value in summary.items()}
    return [(name, figure) for name, figure in named.items() if name not in told]
