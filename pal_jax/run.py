"""One run in its workdir: restore, fit, measure, and write what a user takes home."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from pal_jax import evaluate, export, report, train
from pal_jax.active.journal import Journal
from pal_jax.active.questions import Answer, Oracle, Question
from pal_jax.active.sampler import Partition, Sampler
from pal_jax.checkpoint import Checkpoints
from pal_jax.data import Dataset
from pal_jax.errors import Interrupted


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Random questions to the same oracle, on the same embeddings, for comparison."""

    sampler: Sampler
    oracle: Oracle


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run needs, built and checked.

    workdir: its folder. identity: what config.json says, nested and JSON-able. facts: versions,
    devices, commit, for the report. journal: where all answers are; closed at the end. pool: the
    samples that are learned from. held_out: samples that only evaluation sees, or None. oracle:
    who answers the sampler, or None when nothing is asked. key: copied to all devices. feed, embed,
    embed_held_out: see train.make_feed, train.make_embed. audit: judgements of the final audit.
    neighbours: k of kNN. keep: newest checkpoints kept.
    """

    workdir: Path
    identity: dict[str, Any]
    facts: dict[str, str]
    journal: Journal
    pool: Dataset
    held_out: Dataset | None
    sampler: Sampler
    oracle: Oracle | None
    baseline: Baseline | None
    state: train.TrainState
    key: jax.Array
    step: train.Step
    feed: train.Feed
    embed: train.Embed
    embed_held_out: train.Embed | None
    plan: train.Plan
    audit: int
    neighbours: int
    keep: int


def execute(run: Run, stop: Callable[[], bool]) -> dict[str, Any]:
    """Runs to the end, from the newest checkpoint if there is one, and returns the summary.

    Writes into the workdir: metrics.jsonl, tensorboard/, checkpoints/ on the way; answers.jsonl,
    partition.csv, embeddings.npz, summary.json and report.html at the end. What a stopped and
    continued run writes equals, bit for bit, what a run that never stopped writes, but for the
    seconds it took.

    Raises:
        Interrupted: `stop` said so; the newest checkpoint and the journal are on disk.
    """
    folder = run.workdir / "checkpoints"
    with (
        contextlib.closing(run.journal),
        contextlib.closing(Checkpoints(folder, keep=run.keep)) as checkpoints,
    ):
        state, progress = checkpoints.restore(run.state) or (run.state, None)
        if progress is not None:
            run.sampler.load_state_dict(progress["sampler"])
            if run.baseline is not None:
                run.baseline.sampler.load_state_dict(progress["baseline"])
        oracle = None if run.oracle is None else _stoppable(run.oracle, stop)
        try:
            with contextlib.closing(Record(run.workdir, progress)) as record:
                state = _fit(run, state, oracle, record, checkpoints, stop)
                return _finish(run, state, oracle, record)
        finally:  # however it ends, what was bought can be taken elsewhere
            export.write_answers(run.workdir / "answers.jsonl", run.journal.answers())


def _stoppable(oracle: Oracle, stop: Callable[[], bool]) -> Oracle:
    """The same oracle, which ends after an answer, told by then, once a stop is asked for."""

    def answer(questions: Sequence[Question], /) -> Iterator[Answer]:
        for answer in oracle(questions):
            yield answer
            if stop():
                raise Interrupted

    return answer


def _fit(
    run: Run,
    state: train.TrainState,
    oracle: Oracle | None,
    record: "Record",
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
) -> train.TrainState:
    """train.fit with its hooks tied to the screen, the record and the checkpoints."""

    def save(state: train.TrainState) -> None:
        baseline = None if run.baseline is None else run.baseline.sampler.state_dict()
        progress = {"sampler": run.sampler.state_dict(), "baseline": baseline}
        checkpoints.save(int(state.step), state, progress | record.to_dict())

    with _bar(run.plan.rounds * run.plan.steps, int(state.step)) as bar:
        tqdm.write(f"{run.facts['batch']} of {run.facts['devices']}")
        tqdm.write(_HEADER)
        for row in record.rounds():
            tqdm.write(_format(row))

        def measure(round_number, state, embeddings):
            row = _measure(run, round_number, state, embeddings[0], record)
            record.add(row)
            tqdm.write(_format(row))

        hooks = train.Hooks(
            measure=measure,
            save=save,
            progress=bar.update,
            asked=lambda spent: bar.set_postfix(judgements=spent),
            log=lambda step, metrics: record.add({"step": step} | metrics),
            stop=stop,
        )
        return train.fit(
            state,
            run.key,
            run.sampler,
            oracle,
            step=run.step,
            feed=run.feed,
            embed=run.embed,
            plan=run.plan,
            hooks=hooks,
        )


class Record:
    """What has been measured so far: the lines of metrics.jsonl, and the seconds it took.

    The lines travel in every checkpoint, so the file can be put back to what it was there.
    """

    def __init__(self, folder: Path, progress: dict[str, Any] | None):
        saved = progress or {"lines": [], "baseline_rows": [], "seconds": 0.0}
        self.lines: list[dict[str, Any]] = list(saved["lines"])
        self.baseline_rows: list[dict[str, Any]] = list(saved["baseline_rows"])
        self._seconds, self._started = saved["seconds"], time.monotonic()
        path = folder / "metrics.jsonl"
        export.write_text(path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._file = path.open("a")
        step = self.lines[-1]["step"] + 1 if self.lines else 0
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        kind = "round" if "round" in line else "train"
        for name, value in line.items():
            if name not in ("step", "round"):
                self._events.add_scalar(f"{kind}/{name}", value, line["step"])

    def rounds(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "round" in line]

    def losses(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.lines if "round" not in line]

    @property
    def seconds(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def to_dict(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "baseline_rows": self.baseline_rows,
            "seconds": self.seconds,
        }

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _measure(
    run: Run, round_number: int, state: train.TrainState, h: np.ndarray, record: Record
) -> dict[str, Any]:
    """The row of one round; brings the baseline to as many judgements on the same embedding."""
    sampler, labels = run.sampler, run.pool.labels
    step = int(state.step) - 1
    losses = [loss for at, loss in record.losses() if at > step - run.plan.steps]
    row: dict[str, Any] = {"round": round_number, "step": step}
    if run.oracle is not None:  # else the partition changes only with the embedding
        groups = sampler.partition(h).groups
        row |= {"judgements": sampler.spent, "groups": int(groups.max()) + 1}
        if labels is not None:
            row |= evaluate.partition_scores(groups, labels)
    if labels is not None:
        row["knn_accuracy"] = evaluate.knn_accuracy(
            h, labels, *_test_set(run, state), k=run.neighbours
        )
    row["effective_rank"] = evaluate.effective_rank(h)
    row["loss"] = float(np.mean(losses))
    if run.baseline is not None and labels is not None:
        other = run.baseline.sampler
        more = sampler.spent - other.spent
        other.ask(run.baseline.oracle, h, more, judgements=more)
        scores = evaluate.partition_scores(other.partition(h).groups, labels)
        record.baseline_rows.append({"judgements": other.spent} | scores)
    return row


def _test_set(run: Run, state: train.TrainState) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(h, labels) of the held-out samples, or (None, None): evaluate leaves one out, then."""
    if run.held_out is None or run.embed_held_out is None:
        return None, None
    return run.embed_held_out(state)[0], run.held_out.labels


