"""From a config to the objects of a run. The only module that reads configs.

Names become functions here, through the tables below, and nowhere else.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pal_jax import (
    data,
    export,
    hosts,
    losses,
    models,
    ondisk,
    sharding,
    spectral,
    train,
    views,
    workdir,
)
from pal_jax.active import oracles, strategies
from pal_jax.active.journal import Journal
from pal_jax.active.questions import Answer, Oracle, answer_to_dict
from pal_jax.active.sampler import MOST_PRIOR, Sampler
from pal_jax.errors import UserError, pick
from pal_jax.records import Records
from pal_jax.run import Baseline, Run

# A locked ml_collections.ConfigDict, whose attributes no type checker knows.
Config = Any

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "vicreg": losses.vicreg,
    "simclr": losses.simclr,
    "barlow_twins": losses.barlow_twins,
    "spectral_contrastive": spectral.spectral_contrastive,
    # Their optima are those of the spec for a degree-1 graph; with the raw degrees of large groups
    # z collapses.
    "vicreg_squared": spectral.degree_normalized(spectral.vicreg_squared),
    "barlow_twins_squared": spectral.degree_normalized(spectral.barlow_twins_squared),
}
# Losses that treat the views of a batch as blocks: moments of each, pairs across them.
_PER_VIEW = ("vicreg", "barlow_twins", "spectral_contrastive")

_MOST_WRONG = 0.49  # share of wrong answers; at one half they say nothing, above the opposite
# key -> (least, most) of what may stand there; every other check needs more than one value.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.holdout": (0.0, 0.9),
    "data.limit": (0, math.inf),
    "data.image_size": (4, 1024),
    "data.workers": (0, 1024),
    "views.count": (2, 16),
    "views.crop": (0.0, 0.99),
    "views.rotate": (0.0, 180.0),
    "views.zoom": (0.0, 10.0),
    "views.shift": (0.0, math.inf),
    "views.flip": (0.0, 1.0),
    "views.brightness": (0.0, 1.0),
    "views.contrast": (0.0, 1.0),
    "views.saturation": (0.0, 1.0),
    "views.hue": (0.0, 0.5),
    "views.grayscale": (0.0, 1.0),
    "views.noise": (0.0, math.inf),
    "views.dropout": (0.0, 0.95),
    "graph.labelled": (0.0, math.inf),
    "graph.related": (0.0, 1.0),
    "model.width": (0, 8192),
    "model.patch": (1, 1024),
    "loss.vicreg.invariance": (0.0, math.inf),
    "loss.vicreg.variance": (0.0, math.inf),
    "loss.vicreg.covariance": (0.0, math.inf),
    "loss.simclr.temperature": (1e-3, math.inf),
    "loss.barlow_twins.offdiagonal": (0.0, math.inf),
    "oracle.flip": (0.0, _MOST_WRONG),
    "oracle.timeout": (0.1, 1e6),
    "oracle.prior_error": (-1.0, _MOST_WRONG),
    "asking.budget": (1, math.inf),
    "asking.audit": (0, math.inf),
    "asking.stop": (0.0, 0.9999),
    "asking.per_round": (0, math.inf),
    "asking.at_once": (1, math.inf),
    "asking.candidates": (1, 64),
    "asking.refit": (0, math.inf),
    "asking.error_rate": (-1.0, _MOST_WRONG),
    "train.rounds": (1, math.inf),
    "train.steps": (1, math.inf),
    "train.first": (0.0, 0.99),
    "train.batch_size": (2, math.inf),
    "train.accumulate": (1, math.inf),
    "train.fsdp": (1, math.inf),
    "train.learning_rate": (1e-12, math.inf),
    "train.bias_rate": (0.0, math.inf),
    "train.warmup_steps": (0, math.inf),
    "train.weight_decay": (0.0, 1.0),
    "train.log_every": (1, math.inf),
    "evaluate.neighbours": (1, math.inf),
    "evaluate.limit": (0, math.inf),
    "evaluate.batch_size": (1, math.inf),
    "hosts.processes": (0, math.inf),
    "hosts.process": (-1, math.inf),
    "hosts.timeout": (1.0, 1e6),
    "checkpoint.every": (1, math.inf),
    "checkpoint.keep": (1, math.inf),
    "checkpoint.free": (0.0, math.inf),
}
_UNKNOWN_RATE = ("asking.error_rate", None)  # all other options need a number


@hosts.noticing_failures()
def build(config: Config, folder: str) -> Run:
    """All objects of the run that `config` describes, in the workdir `folder`.

    Everything is checked before anything is written: a mistake leaves the disk as it was.

    Raises:
        UserError: a value, a file or the workdir cannot work; says which, why, and what to do.
        LeadFailed, PeerLost: another process of the run has failed.
        FailedAlone: instead of UserError, where the other processes do not know.
    """
    check(config)
    h = config.hosts
    hosts.start(h.coordinator, h.processes, h.process, h.timeout)

    def read() -> tuple[
        data.Dataset,
        data.Dataset | None,
        np.ndarray | None,
        OracleMaker | None,
        oracles.AnswerFile,
    ]:
        pool, held_out = build_data(config)
        check_sizes(config, len(pool.inputs), jax.device_count())
        known = known_labels(pool.labels, config.graph.labelled, config.seed)
        return pool, held_out, known, build_oracle(config, pool), build_prior(config, pool)

    pool, held_out, known, make_oracle, prior = hosts.all_or_none(read)
    mesh = sharding.make_mesh(fsdp=config.train.fsdp)
    believed = prior.evenly(MOST_PRIOR)
    mean, std = data.channel_statistics(pool.inputs)
    prepare = functools.partial(views.normalise, mean=mean, std=std)
    model = build_model(config)
    apply = sharding.data_parallel(model.apply, mesh)
    make_views = build_views(config, mean, std, images=pool.inputs.ndim == 4)
    loss = build_loss(config)
    identity = {
        "config": workdir.flatten(config.to_dict()),
        "data": {"samples": len(pool.inputs), "fingerprint": pool.fingerprint}
        | ({"prior": _digest(prior.answers)} if prior.answers else {}),
    }
    hosts.fail_together(workdir.disagreement(hosts.only_lead(lambda: identity), identity))
    path, local = workdir.locate(folder, config.checkpoint.journal)
    free = config.checkpoint.free
    raised = hosts.only_lead(lambda: workdir.check(path, local, identity, free=free))
    identity |= {workdir.RAISED: raised} if raised else {}
    plan = build_plan(config, raised)
    optimizer = build_optimizer(config, plan.ends)

    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    sample = prepare(jnp.asarray(pool.inputs[:2]))
    state = train.init_state(jax.jit(model.init)(init_key, sample), optimizer, mesh)
    step = functools.partial(
        train.train_step,
        views=make_views,
        apply=apply,
        loss=loss,
        optimizer=optimizer,
        accumulate=config.train.accumulate,
    )

    def feed(sampler: Sampler) -> train.Feed:
        if isinstance(pool.inputs, Records):
            return ondisk.make_feed(pool.inputs, mesh, sampler.upcoming)
        return train.make_feed(pool.inputs, mesh)

    def embed(dataset: data.Dataset, name: str) -> train.Embed:
        size, inputs = config.evaluate.batch_size, dataset.inputs
        if isinstance(inputs, Records):
            file = local / "embedding" / name
            return ondisk.make_embed(apply, prepare, inputs, mesh, batch_size=size, path=file)
        return train.make_embed(apply, prepare, inputs, mesh, batch_size=size)

    journal = hosts.lead_keeps(lambda: open_workdir(path, local, identity))
    sampler = functools.partial(build_sampler, config, len(pool.inputs), known, believed.answers)
    asker = sampler(strategy=config.asking.strategy, journal=journal)
    return Run(
        workdir=path,
        local=local,
        identity=identity,
        facts=facts(config),
        journal=journal,
        pool=pool,
        held_out=held_out,
        sampler=asker,
        prior_lines=believed.lines,
        notes=notes(config, pool, answer_files(prior, make_oracle)),
        make_oracle=make_oracle,
        baseline=(
            # No history: random questions never ask a pair twice, so its noise needs none.
            Baseline(sampler(strategy="random", journal=None), make_oracle([], lambda: False))
            if make_oracle and config.oracle.name in _SIMULATED and hosts.lead()
            else None
        ),
        mesh=mesh,
        state=state,
        key=sharding.put_key(mesh, run_key),
        step=train.compile_step(step, mesh, state),
        feed=feed(asker),
        embed=embed(pool, "pool"),
        embed_held_out=None if held_out is None else embed(held_out, "held_out"),
        plan=plan,
        audit=config.asking.audit if make_oracle else 0,
        neighbours=config.evaluate.neighbours,
        looked_at=config.evaluate.limit,
        keep=config.checkpoint.keep,
    )


def answer_files(
    prior: oracles.AnswerFile, make_oracle: "OracleMaker | None"
) -> dict[str, oracles.AnswerFile]:
    """What the options oracle.prior and oracle.file were read as."""
    oracle = make_oracle([], lambda: False) if make_oracle else None
    file = oracle.file if isinstance(oracle, oracles.FileOracle) else oracles.AnswerFile()
    return {"prior": prior, "file": file}


def notes(
    config: Config, pool: data.Dataset, files: Mapping[str, oracles.AnswerFile]
) -> tuple[str, ...]:
    """What a user may not expect of the data and of the answers, in sentences.

    Args:
        files: see `answer_files`.
    """
    told = []
    if data.all_the_same(pool.inputs):
        told.append(
            f"all {len(pool)} samples of {config.data.name} are the same, which leaves nothing to "
            "learn and nothing to group"
        )
    if pool.skipped:
        told.append(
            f"{len(pool.skipped)} files or folders are left out, such as {pool.skipped[0]}; the "
            "report has all"
        )
    if config.data.name.startswith("folder:") and pool.labels is not None:
        names = ", ".join(pool.class_names)[:60]
        told.append(
            f"the {len(pool.class_names)} subfolders ({names}) are taken for classes; with "
            "data.labels=False they are not"
        )
    if 0 < (limit := config.evaluate.limit) < len(pool):
        told.append(
            f"kNN accuracy, probes and effective rank are those of {limit:,} of the {len(pool):,} "
            "samples, taken evenly (evaluate.limit)"
        )
    for option, file in files.items():
        if file.left_out:
            told.append(
                f"{file.left_out:,} of {file.left_out + len(file.answers):,} answers in "
                f"{config.oracle[option]} are about samples that are not here"
            )
        if option == "prior" and len(file.answers) > MOST_PRIOR:
            told.append(
                f"of {len(file.answers):,} prior answers {MOST_PRIOR:,} are believed, taken evenly"
            )
    return tuple(told)


def open_workdir(path: Path, local: Path, identity: dict[str, Any]) -> Journal:
    """Makes both folders, says in each whose it is, and opens the journal.

    Raises:
        UserError: another run has the journal open.
    """
    path.mkdir(parents=True, exist_ok=True)
    local.mkdir(parents=True, exist_ok=True)
    stamps = {path / workdir.IDENTITY_FILE: (path / workdir.IDENTITY_FILE).exists()}
    if local != path:
        stamps[local / workdir.JOURNAL_OWNER] = (local / workdir.JOURNAL_FILE).exists()
    for stamp, there in stamps.items():
        if not there:
            export.write_json(stamp, identity)
    journal = Journal(local / workdir.JOURNAL_FILE)  # refuses a second run on the same workdir
    if workdir.RAISED in identity:  # and not before: that other run has the budget that it has
        for stamp in stamps:
            export.write_json(stamp, identity)
    return journal


def check(config: Config) -> None:
    """Raises UserError for a value that can never work, whatever the data."""
    values = workdir.flatten(config.to_dict())
    missing = [key for key in _RANGES if key not in values]
    if missing:
        raise UserError(
            f"the config lacks {missing[0]}; start it from configs.default.get_config()"
        )
    asks = config.oracle.name != "none"
    for key, (least, most) in _RANGES.items():
        given = values[key]
        if (key.startswith("asking.") and not asks) or (key, given) == _UNKNOWN_RATE:
            continue
        value = math.nan if given is None else given
        finite = math.isfinite(value)
        if not (finite and least <= value <= most):
            bounds = "" if finite else "a finite number, "
            bounds += f"at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            if most == _MOST_WRONG < value:
                bounds += ", since what is wrong half of the time says nothing"
            raise UserError(f"config.{key}={given} cannot work; it must be {bounds}")
    for key in ("asking.error_rate", "oracle.prior_error"):
        if values[key] is not None and -1.0 < values[key] < 0.0:
            raise UserError(
                f"config.{key}={values[key]} cannot work; it must be at least 0, or -1, which "
                "stands for estimated"
            )
    for table, key in (
        (LOSSES, "loss.name"),
        (models.ENCODERS, "model.encoder"),
        (ORACLES | {"none": None}, "oracle.name"),
        (STRATEGIES, "asking.strategy"),
        (OPTIMIZERS, "train.optimizer"),
    ):
        pick(table, values[key], f"config.{key}")
    if config.train.warmup_steps >= config.train.steps:
        raise UserError(
            f"config.train.warmup_steps={config.train.warmup_steps} leaves nothing of "
            f"config.train.steps={config.train.steps}; make it smaller"
        )
    if config.train.steps < config.train.rounds:
        raise UserError(
            f"config.train.steps={config.train.steps} leaves some of "
            f"config.train.rounds={config.train.rounds} rounds without a step; take more steps or "
            "fewer rounds"
        )
    _check_data(config)
    if asks:
        _check_asking(config)


def _check_data(config: Config) -> None:
    if config.data.name.startswith("tfds:") and not config.data.data_dir:
        raise UserError(
            f"config.data.name={config.data.name} needs config.data.data_dir=FOLDER, where the "
            "TFDS sets lie"
        )
    if config.data.test_split:
        if config.data.test_split == config.data.split:
            raise UserError(
                f"config.data.test_split={config.data.test_split} is what is learned from; name "
                "another split, or hold a fraction out with config.data.holdout"
            )
        if config.data.holdout:
            raise UserError(
                f"config.data.holdout={config.data.holdout} and config.data.test_split="
                f"{config.data.test_split} are two test sets; set one of them to nothing"
            )


def _check_asking(config: Config) -> None:
    asking, rounds = config.asking, config.train.rounds
    if asking.stop and not asking.audit:
        raise UserError(
            f"config.asking.stop={asking.stop} waits for a bound that only an audit gives, and "
            "config.asking.audit=0 makes none; set it to some judgements"
        )
    if rounds < 2:
        raise UserError(
            "config.train.rounds=1 leaves no round to ask in (the first one asks nothing); "
            "take at least 2, or config.oracle.name=none"
        )
    if asking.audit >= asking.budget:
        raise UserError(
            f"config.asking.audit={asking.audit} leaves nothing of "
            f"config.asking.budget={asking.budget}; raise the budget or lower the audit"
        )
    if asking.candidates > asking.budget - asking.audit:
        raise UserError(
            f"config.asking.candidates={asking.candidates} is more than the "
            f"{asking.budget - asking.audit} judgements of the budget; ask about fewer"
        )


def check_sizes(config: Config, samples: int, devices: int) -> None:
    """Raises UserError where batches do not fit the data or the devices."""
    t = config.train
    for key, size, parts in (
        ("train.batch_size", t.batch_size, t.accumulate),
        ("evaluate.batch_size", config.evaluate.batch_size, 1),
    ):
        if size % (devices * parts):
            in_parts = f" in config.train.accumulate={parts} parts" if parts > 1 else ""
            over = f"{devices} devices{in_parts}"
            raise UserError(
                f"config.{key}={size} does not split over {over}; make it a multiple of "
                f"{devices * parts}"
            )
    if devices % t.fsdp:
        raise UserError(
            f"config.train.fsdp={t.fsdp} does not divide the {devices} devices; make it a divisor"
        )
    if samples < 2:
        raise UserError(
            f"there is 1 sample of {config.data.name} to learn from, and nothing to compare it "
            "with; give two or more"
        )
    if config.train.batch_size > samples:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is more than the {samples} "
            f"samples of {config.data.name} that are learned from; make it at most that"
        )


def build_data(config: Config) -> tuple[data.Dataset, data.Dataset | None]:
    """(samples to learn from, samples held out for evaluation or None)."""
    load = functools.partial(
        data.load,
        config.data.name,
        data_dir=config.data.data_dir or None,
        image_size=config.data.image_size,
        stream=config.data.stream,
        workers=config.data.workers,
        cache=config.data.cache or None,
    )
    pool, held_out = load(split=config.data.split, limit=config.data.limit), None
    if config.data.test_split:
        held_out = load(split=config.data.test_split)
    elif config.data.holdout:
        pool, held_out = data.split_off(pool, config.data.holdout, config.seed)
    if not config.data.labels:
        return data.without_labels(pool), None if held_out is None else data.without_labels(
            held_out
        )
    # One labelled sample has no other to be compared with, but can be tested.
    return data.with_labels(pool, 2), None if held_out is None else data.with_labels(held_out, 1)


def known_labels(labels: np.ndarray | None, amount: float, seed: int) -> np.ndarray | None:
    """[n] labels known from the start, -1 where unknown; None when none are.

    Args:
        labels: [n] true labels or None.
        amount: a fraction of the samples up to 1, a count above; drawn class by class in turn,
            so that every class has its share.
    """
    if amount == 0:
        return None
    if labels is None:
        raise UserError(
            f"config.graph.labelled={amount:g} needs labels, and the data set has none; "
            "set it to 0, or give labels (class subfolders, or y in the npz)"
        )
    labelled = np.flatnonzero(labels >= 0)
    count = round(amount * len(labelled)) if amount <= 1 else round(amount)
    if not 1 <= count <= len(labelled):
        raise UserError(
            f"config.graph.labelled={amount:g} asks for {count} labels, and the data set has "
            f"{len(labelled)}; give a fraction up to 1 or a count between"
        )
    shuffled = np.random.default_rng([seed, 1]).permutation(labelled)
    # Rank of each sample among those of its class, in shuffled order.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labelled)) - np.repeat(starts, sizes)
    chosen = by_class[np.argsort(rank, kind="stable")[:count]]
    known = np.full(len(labels), -1, np.int64)
    known[chosen] = labels[chosen]
    return known


def build_views(
    config: Config, mean: np.ndarray, std: np.ndarray, *, images: bool
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(key, inputs [B, ...]) -> [views B, ...] float32, view-major.

    Args:
        mean, std: [C] of the channels of images, or [d] of features.
    """
    v = config.views
    common: dict[str, Any] = {"count": v.count, "mean": mean, "std": std, "noise": v.noise}
    if not images:
        return functools.partial(views.feature_views, **common, dropout=v.dropout)
    colour = {"saturation": v.saturation, "hue": v.hue, "grayscale": v.grayscale}
    for name, strength in colour.items():
        if strength and len(mean) != 3:
            raise UserError(
                f"config.views.{name}={strength:g} needs colour images, and those of "
                f"{config.data.name} have {len(mean)} channel(s); set it to 0"
            )
    return functools.partial(
        views.image_views,
        **common,
        **colour,
        crop=v.crop,
        rotate=v.rotate,
        zoom=v.zoom,
        shift=v.shift,
        flip=v.flip,
        brightness=v.brightness,
        contrast=v.contrast,
    )


