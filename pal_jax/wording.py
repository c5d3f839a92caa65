"""Figures in words: names, percent, thousands and minutes, as a reader wants them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_FEW = 20  # audit answers; from fewer an estimate may be off by a fifth and more
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
    "samples_measured": "Samples whose kNN accuracy, probes and rank these are",
    "judgements_unsure": "Judgements that were not sure",
    "estimated_accuracy": "Estimated accuracy",
    "estimated_accuracy_low": "Estimated accuracy, lower bound",
    "audits": "Audit answers",
    "audits_unsure": "Audit answers that were not sure",
    "error_rate": "Wrong answers of the oracle, estimated",
    "expected_gain": "Expected gain of 50 more answers",
    "contradictions": "Judgements not followed",
    "prior_contradictions": "Prior judgements not followed",
    "loss": "Loss",
    "seconds": "Time",
}


def show(name: str, value: Any) -> str:
    """The value of the figure `name` of summary.json or metrics.jsonl, with its unit."""
    if value is None:
        return "\u2013"
    if name.endswith(("accuracy", "accuracy_low")) or name in ("error_rate", "expected_gain"):
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
    sure, unsure = _sure(summary)
    not_sure = f", and {unsure:,} not sure," if unsure else ""
    return f"{_counted(sure, 'yes/no answer')}{not_sure} put {samples} into {groups}."


def _sure(summary: Mapping[str, Any]) -> tuple[int, int]:
    """(yes/no answers, "not sure") of the judgements."""
    unsure = summary.get("judgements_unsure", 0)
    return summary["judgements"] - unsure, unsure


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _audited(summary: Mapping[str, Any]) -> str:
    """What the estimate rests on, with the number of answers where they are few."""
    audits = summary.get("audits", 0)
    sure = audits - summary.get("audits_unsure", 0)
    if not audits or sure >= _FEW:
        return "by the audit"
    return f"by {_counted(sure, 'sure answer')} of the audit alone"


def not_followed(summary: Mapping[str, Any]) -> str:
    """How many judgements the groups do not follow, and whose; '' where there are none."""
    own, prior = summary.get("contradictions", 0), summary.get("prior_contradictions", 0)
    told = [f"{own:,} of the judgements"] if own else []
    told += [f"{prior:,} of those believed from the start"] if prior else []
    return " and ".join(told)


def one_sided(oracle: str, relation: str, count: int) -> str:
    """What to think of an oracle that has only ever said one thing: alike, or not alike."""
    only, never, unless = ("no", "yes", "there are very many classes")
    if relation == "alike":
        only, never, unless = ("yes", "no", "all samples are of one class")
    return (
        f'{oracle} said "{only}" {count:,} times and never "{never}": unless {unless}, neither its '
        "answers nor the groups and probabilities that follow from them can be believed."
    )


def refuted(share: float) -> str:
    """What to think of answers that were taken for proof, of which this share is wrong at least."""
    return (
        f"Answers are taken for proof, yet they fit the embedding as if {percent(share)} of them "
        "or more were wrong: either they are, and asking.error_rate=-1 estimates how many, or the "
        "embedding says little of the classes; the probabilities may be too high."
    )


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, what it means) of the figures that a reader wants first."""
    sure, unsure = _sure(summary)
    asked = ""
    if sure or unsure:
        asked = f"{sure / summary['samples']:.2f} yes/no answers a sample"
        asked += f", and {unsure:,} not sure" if unsure else ""
    measured = summary.get("samples_measured")
    drawn = "" if measured is None else f", of {measured:,} samples"
    notes = {
        "samples": "",
        "judgements": asked,
        "groups": "",
        "partition_accuracy": "of the samples are in the group of their class",
        "estimated_accuracy": f"{_audited(summary)}, without true labels",
        "knn_accuracy": f"by the vote of the nearest neighbours{drawn}",
        "probe_accuracy": f"by a linear classifier on the embedding{drawn}",
        "seconds": "",
    }
    if "estimated_accuracy_low" in summary:
        low = show("accuracy", summary["estimated_accuracy_low"])
        notes["estimated_accuracy"] = f"{_audited(summary)}, and at least {low}"
    return [
        (NAMES[name], show(name, summary[name]), note)
        for name, note in notes.items()
        if name in summary
    ]


def others(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, figure) of everything that the headline leaves out."""
    told = [name for name, _, _ in headline(summary)]
    figures = {key: value for key, value in summary.items() if key != "warnings"}
    named = {NAMES.get(key, key): show(key, value) for key, value in figures.items()}
    return [(name, figure) for name, figure in named.items() if name not in told]
