"""Train state and progress (sampler, history) in one atomic Orbax step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

Progress = dict[str, Any]


class Checkpoints:
    """Numbered checkpoints in one folder; a step is there whole or not at all.

    Args:
        directory: where the steps lie; made when missing.
        keep: how many of the newest steps stay on disk.
    """

    def __init__(self, directory: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Writes `state` (a pytree of arrays) and `progress` (JSON-able) as step `step`.

        Returns when both are on disk. A step that is there already is left as it is: a resumed
        run reaches it with the same numbers.
        """
        if step in self._manager.all_steps():
            return
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
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
            ),
        )
        return found["state"], found["progress"]

    def close(self) -> None:
        self._manager.close()
