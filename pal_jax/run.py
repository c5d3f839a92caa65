"""One run in its workdir: restore, fit, measure, and write what a user takes home."""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from pal_jax import evaluate, export, hosts, report, train, wording
from pal_jax.active.journal import Journal
from pal_jax.active.questions import (
    Answer,
    Oracle,
    Relation,
    answer_from_dict,
    answer_to_dict,
)
from pal_jax.active.sampler import Belief, Partition, Sampler
from pal_jax.checkpoint import Checkpoints
from pal_jax.data import Dataset
from pal_jax.errors import Interrupted, UserError
from pal_jax.record import TABLE_HEADER, Record, table_row

_NEXT = 50  # answers whose expected gain the report tells
Embeddings = tuple[np.ndarray, np.ndarray]  # h [n, H], z [n, K]
TestSet = tuple[np.ndarray | None, np.ndarray | None]  # h [m, H], labels [m]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Random questions to the same oracle, on the same embeddings, for comparison."""

    sampler: Sampler
    oracle: Oracle


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run needs, built and checked.

    workdir: its folder, local or gs://. local: where journal and TensorBoard lie. identity: what
    config.json says, nested and JSON-able. facts: versions, devices, commit, for the report.
    journal: where all answers are; closed at the end; None in all processes but 0. pool: the
    samples that are learned from. prior_lines: of each answer that the sampler believed from the
    start, in its file. notes: what the screen should say of samples and answers. held_out: samples
    that only evaluation sees, or None.
    make_oracle: (answers already given, stop) -> who answers the sampler, or None when nothing is
    asked; one that takes its time ends with Interrupted once `stop` says so.
    key: copied to all devices of the mesh. feed, embed, embed_held_out: see train.make_feed,
    train.make_embed, and ondisk.py for data that stays on disk. audit: judgements of the final
    audit. neighbours: k of kNN. looked_at: samples of the pool that kNN, probes and rank take, 0
    for all. keep: newest checkpoints kept.
    """

    workdir: Path
    local: Path
    identity: dict[str, Any]
    facts: dict[str, str]
    journal: Journal | None
    pool: Dataset
    held_out: Dataset | None
    sampler: Sampler
    prior_lines: Sequence[int]
    notes: tuple[str, ...]
    make_oracle: Callable[[Sequence[Answer], Callable[[], bool]], Oracle] | None
    baseline: Baseline | None
    mesh: Mesh
    state: train.TrainState
    key: jax.Array
    step: train.Step
    feed: train.Feed
    embed: train.Embed
    embed_held_out: train.Embed | None
    plan: train.Plan
    audit: int
    neighbours: int
    looked_at: int
    keep: int


def execute(run: Run, stop: Callable[[], bool]) -> None:
    """Runs to the end, from the newest checkpoint if there is one.

    Writes into the workdir: metrics.jsonl, tensorboard/, checkpoints/ on the way; answers.jsonl,
    partition.csv, embeddings.npz, summary.json and report.html at the end. What a stopped and
    continued run writes equals, bit for bit, what a run that never stopped writes, but for the
    seconds it took.

    With several processes all of them call this: each trains, and process 0 does the rest.

    Raises:
        Interrupted: `stop` said so; the newest checkpoint and the journal are on disk.
        LeadFailed: in all processes but 0, when that one has failed.
        PeerLost: another process is gone; the newest checkpoint and the journal are on disk.
        FailedAlone: instead of UserError or OSError, where the other processes do not know.
    """
    with (
        hosts.noticing_failures(),  # around the end of Checkpoints, which waits for the others
        contextlib.nullcontext() if run.journal is None else contextlib.closing(run.journal),
        Checkpoints(run.workdir / "checkpoints", keep=run.keep) as checkpoints,
        hosts.noticing_failures(),  # within it, so that it knows and does not wait
    ):
        if jax.process_count() == 1 and stop():  # it took a while to come so far
            raise Interrupted
        state, progress = run.state, None
        if (found := checkpoints.restore(run.state)) is not None:
            state, progress = found
            for array in jax.tree.leaves(run.state):  # `run` would hold it to the end
                array.delete()
        _go_on(run, progress)
        oracle = _oracle(run, stop)
        with _answers_taken_home(run), contextlib.closing(_record(run, progress)) as record:
            state = _fit(run, state, oracle, record, checkpoints, stop)
            _finish(run, state, oracle, record, stop)


def _go_on(run: Run, progress: dict[str, Any] | None) -> None:
    """Takes sampler, journal and baseline to where a checkpoint left them."""
    if progress is None:
        return
    if not hosts.lead():
        log = [json.loads(text) for text in progress["journal"][: progress["sampler"]["answers"]]]
        run.sampler.load_state_dict(progress["sampler"] | {"log": log})

    def lead_on() -> None:
        if run.journal is not None:
            run.journal.refill(progress["journal"])
            run.sampler.load_state_dict(progress["sampler"])
        if run.baseline is not None:
            run.baseline.sampler.load_state_dict(progress["baseline"])

    hosts.only_lead(lead_on)


def _oracle(run: Run, stop: Callable[[], bool]) -> Oracle | None:
    """Who answers, told what has been answered; None in all processes but 0."""

    def make() -> Oracle | None:
        if run.make_oracle is None or run.journal is None:
            return None
        return run.make_oracle(run.journal.answers(), stop)

    return hosts.lead_keeps(make)


@contextlib.contextmanager
def _answers_taken_home(run: Run) -> Iterator[None]:
    """However the block ends, answers.jsonl has what was bought."""

    def write() -> None:
        if run.journal is not None:
            export.write_answers(run.workdir / "answers.jsonl", run.journal.answers(), run.pool.ids)

    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the block is what must be told
            write()
        raise
    write()


def _record(run: Run, progress: dict[str, Any] | None) -> Record:
    files = run.workdir / "metrics.jsonl", run.local / "tensorboard"
    return hosts.lead_keeps(lambda: Record(files, progress)) or Record(None, progress)


def _fit(
    run: Run,
    state: train.TrainState,
    oracle: Oracle | None,
    record: Record,
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
) -> train.TrainState:
    """train.fit with its hooks tied to the screen, the record and the checkpoints."""
    total, done = run.plan.total, int(jax.device_get(state.step))
    doubted: set[str] = set()
    with _bar(total, done) as bar:
        _say(*run.notes, f"{run.facts['batch']} of {run.facts['devices']}", TABLE_HEADER)
        _say(*map(table_row, record.rounds()))

        def ask(number: int, h: np.ndarray) -> None:
            told = len(run.sampler.answers)

            def buy() -> tuple[list[dict[str, Any]], Belief | None]:
                if oracle is not None:
                    if run.audit and run.plan.follows_an_end(number):
                        run.sampler.audit(oracle, h, run.audit)  # the one with which it ended
                    asked = functools.partial(_show_judgements, bar)
                    train.buy_round(
                        run.sampler, oracle, h, run.plan, number, asked=asked, stop=stop
                    )
                bought = [answer_to_dict(answer) for answer in run.sampler.answers[told:]]
                return bought, run.sampler.believe(h)

            bought, belief = hosts.only_lead(buy)
            if not hosts.lead():  # where h may have no rows
                run.sampler.tell([answer_from_dict(answer) for answer in bought])
                run.sampler.hold(belief)

        def save(state: train.TrainState) -> None:
            checkpoints.save(int(jax.device_get(state.step)), state, _progress(run, record))
            record.publish()

        def measure(number: int, state: train.TrainState, embeddings: Embeddings) -> None:
            step, test = int(jax.device_get(state.step)) - 1, _test_set(run, state)

            def add() -> None:
                record.add(_measure(run, number, step, embeddings[0], test, record))
                _say(table_row(record.rounds()[-1]))
                for oracle, sentence in _one_sided(run.sampler).items():
                    if oracle not in doubted:  # each once, and at the end again
                        _say(sentence)
                doubted.update(_one_sided(run.sampler))

            hosts.only_lead(add)

        return train.fit(
            state,
            run.key,
            run.sampler,
            None if run.make_oracle is None else ask,
            step=run.step,
            feed=run.feed,
            embed=run.embed,
            plan=run.plan,
            hooks=train.Hooks(
                measure=measure,
                save=save,
                progress=bar.update,
                log=lambda step, metrics: record.add({"step": step} | metrics),
                stop=hosts.agreed(stop, run.mesh),
            ),
        )


def _progress(run: Run, record: Record) -> dict[str, Any]:
    """What a checkpoint holds beside the train state; see `_go_on`."""
    if run.journal is None:
        return {}
    return {
        "sampler": run.sampler.state_dict(),
        "journal": run.journal.snapshot(),
        "baseline": None if run.baseline is None else run.baseline.sampler.state_dict(),
    } | record.to_dict()


def _measure(
    run: Run, number: int, step: int, h: np.ndarray, test: TestSet, record: Record
) -> dict[str, Any]:
    """The row of one round; brings the baseline to as many judgements on the same embedding.

    Args:
        step: the last one taken.
        test: see `_test_set`.
    """
    sampler, labels = run.sampler, run.pool.labels
    losses = [loss for at, loss in record.losses() if at > step - run.plan.length(number)]
    row: dict[str, Any] = {"round": number, "step": step}
    if run.make_oracle is not None:  # else the partition changes only with the embedding
        groups = sampler.partition(h).groups
        row |= {"judgements": sampler.spent, "groups": int(groups.max()) + 1}
        if labels is not None:
            row |= evaluate.partition_scores(groups, labels)
    few, known = _looked_at(run, h)
    if known is not None:
        row["knn_accuracy"] = evaluate.knn_accuracy(few, known, *test, k=run.neighbours)
    row["effective_rank"] = evaluate.effective_rank(few)
    row["loss"] = float(np.mean(losses))
    if run.baseline is not None and labels is not None:
        other = run.baseline.sampler
        more = sampler.spent - other.spent
        other.ask(run.baseline.oracle, h, more, judgements=more)
        scores = evaluate.partition_scores(other.partition(h).groups, labels)
        record.baseline_rows.append({"judgements": other.spent} | scores)
    return row


def _looked_at(run: Run, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, labels or None) of the samples that kNN, probes and rank take: all, or some, evenly."""
    labels, n = run.pool.labels, len(h)
    if run.looked_at and run.looked_at < n:
        rows = np.linspace(0, n - 1, run.looked_at).astype(int)
        h, labels = h[rows], None if labels is None else labels[rows]
    if labels is not None and np.count_nonzero(labels >= 0) < 2:  # of few, none may be among them
        labels = None
    return np.asarray(h, np.float32), labels


