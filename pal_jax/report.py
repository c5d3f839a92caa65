"""report.html: one self-contained page that shows what a run did, learned and does not know.

The page makes no request, runs no script and holds no time of day: the same Report always gives the
same bytes. All text of the outside (ids, names of files and oracles) is escaped by the template.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pal_jax import evaluate, export, figures, wording
from pal_jax.active.questions import Answer, Relation
from pal_jax.records import Records
from pal_jax.wording import NAMES, PERCENT, number, percent, show

# Larger sets are shown by this many of their samples.
_MAP_SAMPLES = 2000
_MATRIX_SAMPLES = 240
# Groups with a sheet, a name on the map and a colour of their own; colours repeat after ten.
_SHOWN_GROUPS = 24
_COLOURS = 10
# Images on all sheets together; the page stays below some 3 MB with them.
_SHEET_IMAGES = 480
_UNSURE_IMAGES = 6
_UNSURE = 0.5  # a probability below this is called unsure: more likely wrong than right
_HARDEST = 6  # questions shown of each kind
_LONGEST_ID = 120  # characters; of a longer id the end is shown
_CHUNK = 4096  # pairs compared at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a run has to tell. Row i of every array is sample i.

    Attributes:
        title: name of the data set.
        facts: versions, devices, seed, commit: what it takes to run this again.
        summary: the contents of summary.json: samples, judgements and groups at least; of these
            "warnings" are sentences, shown first.
        rounds: one row a round: round, step, judgements, groups, loss, effective_rank and, where
            true labels exist, partition_accuracy, ari, nmi, knn_accuracy; any may be absent.
        baseline: rows with judgements and partition_accuracy of random questions, or None.
        losses: (step, loss).
        inputs: uint8 [n, H, W, C] images, or None where samples are no images.
        ids: [n] text.
        groups: [n] int from 0 up.
        probability: [n] that a sample is in its group.
        embedding: [n, H] representations, for map, matrix and hardest questions.
        answers: all answers, oldest first.
        config: flat, option -> value.
        skipped: "path: reason" for each file or folder that was left out.
    """

    title: str
    facts: Mapping[str, str]
    summary: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    baseline: Sequence[Mapping[str, Any]] | None
    losses: Sequence[tuple[int, float]]
    inputs: np.ndarray | Records | None
    ids: np.ndarray
    groups: np.ndarray
    probability: np.ndarray
    embedding: np.ndarray
    answers: Sequence[Answer]
    config: Mapping[str, Any]
    skipped: Sequence[str] = ()


