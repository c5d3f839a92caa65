"""Train state and progress (sampler, journal, history) in one atomic Orbax step."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pal_jax import hosts
from pal_jax.errors import FailedAlone, KnownToAllError, PeerLost, UserError

Progress = dict[str, Any]
_FULL = ("No space left on device", "Disk quota exceeded")
ASIDE = "damaged"  # folder beside the steps for those that could not be read


class Checkpoints:
    """Numbered checkpoints in one folder; a step is there whole or not at all.

    They are written in the background: `save` returns once the state has been copied. To be used
    in a `with` block, whose end waits for the last one.

    Args:
        directory: where the steps lie, local or gs://; made when missing. All processes of a run
            must see the same one.
        keep: how many of the newest steps stay on disk.
    """

    def __init__(self, directory: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,  # of a run that was killed while it saved
        )
        self._directory = epath.Path(directory if "://" in str(directory) else directory.absolute())
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._step: int | None = None  # of the save that may still be under way

    def save(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Starts to write `state` (a pytree of arrays) and `progress` (JSON-able) as step `step`.

        Args:
            progress: of process 0; that of the others is not read. Must not change afterwards.

        Raises:
            UserError: this one or the one before it could not be written.
        """
        with self._failing():
            self._manager.wait_until_finished()
            self._step = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(dict(progress))
                ),
            )

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises whatever its layers do, from threads too
            if hosts.is_lost_peer(error):
                raise
            self._manager.reload()
            good = [step for step in self._manager.all_steps() if step != self._step]
            last = f"the one of step {max(good)}" if good else "its start, with all answers"
            raise UserError(
                f"the checkpoint of step {self._step} could not be written to {self._directory} "
                f"({_reason(error)}); make room there and start again: the run goes on from {last}"
            ) from error

    def restore(self, like: Any) -> tuple[Any, Progress] | None:
        """The newest step that can be read as (state, progress), or None when there is none.

        Newer ones that cannot be read are moved to the folder `ASIDE`, and a line on stderr says
        so; but only when an older one can, since the reason may lie elsewhere. Each process reads
        a step whole, and one that any of them cannot read counts as damaged for all.

        Args:
            like: a state of the same structure; its shapes, dtypes and shardings are used.

        Raises:
            UserError: there are steps, and none can be read. Nothing was changed.
        """
        damaged: dict[int, str] = {}
        for step in hosts.only_lead(lambda: sorted(self._manager.all_steps(), reverse=True)):
            found, wrong = None, None
            try:
                found = self._read(step, like)
            except Exception as error:  # damage shows as OSError, ValueError, KeyError, Exception
                wrong = _reason(error)
            reasons = [reason for reason in hosts.everyone(wrong) if reason]
            if found is not None and not reasons:
                self._set_aside(damaged)
                return jax.tree.map(_place, found[0], like), found[1]
            damaged[step] = reasons[0]
        if not damaged:
            return None
        newest = max(damaged)
        raise KnownToAllError(
            f"none of the checkpoints in {self._directory} can be read (the newest, {newest}: "
            f"{damaged[newest]}); remove that folder to start again: the answers are in the journal"
        )

    def _read(self, step: int, like: Any) -> tuple[Any, Progress]:
        """(state of whole NumPy arrays, progress) of `step`, read by this process alone.

        CheckpointManager would read what the devices of this process need, and wait for the other
        processes at the end of what went well: where one of them meets damage it never comes.
        """
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        whole = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)  # asks for NumPy's
        with ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=alone
        ) as reader:
            found = reader.restore(
                self._directory / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(whole), progress=ocp.args.JsonRestore()
                ),
            )
        for array, wanted in zip(
            jax.tree.leaves(found["state"]), jax.tree.leaves(like), strict=True
        ):
            if array.shape != wanted.shape:
                raise ValueError(f"an array is {array.shape} there and {wanted.shape} here")
        return found["state"], found["progress"]

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        def move() -> None:
            for step, reason in damaged.items():
                target = self._directory.parent / ASIDE / str(step)
                target.parent.mkdir(exist_ok=True)
                if target.exists():
                    target.rmtree()
                (self._directory / str(step)).rename(target)
                print(
                    f"the checkpoint of step {step} cannot be read ({reason}) and was moved to "
                    f"{target}; the run goes on from the one before it",
                    file=sys.stderr,
                )

        if damaged:
            hosts.only_lead(move)  # the others must not look before it is done
            self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        self._hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_pass_over_orphans, self._hook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, PeerLost | FailedAlone):
            return  # to finish would be to wait for one that is gone, or does not know
        with self._failing():
            self._manager.close()
            sys.unraisablehook = self._hook  # and not after a failure: orphans may still come in


def _place(whole: np.ndarray, like: jax.Array) -> jax.Array:
    """`whole` on the devices of this process, as `like` is split over those of all."""
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: np.asarray(whole[index])
    )


def _pass_over_orphans(otherwise: Callable[[Any], object], unraisable: Any) -> None:
    """Keeps the tracebacks of writes that ended after another one had failed from the screen.

    Orbax closes the event loop of a save at its first error; TensorStore's threads then have
    nowhere to report the other writes, and would fill the screen above the sentence that counts.
    """
    orphan = unraisable.object is None and isinstance(unraisable.exc_value, RuntimeError)
    if not (orphan and str(unraisable.exc_value) == "Event loop is closed"):
        otherwise(unraisable)


def _reason(error: Exception) -> str:
    """The first line of what went wrong, short enough for a sentence."""
    lines = str(error).strip().splitlines() or [""]
    full = next((word for word in _FULL if word in str(error)), "")
    return full or f"{type(error).__name__}: {lines[0][:120]}"