def _test_set(run: Run, state: train.TrainState) -> TestSet:
    """(h, labels) of the held-out samples, or (None, None): evaluate leaves one out, then."""
    if run.held_out is None or run.embed_held_out is None:
        return None, None
    return np.asarray(run.embed_held_out(state)[0], np.float32), run.held_out.labels


def _finish(
    run: Run,
    state: train.TrainState,
    oracle: Oracle | None,
    record: Record,
    stop: Callable[[], bool],
) -> None:
    """The final audit, the final figures, and every file that a user takes home."""
    embeddings, test = run.embed(state), _test_set(run, state)
    hosts.only_lead(lambda: _write_results(run, embeddings, test, oracle, record, stop))


def _write_results(
    run: Run,
    embeddings: Embeddings,
    test: TestSet,
    oracle: Oracle | None,
    record: Record,
    stop: Callable[[], bool],
) -> None:
    with tqdm(total=4, desc="finishing", unit="stage") as bar:

        def pause() -> None:
            if stop():
                raise Interrupted

        def advance() -> None:
            bar.update()
            pause()

        h, z = embeddings
        summary: dict[str, Any] = {"samples": len(h)}
        if oracle is not None and run.audit:
            summary |= _audit(run, oracle, h)
        advance()
        partition = run.sampler.partition(h)
        groups = int(partition.groups.max()) + 1
        summary |= {"judgements": run.sampler.spent, "groups": groups}
        if unsure := _count(run.sampler.answers, Relation.UNKNOWN):
            summary["judgements_unsure"] = unsure
        if run.sampler.answers and run.sampler.trust.error_rate is None:
            summary["error_rate"] = partition.error_rate
        if oracle is not None:
            summary["expected_gain"] = run.sampler.expected_gain(h, _NEXT)
        if warnings := _warnings(run.sampler, h):
            summary["warnings"] = warnings
        summary |= _final_scores(run, test, h, partition, pause)
        summary["seconds"] = round(record.seconds, 1)
        advance()
        folder, ids = run.workdir, run.pool.ids
        _write_partition(folder / "partition.csv", ids, partition)
        summary |= _write_contradictions(run, folder / "contradictions.csv", partition)
        export.write_embeddings(folder / "embeddings.npz", ids, h, z)
        advance()
        report.write(folder / "report.html", _report(run, record, summary, partition, h))
        export.write_json(folder / "summary.json", summary)
        record.publish()
        bar.update()
    accuracy = summary.get("partition_accuracy")
    known = "" if accuracy is None else f", partition accuracy {accuracy:.4f}"
    not_sure = f" ({unsure} of them not sure)" if unsure else ""
    print(
        f"{len(h)} samples in {groups} groups from {run.sampler.spent} judgements{not_sure}{known}"
        f", in {summary['seconds']:.0f} s; look at {folder / 'report.html'}"
    )
    for warning in warnings:
        print(warning)