def _finish(
    run: Run, state: train.TrainState, oracle: Oracle | None, record: Record
) -> dict[str, Any]:
    """The final audit, the final figures, and every file that a user takes home."""
    with tqdm(total=4, desc="finishing", unit="stage") as bar:
        h, z = run.embed(state)
        summary: dict[str, Any] = {"samples": len(h)}
        if oracle is not None and run.audit:
            audit = run.sampler.audit(oracle, h, run.audit)
            if audit is not None:
                summary["estimated_accuracy"] = audit.estimated_accuracy
                summary["estimated_accuracy_low"] = audit.estimated_accuracy_low
        bar.update()
        partition = run.sampler.partition(h)
        groups = int(partition.groups.max()) + 1
        summary |= {"judgements": run.sampler.spent, "groups": groups}
        summary |= _final_scores(run, state, h, partition)
        summary["seconds"] = round(record.seconds, 1)
        bar.update()
        folder, ids = run.workdir, run.pool.ids
        export.write_partition(
            folder / "partition.csv", ids, partition.groups, partition.probability
        )
        export.write_embeddings(folder / "embeddings.npz", ids, h, z)
        bar.update()
        report.write(folder / "report.html", _report(run, record, summary, partition, h))
        export.write_json(folder / "summary.json", summary)
        bar.update()
    accuracy = summary.get("partition_accuracy")
    known = "" if accuracy is None else f", partition accuracy {accuracy:.4f}"
    print(
        f"{len(h)} samples in {groups} groups from {run.sampler.spent} judgements{known}, "
        f"in {summary['seconds']:.0f} s; look at {folder / 'report.html'}"
    )
    return summary


def _final_scores(
    run: Run, state: train.TrainState, h: np.ndarray, partition: Partition
) -> dict[str, float]:
    labels, test = run.pool.labels, _test_set(run, state)
    scores = {"effective_rank": evaluate.effective_rank(h)}
    if labels is None:
        return scores
    return scores | {
        **evaluate.partition_scores(partition.groups, labels),
        "knn_accuracy": evaluate.knn_accuracy(h, labels, *test, k=run.neighbours),
        "probe_accuracy": evaluate.logistic_probe(h, labels, *test),
        "ridge_accuracy": evaluate.ridge_probe(h, labels, *test),
    }


_COLUMNS = {
    "round": ("round", "d"),
    "judgements": ("judgements", "d"),
    "groups": ("groups", "d"),
    "partition_accuracy": ("partition accuracy", ".4f"),
    "knn_accuracy": ("kNN accuracy", ".4f"),
    "loss": ("loss", ".4f"),
}
_HEADER = "  ".join(title for title, _ in _COLUMNS.values())


def _format(row: dict[str, Any]) -> str:
    """One line of the table; '-' where a figure needs true labels and there are none."""
    cells = []
    for name, (title, form) in _COLUMNS.items():
        text = format(row[name], form) if name in row else "-"
        cells.append(text.rjust(max(len(title), 9 if name == "loss" else 0)))
    return "  ".join(cells)


def _bar(total: int, done: int) -> tqdm:
    """Progress over all optimiser steps, with an ETA; sparse where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(
        total=total, initial=done, unit="step", mininterval=interval, maxinterval=interval + 1.0
    )


def _report(
    run: Run, record: Record, summary: dict[str, Any], partition: Partition, h: np.ndarray
) -> report.Report:
    images = run.pool.inputs if run.pool.inputs.ndim == 4 else None
    return report.Report(
        title=run.pool.name,
        facts=run.facts,
        summary=summary,
        rounds=record.rounds(),
        baseline=record.baseline_rows if run.baseline is not None else None,
        losses=record.losses(),
        inputs=images,
        ids=run.pool.ids,
        groups=partition.groups,
        probability=partition.probability,
        embedding=h,
        answers=run.sampler.answers,
        config=run.identity["config"],
        skipped=run.pool.skipped,
    )