def build_model(config: Config) -> models.Model:
    m = config.model
    return models.build(
        m.encoder,
        width=m.width,
        projector=tuple(m.projector),
        dtype=m.dtype,
        stem=m.stem,
        patch=m.patch,
    )


def build_loss(config: Config) -> Callable[..., jax.Array]:
    """(z [N, K], graph) -> scalar, with the weights of the config bound."""
    name = config.loss.name
    options = dict(config.loss[name]) if name in config.loss else {}
    if name in _PER_VIEW:
        options["views"] = config.views.count
    return functools.partial(pick(LOSSES, name, "config.loss.name"), **options)


def _kernels(params: Any) -> Any:
    """Which parameters decay: those that multiply activations, not biases and norms.

    By name, as in Beyer et al. 2022: an attention's biases are [heads, 64], no vectors. Learned
    positions and class tokens, which our ViT has none of, would not decay either.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _biases_and_norms(params: Any) -> Any:
    return jax.tree.map(lambda kernel: not kernel, _kernels(params))


OPTIMIZERS: dict[str, Callable[[optax.Schedule, float], optax.GradientTransformation]] = {
    "adamw": lambda rate, decay: optax.adamw(rate, weight_decay=decay, mask=_kernels),
    "sgd": lambda rate, decay: optax.chain(
        optax.add_decayed_weights(decay, _kernels), optax.sgd(rate, momentum=0.9)
    ),
    "lars": lambda rate, decay: optax.lars(
        rate, weight_decay=decay, weight_decay_mask=_kernels, trust_ratio_mask=_kernels
    ),
}


def build_rate(config: Config, ends: Sequence[int]) -> optax.Schedule:
    """Learning rate by step: warm-up and cosine over train.steps.

    What a raised budget adds has, so many steps before its end, the rate that the first steps had
    so many before theirs, and never warms up again.

    Args:
        ends: see `train.Plan`; the first is train.steps.
    """
    t = config.train
    first = optax.warmup_cosine_decay_schedule(0.0, t.learning_rate, t.warmup_steps, t.steps)
    if len(ends) == 1:
        return first

    def rate(step: Any) -> Any:
        left = jnp.array(ends)[jnp.searchsorted(jnp.array(ends), step, side="right")] - step
        again = jnp.maximum(t.steps - left, t.warmup_steps)
        return first(jnp.where(step < t.steps, step, again))

    return rate


def build_optimizer(config: Config, ends: Sequence[int]) -> optax.GradientTransformation:
    """The rule of train.optimizer; `ends` as in `build_rate`."""
    t = config.train
    rate = build_rate(config, ends)
    rule = pick(OPTIMIZERS, t.optimizer, "config.train.optimizer")(rate, t.weight_decay)
    if t.bias_rate == 1.0:
        return rule
    # All rules are linear in the rate, after which nothing but this comes.
    return optax.chain(rule, optax.masked(optax.scale(t.bias_rate), _biases_and_norms))


# Oracles that know the true labels: random questions can be put to them for comparison.
_SIMULATED = ("labels", "noisy")

STRATEGIES = {
    "random": strategies.random_pairs,
    "nearest_representative": strategies.nearest_representative,
    "farthest_first": strategies.farthest_first,
    "most_uncertain": strategies.most_uncertain,
    "most_informative": strategies.most_informative,
}

History = Sequence[Answer]
OracleMaker = Callable[[History, Callable[[], bool]], Oracle]  # told the answers so far, and stop


def _labels_oracle(config: Config, pool: data.Dataset) -> OracleMaker:
    if pool.labels is None:
        raise UserError(
            f"config.oracle.name={config.oracle.name} answers from labels, and "
            f"{config.data.name} has none; give labels, or take the file or program oracle"
        )
    oracle = oracles.LabelOracle(pool.labels)
    return lambda history, stop: oracle


def _noisy_oracle(config: Config, pool: data.Dataset) -> OracleMaker:
    inner = _labels_oracle(config, pool)
    flip, seed = config.oracle.flip, config.seed
    return lambda history, stop: oracles.NoisyOracle(
        inner(history, stop), flip, seed, history=history
    )


def _file_oracle(config: Config, pool: data.Dataset) -> OracleMaker:
    if not config.oracle.file:
        raise UserError("config.oracle.name=file needs config.oracle.file=ANSWERS.jsonl")
    oracle = oracles.FileOracle(Path(config.oracle.file), names=pool.ids.tolist())
    if not oracle.pairs:
        raise UserError(
            f"config.oracle.file={config.oracle.file} answers nothing about the samples of "
            f"{config.data.name}; give answers about this data set"
        )
    return lambda history, stop: oracle


def _program_oracle(config: Config, pool: data.Dataset) -> OracleMaker:
    if not config.oracle.command:
        raise UserError("config.oracle.name=program needs config.oracle.command='PROGRAM ARGS'")
    make = functools.partial(
        oracles.ProgramOracle,
        config.oracle.command,
        timeout=config.oracle.timeout,
        names=pool.ids.tolist(),
    )
    program = make().command[0]
    if shutil.which(program) is None:
        why = f"there is no program {program!r} on the PATH; give its full path"
        if Path(program).is_file():
            why = (
                f"{program} is no program by itself; name what runs it as well, such as "
                f"'python {program}'"
            )
        raise UserError(f"config.oracle.command={config.oracle.command!r} cannot be run: {why}")
    return lambda history, stop: make(stop=stop)


ORACLES: dict[str, Callable[[Config, data.Dataset], OracleMaker]] = {
    "labels": _labels_oracle,
    "noisy": _noisy_oracle,
    "file": _file_oracle,
    "program": _program_oracle,
}


def build_oracle(config: Config, pool: data.Dataset) -> OracleMaker | None:
    """(answers already given, stop) -> oracle, or None when nothing is asked.

    The answers given count because a noisy oracle's errors depend on how often it was asked.
    """
    if config.oracle.name == "none":
        return None
    return pick(ORACLES, config.oracle.name, "config.oracle.name")(config, pool)


def build_prior(config: Config, pool: data.Dataset) -> oracles.AnswerFile:
    """Answers that are believed from the start, in the names of oracles of their own.

    They are about the samples that they name, if they do, and else about those of their numbers.

    Where the answers of an earlier run are used again, they were given by a "labels" or a
    "program" too, but how far to believe them is not how far to believe who answers now.

    Raises:
        UserError: the file cannot be read, or is about samples that are not there.
    """
    if not config.oracle.prior:
        return oracles.AnswerFile()
    prior = oracles.read_answer_file(config.oracle.prior, pool.ids.tolist())
    ids = [i for answer in prior.answers for pair in answer.judgements for i in pair[:2]]
    if not ids or max(ids) >= len(pool):
        there = f"the {len(pool)} samples of {config.data.name}"
        what = f"names none of {there}" if prior.left_out else "holds no answer"
        if ids:
            what = f"speaks of sample {max(ids)}, and {there} are numbered from 0"
        raise UserError(
            f"config.oracle.prior={config.oracle.prior} {what}; give answers about this data set"
        )
    answers = [
        dataclasses.replace(answer, oracle=f"prior:{answer.oracle}") for answer in prior.answers
    ]
    return dataclasses.replace(prior, answers=answers)


def _digest(answers: Sequence[Answer]) -> str:
    """32 hex digits that change with any answer, its oracle, or their order."""
    told = json.dumps([answer_to_dict(answer) for answer in answers], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def build_sampler(
    config: Config,
    samples: int,
    known: np.ndarray | None,
    prior: Sequence[Answer],
    *,
    strategy: str,
    journal: Journal | None,
) -> Sampler:
    a = config.asking
    error = config.oracle.prior_error
    return Sampler(
        samples,
        budget=0 if config.oracle.name == "none" else a.budget,
        seed=config.seed,
        strategy=pick(STRATEGIES, strategy, "config.asking.strategy"),
        journal=journal,
        error_rate=_error_rate(config),
        prior=prior,
        error_rates={answer.oracle: None if error < 0 else error for answer in prior},
        known=known,
        candidates=a.candidates,
        related=config.graph.related,
        refit=a.refit,
    )


def _error_rate(config: Config) -> float | None:
    """How often answers are wrong, None: to be estimated. True labels alone are taken for right."""
    rate = config.asking.error_rate
    if rate is None:
        return 0.0 if config.oracle.name == "labels" else None
    return None if rate < 0 else rate


def _steps(config: Config) -> tuple[int, int]:
    """Optimiser steps of the first round, which takes what is over, and of each other."""
    t = config.train
    each = int((1.0 - t.first) * t.steps / max(1, t.rounds - 1) if t.first else t.steps / t.rounds)
    each = max(1, each)
    return t.steps - (t.rounds - 1) * each, each


def build_plan(config: Config, raised: Sequence[int] = ()) -> train.Plan:
    """How long and how often; what a raised budget adds goes on at the pace of the first.

    Args:
        raised: the budgets that the run had before asking.budget, ascending.

    Raises:
        UserError: its budget cannot be spent in its rounds, or was raised by an audit or less.
    """
    t, a = config.train, config.asking
    first, each = _steps(config)
    budgets = [*raised, a.budget]
    judgements = a.per_round or math.ceil((budgets[0] - a.audit) / max(1, t.rounds - 1))
    asks = config.oracle.name != "none"
    if asks and a.per_round and a.per_round * (t.rounds - 1) < budgets[0] - a.audit:
        raise UserError(
            f"config.asking.per_round={a.per_round} in {t.rounds - 1} rounds spends less than "
            f"config.asking.budget={budgets[0]}; take more a round or more rounds, or 0 to "
            "spread the budget evenly"
        )
    ends = [(t.rounds, budgets[0] - a.audit)]
    for before, budget in itertools.pairwise(budgets):
        more = budget - before - a.audit
        if more < 1:
            raise UserError(
                f"config.asking.budget={budget} is {budget - before} more than the {before} that "
                f"this run had, and its next audit (config.asking.audit={a.audit}) would take all "
                f"of them; raise it to {before + a.audit + 1} or more"
            )
        ends.append((ends[-1][0] + math.ceil(more / judgements), budget - a.audit))
    *earlier, (rounds, budget) = ends
    return train.Plan(
        rounds=rounds,
        first=first,
        steps=each,
        batch_size=t.batch_size,
        judgements=judgements,
        budget=budget,
        stop=a.stop,
        at_once=a.at_once,
        log_every=t.log_every,
        save_every=config.checkpoint.every,
        raised=tuple(earlier),
    )


def facts(config: Config) -> dict[str, str]:
    """What it takes to run this again: versions, devices, seed, commit."""
    version = importlib.metadata.version
    device, batch = jax.devices()[0], config.train.batch_size
    return {
        "seed": str(config.seed),
        "commit": _commit(),
        "Python": platform.python_version(),
        "JAX": version("jax"),
        "Flax": version("flax"),
        "Optax": version("optax"),
        "NumPy": version("numpy"),
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "batch": f"{batch} samples a step, {batch // jax.device_count()} on each device",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commit() -> str:
    """The commit of this source tree, with -dirty if it was changed; 'not in git' without one."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie inside the repository of somebody else.
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "not in git"
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "not in git"
