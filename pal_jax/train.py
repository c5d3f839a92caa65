"""The compiled step and the loop around it.

The step is pure and knows no sampler; the loop remembers and knows no mathematics. Loss, views,
model and optimiser come in as functions.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from pal_jax import graph as graph_lib
from pal_jax import sharding
from pal_jax.active.batches import Batch
from pal_jax.active.questions import Oracle
from pal_jax.active.sampler import Sampler
from pal_jax.active.stopping import confidence_of_look
from pal_jax.active.strategies import uncompared_groups
from pal_jax.errors import Interrupted, UserError

Apply = Callable[..., tuple[Array, Array, Any]]
Step = Callable[["TrainState", Array, Array, Array], tuple["TrainState", dict[str, Array]]]
Feed = Callable[[Batch], tuple[Array, Array]]
Embed = Callable[["TrainState"], tuple[np.ndarray, np.ndarray]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that one step changes.

    step: [] int32, steps taken so far. params: weights. batch_stats: BatchNorm's running moments,
    an empty dict where the model has none. opt_state: the optimiser's.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any


def init_state(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A state at step 0, placed on the mesh.

    Weights and optimiser state are split where the mesh says so (`sharding.split_weights`), the
    rest is copied to every device.
    """

    def create(variables: Mapping[str, Any]) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )

    # From the host, so that every process of a job may hand its (equal) copy in.
    variables = jax.device_get(variables)
    shapes = jax.eval_shape(create, variables)
    copied = sharding.replicated(mesh)
    placed = dataclasses.replace(
        shapes,
        step=copied,
        params=sharding.split_weights(mesh, shapes.params),
        batch_stats=jax.tree.map(lambda _: copied, shapes.batch_stats),
        opt_state=sharding.split_weights(mesh, shapes.opt_state),
    )
    return jax.jit(create, out_shardings=placed)(variables)


