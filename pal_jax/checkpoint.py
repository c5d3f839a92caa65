"""Train state and progress (sampler, history) in one atomic Orbax step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pal_jax.errors import UserError

Progress = dict[str, Any]


class Checkpoints:
    """Numbered checkpoints in one folder; a step is there whole or not at all.

    Args:
        directory: where the steps lie; made when missing.
        keep: how many of the newest steps stay on disk.
    """

    def __init__(self, directory: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,  # of a run that was killed while it saved
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Writes `state` (a pytree of arrays) and `progress` (JSON-able) as step `step`.

        Returns when both are on disk.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(dict(progress))
            ),
        )

    def restore(self, like: Any) -> tuple[Any, Progress] | None:
        """The newest step as (state, progress), or None when there is none.

        Args:
            like: a state of the same structure; its shapes, dtypes and shardings are used.

        Raises:
            UserError: that step is damaged. It is not removed: that is for a person to decide.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                ),
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint {self._manager.directory / str(step)} cannot be read "
                f"({type(error).__name__}: {str(error)[:120]}); remove that folder to go on from "
                "the one before it, or from the start: the answers are in the journal"
            ) from error
        return found["state"], found["progress"]

    def close(self) -> None:
        self._manager.close()