def _warnings(sampler: Sampler, h: np.ndarray) -> list[str]:
    """Why answers should not be believed as they are, each in a sentence."""
    share = sampler.refuted(h)
    return [*_one_sided(sampler).values(), *([wording.refuted(share)] if share else [])]


def _one_sided(sampler: Sampler) -> dict[str, str]:
    """A sentence on each oracle that has only ever said one thing, by its name."""
    return {
        found.oracle: wording.one_sided(found.oracle, found.relation.value, found.count)
        for found in sampler.one_sided()
    }


def _audit(run: Run, oracle: Oracle, h: np.ndarray) -> dict[str, Any]:
    """The final one, as the summary has it: how good the partition was before it."""
    audit = run.sampler.audit(oracle, h, run.audit)
    if audit is None:
        return {}
    return {
        "estimated_accuracy": audit.estimated_accuracy,
        "estimated_accuracy_low": audit.estimated_accuracy_low,
        "audits": audit.judgements,
    } | ({"audits_unsure": audit.unsure} if audit.unsure else {})


def _count(answers: Sequence[Answer], relation: Relation) -> int:
    """Judgements of this relation."""
    return sum(answer.relations.count(relation) for answer in answers)


def _write_contradictions(run: Run, path: Path, partition: Partition) -> dict[str, int]:
    """How many there are, of answers bought and, if any, of those believed from the start."""
    found, answers = run.sampler.contradictions(partition.groups), run.sampler.answers
    export.write_contradictions(path, run.pool.ids, found, answers, run.prior_lines)
    prior = sum(c.position < 0 for c in found)
    told = {"contradictions": len(found) - prior}
    return told | ({"prior_contradictions": prior} if prior else {})