def train_step(
    state: TrainState,
    key: Array,
    inputs: Array,
    groups: Array,
    *,
    views: Callable[[Array, Array], Array],
    apply: Apply,
    loss: Callable[[Array, Any], Array],
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """One gradient step on the global batch. Pure; jit it with the keywords bound.

    Args:
        state: may be donated.
        key: the run's key; folded with the step, so that a resumed run sees the same views.
        inputs: [B, ...] samples, uint8 images or float features.
        groups: [B] int32 in [0, B); equal ids are known to be alike.
        views: (key, [B, ...]) -> [V B, ...] float32, view-major.
        apply: (variables, [N, ...], train=True) -> (h [N, H], z [N, K], batch_stats).
        loss: (z [N, K], graph on N rows) -> scalar.
        optimizer: any optax transformation.
        accumulate: parts of the batch that the encoder sees one after another; see `_in_parts`.

    Returns:
        The next state, and `loss` and `grad_norm` (global L2 norm) as scalars.
    """
    x = views(jax.random.fold_in(key, state.step), inputs)
    # Not from_groups: the ids are compact already, and to make them so is a sort over all devices.
    graph = graph_lib.Groups(jnp.tile(groups, x.shape[0] // inputs.shape[0]))

    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        z, batch_stats = _in_parts(apply, variables, x, len(inputs), accumulate)
        return loss(z, graph), batch_stats

    (value, batch_stats), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def _in_parts(apply: Apply, variables: Any, x: Array, samples: int, parts: int):
    """(z [N, K], batch_stats) of x [N, ...], with the activations of N / parts rows at a time.

    The loss couples all rows, so the mean of the gradients of parts would be that of another loss.
    Here z is whole and only the encoder works in parts, whose activations are computed again on
    the way back: one forward pass more (Gao et al. 2021, "GradCache"). Exact but for BatchNorm,
    which normalises each part by itself; its running moments move by the mean over the parts.

    Args:
        x: view-major; every part has all views of its samples.
        samples: N over views, a multiple of `parts`.
    """

    def forward(x: Array):
        _, z, batch_stats = apply(variables, x, train=True)
        return z, batch_stats

    if parts == 1:
        return forward(x)
    views = x.shape[0] // samples
    # Every parts-th sample: each device finds its share of every part among its own rows.
    x = jnp.moveaxis(x.reshape(views, samples // parts, parts, *x.shape[1:]), 2, 0)
    x = x.reshape(parts, -1, *x.shape[3:])
    z, batch_stats = jax.lax.map(jax.checkpoint(forward), x)
    z = jnp.moveaxis(z.reshape(parts, views, samples // parts, -1), 0, 2)
    batch_stats = jax.tree.map(lambda moments: moments.mean(axis=0), batch_stats)
    return z.reshape(views * samples, -1), batch_stats


def compile_step(step: Step, mesh: Mesh, state: TrainState) -> Step:
    """`step` jitted over the mesh: batch split, state where it lies and donated, the rest copied.

    Shapes are all that is compiled in: new answers arrive as new values of `groups`.

    Args:
        state: any state of the run; its shardings are kept.
    """
    rows, copied = sharding.split_rows(mesh), sharding.replicated(mesh)
    placed = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        step,
        in_shardings=(placed, copied, rows, rows),
        out_shardings=(placed, copied),
        donate_argnums=0,
    )


def make_feed(inputs: np.ndarray, mesh: Mesh) -> Feed:
    """The function batch -> (inputs [B, ...], groups [B]), split over the devices of the mesh.

    Args:
        inputs: [n, ...] samples on the host; each host gathers the rows of its own devices.
    """

    def feed(batch: Batch) -> tuple[Array, Array]:
        def put(read: Callable[[slice], np.ndarray]) -> Array:
            return sharding.put_rows(mesh, len(batch.ids), read)

        return put(lambda rows: inputs[batch.ids[rows]]), put(lambda rows: batch.groups[rows])

    return feed


def make_embed(
    apply: Apply,
    prepare: Callable[[Array], Array],
    inputs: np.ndarray,
    mesh: Mesh,
    *,
    batch_size: int,
) -> Embed:
    """The function state -> (h [n, H], z [n, K]) float32 of all `inputs`, without augmentation.

    Args:
        prepare: [B, ...] samples -> [B, ...] float32, what the encoder expects.
        inputs: [n, ...] samples on the host; they cross to the devices in chunks.
        batch_size: rows of one compiled chunk, a multiple of the devices; the last is padded.

    Raises:
        UserError: from the function, when h or z is not finite: the last step of a round may have
            ruined weights whose loss still was.
    """

    def forward(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        h, z, _ = apply(variables, prepare(x), train=False)
        return h, z

    # Copied, not split: every host gets all rows.
    compiled = jax.jit(forward, out_shardings=sharding.replicated(mesh))

    def embed(state: TrainState) -> tuple[np.ndarray, np.ndarray]:
        hs, zs = [], []
        for start in range(0, len(inputs), batch_size):
            chunk = inputs[start : start + batch_size]
            padding = [(0, batch_size - len(chunk))] + [(0, 0)] * (inputs.ndim - 1)
            x = sharding.put_rows(mesh, batch_size, np.pad(chunk, padding).__getitem__)
            h, z = compiled(state.params, state.batch_stats, x)
            hs.append(jax.device_get(h)[: len(chunk)])
            zs.append(jax.device_get(z)[: len(chunk)])
        h, z = np.concatenate(hs), np.concatenate(zs)
        if not (np.isfinite(h).all() and np.isfinite(z).all()):
            _diverged(int(jax.device_get(state.step)) - 1, "its embedding is not finite")
        h.setflags(write=False)  # so the sampler knows it again without looking at its content
        return h, z

    return embed


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long, how often.

    rounds: embed, ask, train; nothing is asked before the first. first, steps: optimiser steps of
    the first round, which answers have no part in, and of each other.
    batch_size: samples a step (rows = views x samples). judgements: bought a round, as long as
    fewer than `budget` are. stop: accuracy at which asking ends, once it is sure; 0: never.
    at_once: questions proposed before any of their answers is seen.
    log_every, save_every: in steps. raised: (rounds, budget) of each end that the run was to have
    before its budget was raised, ascending.
    """

    rounds: int
    first: int
    steps: int
    batch_size: int
    judgements: int
    budget: int
    stop: float
    at_once: int
    log_every: int
    save_every: int
    raised: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        """Optimiser steps of all rounds."""
        return self._up_to(self.rounds)

    @property
    def ends(self) -> list[int]:
        """Steps taken at each end of the run: those before its budget was raised, and `total`."""
        return [self._up_to(rounds) for rounds, _ in self.raised] + [self.total]

    def _up_to(self, rounds: int) -> int:
        return self.first + (rounds - 1) * self.steps

    def follows_an_end(self, number: int) -> bool:
        """Whether the run was to end before round `number`, and its budget was raised."""
        return any(number == rounds for rounds, _ in self.raised)

    def budget_of(self, number: int) -> int:
        """Judgements that may be bought up to the end of round `number`."""
        return next((budget for rounds, budget in self.raised if number < rounds), self.budget)

    def length(self, number: int) -> int:
        """Optimiser steps of round `number`, from 0."""
        return self.steps if number else self.first

    def place(self, step: int) -> tuple[int, int]:
        """(round, steps done in it) of a state that has taken `step` steps."""
        if step < self.first:
            return 0, step
        number, done = divmod(step - self.first, self.steps)
        return 1 + number, done


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop tells the outside; none of it changes the run.

    measure: (round, state, (h, z) of all samples) after each round.
    save: (state) when the run must be able to go on from here.
    progress: () after each step. log: (step, metrics) each `log_every` steps. stop: () -> whether
    the run was asked to stop; called once before a round and after each step but its last.
    """

    measure: Callable[[int, TrainState, tuple[np.ndarray, np.ndarray]], None]
    save: Callable[[TrainState], None]
    progress: Callable[[], object]
    log: Callable[[int, dict[str, float]], None]
    stop: Callable[[], bool]


def fit(
    state: TrainState,
    key: Array,
    sampler: Sampler,
    ask: Callable[[int, np.ndarray], object] | None,
    *,
    step: Step,
    feed: Feed,
    embed: Embed,
    plan: Plan,
    hooks: Hooks,
) -> TrainState:
    """The loop of PAL: embed, ask, train, round after round, from wherever `state` stands.

    Args:
        state: its step says which round and where in it. At the start of a round the round's
            questions are still to be asked; the journal knows which of them were.
        key: copied to every device of the mesh.
        ask: (round, [n, H] embeddings) buys the judgements of one round, or None when nothing is
            asked; see `buy_round`.

    Raises:
        Interrupted: `hooks.stop` said so; the run goes on from the last save.
        UserError: loss or gradient are no longer finite.
    """
    first, done = plan.place(int(jax.device_get(state.step)))
    embeddings = None
    for round_number in range(first, plan.rounds):
        if ask is not None and round_number > 0 and done == 0:
            embeddings = embed(state) if embeddings is None else embeddings
            ask(round_number, embeddings[0])
        steps = range(done, plan.length(round_number))
        state = _train_round(
            state, key, sampler, steps, step=step, feed=feed, plan=plan, hooks=hooks
        )
        done = 0
        embeddings = embed(state)
        hooks.measure(round_number, state, embeddings)
        hooks.save(state)
    return state


def buy_round(
    sampler: Sampler,
    oracle: Oracle,
    embeddings: np.ndarray,
    plan: Plan,
    number: int,
    *,
    asked: Callable[[int], object],
    stop: Callable[[], bool],
) -> None:
    """Buys the judgements of round `number`, `at_once` questions at a time.

    Ends early when the budget is spent or the strategy has nothing left to ask. Once the partition
    believes itself to be as good as `plan.stop`, up to half of a round compares the groups that no
    answer keeps apart, and half of the rest is an audit; once the audits' lower bound says so too,
    nothing more is bought. The bound holds for all audits together.

    Args:
        asked: (judgements bought so far), after each lot.

    Raises:
        Interrupted: `stop` said so.
    """
    end = min(sampler.spent + plan.judgements, plan.budget_of(number))
    if plan.stop and sampler.partition(embeddings).probability.mean() >= plan.stop:
        look = confidence_of_look(max(sampler.audits, 1))
        audit = sampler.audit(oracle, embeddings, 0, confidence=look)
        if audit is None or audit.estimated_accuracy_low < plan.stop:
            half = (end - sampler.spent) // 2
            sampler.ask(
                oracle, embeddings, half, at_once=half, judgements=half, strategy=uncompared_groups
            )
            look = confidence_of_look(sampler.audits + 1)
            audit = sampler.audit(oracle, embeddings, (end - sampler.spent) // 2, confidence=look)
            asked(sampler.spent)
        if audit is not None and audit.estimated_accuracy_low >= plan.stop:
            return
    while sampler.spent < end:
        if stop():
            raise Interrupted
        left = end - sampler.spent
        if not sampler.ask(oracle, embeddings, plan.at_once, at_once=plan.at_once, judgements=left):
            break
        asked(sampler.spent)


def _train_round(
    state: TrainState,
    key: Array,
    sampler: Sampler,
    steps: range,
    *,
    step: Step,
    feed: Feed,
    plan: Plan,
    hooks: Hooks,
) -> TrainState:
    """The optimiser steps of one round that are still to be taken, counted from its start.

    While the devices work on a step the host draws the next batch and sends it to them. It reads
    the metrics of a step only when a later one has been dispatched, or to save.
    """
    before = int(jax.device_get(state.step)) - steps.start
    # At the start of a round there is nothing new to save, and a state saved there would claim
    # that the round's questions are still to be asked.
    if hooks.stop():
        raise Interrupted
    metrics_log = _MetricsLog(hooks.log)
    batch = feed(sampler.batch(plan.batch_size))
    for i in steps:
        with jax.transfer_guard("disallow"):  # nothing but the batch may cross, and it has
            state, metrics = step(state, key, *batch)
        last = i + 1 == steps.stop
        if (before + i) % plan.log_every == 0 or last:
            metrics_log.put(before + i, metrics)
        hooks.progress()
        if last:
            break
        stop = hooks.stop()
        if stop or (i + 1) % plan.save_every == 0:
            metrics_log.flush()
            _finite_metrics(before + i, metrics)  # a state that cannot go on is never saved
            hooks.save(state)
        if stop:
            raise Interrupted
        # After the save: the sampler's state says which batch comes next.
        batch = feed(sampler.batch(plan.batch_size))
    metrics_log.flush()
    return state


def _finite_metrics(step: int, metrics: dict[str, Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not np.isfinite(list(values.values())).all():
        _diverged(step, f"loss {values['loss']}, gradient norm {values['grad_norm']}")
    return values


def _diverged(step: int, seen: str) -> NoReturn:
    raise UserError(
        f"training diverged at step {step} ({seen}); lower train.learning_rate or raise "
        "train.warmup_steps, in a new workdir: oracle.prior lets it begin with the answers.jsonl "
        "of this one"
    )


class _MetricsLog:
    """Reads a step's metrics only when the next are put, so that the devices never wait."""

    def __init__(self, log: Callable[[int, dict[str, float]], None]):
        self._log = log
        self._held: tuple[int, dict[str, Array]] | None = None

    def put(self, step: int, metrics: dict[str, Array]) -> None:
        self.flush()
        self._held = (step, metrics)

    def flush(self) -> None:
        if self._held is None:
            return
        step, metrics = self._held
        self._held = None
        self._log(step, _finite_metrics(step, metrics))