def write(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pal_jax"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = _shown_groups(report.groups)
    page = environment.get_template("report.html.j2").render(
        report=report,
        lead=wording.lead(report.summary),
        warnings=report.summary.get("warnings", []),
        headline=wording.headline(report.summary),
        measured=wording.others(report.summary),
        answered=_answered(report.answers),
        not_followed=wording.not_followed(report.summary),
        accuracy=_accuracy_chart(report),
        discovery=_discovery_chart(report),
        training=_training_charts(report),
        rounds=_rounds_table(report),
        map=_map(report, shown),
        matrix=_matrix(report),
        sheets=_sheets(report, shown),
        hardest=_hardest(report),
        missing=_missing(report, len(shown)),
    )
    export.write_text(path, page)


def _answered(answers: Sequence[Answer]) -> dict[str, int]:
    """Judgements of each relation."""
    relations = [relation for answer in answers for relation in answer.relations]
    return {relation.value: relations.count(relation) for relation in Relation}


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    return _finite([(row[x], row[y]) for row in rows if x in row and y in row])


def _finite(points: figures.Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _in_percent(points: figures.Points) -> list[tuple[float, float]]:
    return [(x, 100 * y) for x, y in points]


def _accuracy_chart(report: Report) -> figures.Chart | None:
    """Partition accuracy against judgements; None where either is unknown."""
    end = [report.summary] if report.answers else []
    points = _points([*report.rounds, *end], "judgements", "partition_accuracy")
    if not points or points[-1][0] == 0:
        return None
    series = {"this run": points}
    if report.baseline:
        series["random questions"] = _points(report.baseline, "judgements", "partition_accuracy")
    series = {name: _in_percent(line) for name, line in series.items()}
    return figures.line_chart("Partition accuracy", "judgements", series, unit=PERCENT)


def _discovery_chart(report: Report) -> figures.Chart | None:
    """Groups found against judgements; None where nothing was asked."""
    end = [report.summary] if report.answers else []
    points = _points([*report.rounds, *end], "judgements", "groups")
    if not points or points[-1][0] == 0:
        return None
    return figures.line_chart("Groups found", "judgements", {"this run": points})


def _training_charts(report: Report) -> list[figures.Chart]:
    knn = _in_percent(_points(report.rounds, "step", "knn_accuracy"))
    rank = _points(report.rounds, "step", "effective_rank")
    charts = (
        ("Loss", _finite(report.losses), ""),
        ("kNN accuracy", knn, PERCENT),
        ("Effective rank of the embedding", rank, ""),
    )
    return [
        figures.line_chart(title, "optimiser steps", {"this run": points}, unit)
        for title, points, unit in charts
        if points
    ]


def _rounds_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """(titles, rows) of all that was measured each round, the baseline at equal cost included."""
    random = dict(_points(report.baseline or (), "judgements", "partition_accuracy"))
    rows = [dict(row) for row in report.rounds]
    for row in rows:
        if row.get("judgements") in random:
            row["random_accuracy"] = random[row["judgements"]]
    columns = [name for name in NAMES if any(name in row for row in rows)]
    table = [[show(name, row.get(name)) for name in columns] for row in rows]
    return [NAMES[name] for name in columns], table


def _shown_groups(groups: np.ndarray) -> list[int]:
    """The largest groups, by number."""
    sizes = np.bincount(groups)
    largest = np.argsort(-sizes, kind="stable")[:_SHOWN_GROUPS]
    return sorted(int(group) for group in largest if sizes[group])


def _map(report: Report, shown: Sequence[int]) -> dict[str, Any]:
    """Dots of each shown group (sure and unsure ones), its label, and the dots of all others."""
    n = len(report.groups)
    rows = np.arange(n)
    if n > _MAP_SAMPLES:
        rows = np.sort(np.random.default_rng(0).choice(n, _MAP_SAMPLES, replace=False))
    xy, groups = figures.layout(report.embedding[rows]), report.groups[rows]
    sure = report.probability[rows] >= _UNSURE
    drawn = []
    for place, group in enumerate(shown):
        mine = groups == group
        if not mine.any():
            continue
        middle = np.median(xy[mine], axis=0)
        nearest = np.square(xy[mine] - middle).sum(axis=1).argmin()
        drawn.append(
            {
                "group": group,
                "colour": place % _COLOURS,
                "sure": figures.dots(xy[mine & sure]),
                "unsure": figures.dots(xy[mine & ~sure]),
                "label": np.round(xy[mine][nearest], 2).tolist(),
            }
        )
    others = ~np.isin(groups, shown)
    return {
        "groups": drawn,
        "others": figures.dots(xy[others]),
        "samples": len(rows),
        "unsure": int(np.sum(~sure & ~others)),
    }


def _matrix(report: Report) -> dict[str, Any]:
    """Cosines between samples sorted by group, surest first: image, ends of its scale, blocks."""
    order = np.lexsort((-report.probability, report.groups))
    rows = order[np.linspace(0, len(order) - 1, min(len(order), _MATRIX_SAMPLES)).astype(int)]
    unit = evaluate.unit_rows(report.embedding[rows])
    cosine = unit @ unit.T
    low, high = (float(x) for x in np.percentile(cosine, (1, 99)))
    percent = 100.0 / len(rows)
    groups, starts, sizes = np.unique(report.groups[rows], return_index=True, return_counts=True)
    return {
        "image": figures.heat_map(cosine, low, high),
        "scale": [number(x, ".2f") for x in (low, high)],
        "edges": [round(float(start) * percent, 2) for start in starts[1:]],
        "blocks": [
            (int(group), round((float(start) + size / 2) * percent, 2))
            for group, start, size in zip(groups, starts, sizes, strict=True)
            if size * percent >= 3.5
        ],
        "samples": len(rows),
    }


def _tile(report: Report, row: int) -> dict[str, Any]:
    """One sample: its id, its image if there is one, its group and how sure that is."""
    name = str(report.ids[row])
    return {
        "id": name if len(name) <= _LONGEST_ID else "\u2026" + name[1 - _LONGEST_ID :],
        "image": None if report.inputs is None else figures.thumbnail(report.inputs[row]),
        "group": int(report.groups[row]),
        "probability": percent(float(report.probability[row])),
    }


def _sheets(report: Report, shown: Sequence[int]) -> list[dict[str, Any]]:
    """For each shown group its most probable samples, and the least sure of the rest."""
    images = 9 if report.inputs is None else _SHEET_IMAGES // len(shown)
    most = min(24, images) - _UNSURE_IMAGES
    sheets = []
    for place, group in enumerate(shown):
        members = np.flatnonzero(report.groups == group)
        p = report.probability[members]
        members = members[np.argsort(-p, kind="stable")]
        sheets.append(
            {
                "group": group,
                "colour": place % _COLOURS,
                "samples": len(members),
                "probability": percent(float(p.mean())),
                "sure": [_tile(report, row) for row in members[:most]],
                "unsure": [_tile(report, row) for row in members[most:][-_UNSURE_IMAGES:]],
            }
        )
    return sheets


def _hardest(report: Report) -> list[tuple[str, list[dict[str, Any]]]]:
    """(kind, pairs): alike pairs of the smallest cosine, not-alike pairs of the largest.

    These are the answers that the final embedding would have guessed least. A pair that was asked
    again with the same answer stands here once.
    """
    asked: dict[tuple[int, int, Relation], str] = {}
    for answer in report.answers:
        for i, j, relation in answer.judgements:
            asked.setdefault((min(i, j), max(i, j), relation), answer.oracle)
    kinds = []
    for relation, sign in ((Relation.ALIKE, 1), (Relation.NOT_ALIKE, -1)):
        pairs = np.array([(i, j) for i, j, r in asked if r is relation], int).reshape(-1, 2)
        cosine = _cosines(report.embedding, pairs)
        hardest = np.argsort(sign * cosine, kind="stable")[:_HARDEST]
        kinds.append(
            (
                relation.value,
                [
                    {
                        "tiles": [_tile(report, int(row)) for row in pairs[at]],
                        "cosine": number(float(cosine[at]), ".2f"),
                        "oracle": asked[(int(pairs[at][0]), int(pairs[at][1]), relation)],
                    }
                    for at in hardest
                ],
            )
        )
    return kinds


def _cosines(h: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[m] cosine of the two rows of each pair [m, 2], a chunk at a time."""
    chunks = (pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK))
    unit = evaluate.unit_rows
    cosines = [np.sum(unit(h[c[:, 0]]) * unit(h[c[:, 1]]), axis=1) for c in chunks]
    return np.concatenate([np.zeros(0), *cosines])


def _missing(report: Report, shown: int) -> list[str]:
    """What a reader could look for in vain, and why it is not there."""
    summary, sentences = report.summary, []
    if "partition_accuracy" not in summary:
        sentences.append(
            "There are no true labels, so accuracy, kNN and probes could not be measured"
            + (
                "; the audit's estimate stands in for them."
                if "estimated_accuracy" in summary
                else ", and no audit was made that would estimate the accuracy."
            )
        )
    if not report.answers:
        sentences.append("Nothing was asked in this run, so there are no judgements to show.")
    elif not report.baseline:
        sentences.append(
            "Random questions stand beside this run only where a program answers from true labels; "
            "nobody is asked questions for a comparison."
        )
    if "estimated_accuracy" in summary:
        sentences.append(
            "The audit compares random samples with the middle of their group; groups that may be "
            "pieces of larger ones are taken off its estimate, and off the accuracy that it has at "
            "least all groups that no answer keeps apart from a larger one."
        )
    if report.inputs is None:
        sentences.append("The samples are not images, so they are shown by their ids.")
    n, groups = len(report.groups), len(np.unique(report.groups))
    if n > _MAP_SAMPLES:
        sentences.append(f"The map shows {_MAP_SAMPLES:,} samples, drawn at random, of {n:,}.")
    if groups > shown:
        sentences.append(
            f"Sheets and names on the map are of the {shown} largest of {groups:,} groups; "
            "partition.csv has them all."
        )
    if groups > _COLOURS:
        sentences.append(f"Colours repeat after {_COLOURS} groups; the numbers do not.")
    return sentences