def _write_partition(path: Path, ids: np.ndarray, partition: Partition) -> None:
    """partition.csv with the names that were typed into the one before it.

    Nobody but the user has these: where they cannot be carried over, the file they are in stays.
    """
    names = None
    try:
        names = export.names_typed_into(path, ids)
    except UserError as error:
        aside = export.move_aside(path)
        _say(f"names typed into {path} are not carried over, and it is now {aside}: {error}")
    export.write_partition(path, ids, partition.groups, partition.probability, names)


def _final_scores(
    run: Run, test: TestSet, h: np.ndarray, partition: Partition, pause: Callable[[], object]
) -> dict[str, float]:
    """Every figure that can be had; `pause`, called between those that take long, may raise."""
    labels = run.pool.labels
    few, known = _looked_at(run, h)
    scores: dict[str, float] = {"samples_measured": len(few)} if len(few) < len(h) else {}
    scores["effective_rank"] = evaluate.effective_rank(few)
    if labels is not None:
        scores |= evaluate.partition_scores(partition.groups, labels)
    if known is None:
        return scores
    pause()
    scores["knn_accuracy"] = evaluate.knn_accuracy(few, known, *test, k=run.neighbours)
    pause()
    scores["probe_accuracy"] = evaluate.logistic_probe(few, known, *test)
    pause()
    scores["ridge_accuracy"] = evaluate.ridge_probe(few, known, *test)
    return scores


def _bar(total: int, done: int) -> tqdm:
    """Progress over all optimiser steps, with an ETA; sparse where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(
        total=total,
        initial=done,
        unit="step",
        mininterval=interval,
        maxinterval=interval + 1.0,
        disable=not hosts.lead(),
    )


def _show_judgements(bar: tqdm, spent: int) -> None:
    bar.set_postfix(judgements=spent, refresh=sys.stderr.isatty())  # a log gets no line an answer


def _say(*lines: str) -> None:
    """Lines on the screen, above the bar, of process 0 alone."""
    for line in lines if hosts.lead() else ():
        tqdm.write(line)


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
