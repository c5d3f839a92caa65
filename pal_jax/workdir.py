"""Whose workdir is it? A run starts in a folder of its own, or goes on where it stopped."""

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pal_jax.errors import UserError

IDENTITY_FILE = "config.json"
_UNFINISHED = f".{IDENTITY_FILE}.tmp"  # what a run leaves that is killed while it writes its first
# What may differ when a run goes on: it changes where things lie and who is called, never a
# result that is there already.
_FREE_KEYS = (
    "data.data_dir",
    "checkpoint.",
    "oracle.timeout",
    "oracle.command",
    "train.fsdp",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def check(workdir: str, identity: Mapping[str, Any], *, free: float) -> Path:
    """The folder of this run, after all that could make it unusable; writes nothing.

    Args:
        workdir: a local folder; need not exist.
        identity: nested dict, JSON-able, that says which run this is (config, data set).
        free: GiB that must be free on its disk.

    Raises:
        UserError: it is no local folder, holds something else or another run, or its disk is full.
    """
    _refuse_cloud(workdir)
    path = Path(workdir)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir={workdir} is a file; name a folder, new or of this run")
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UserError(f"--workdir={workdir} lies below {existing}, which is a file, not a folder")
    room = shutil.disk_usage(existing).free / 2**30
    if room < free:
        raise UserError(
            f"the disk of --workdir={workdir} has {room:.2f} GiB free and config.checkpoint.free "
            f"asks for {free:g}; make room, or choose a workdir on another disk"
        )
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"--workdir={workdir}: {existing} may not be written to; choose another")
    if path.exists() and any(p.name != _UNFINISHED for p in path.iterdir()):
        _check_owner(path, identity)
    return path


def _refuse_cloud(workdir: str) -> None:
    if "://" not in workdir:
        return
    if workdir.startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"--workdir={workdir} needs the tpu extra (pip install 'pal_jax[tpu]'), which is not "
            "installed; install it, or name a local folder"
        )
    raise UserError(
        f"--workdir={workdir} is not on this machine, and the journal of answers needs a local "
        "disk; name a local folder and copy it afterwards"
    )


def _check_owner(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises unless the files in `path` are of the run `identity`."""
    stamp = path / IDENTITY_FILE
    if not stamp.is_file():
        first = min(p.name for p in path.iterdir())
        raise UserError(
            f"--workdir={path} holds files of something else ({first}) and no {IDENTITY_FILE}; "
            "choose an empty folder"
        )
    try:
        there = flatten(json.loads(stamp.read_text()))
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{stamp} is not a run's config ({error}); restore it, or choose another --workdir"
        ) from None
    here = flatten(identity)
    for key in sorted(there.keys() | here.keys()):
        option = key.removeprefix("config.")
        if there.get(key) != here.get(key) and not option.startswith(_FREE_KEYS):
            raise UserError(
                f"--workdir={path} belongs to another run: {option} is {there.get(key)!r} there "
                f"and {here.get(key)!r} here; choose another --workdir, or remove that folder"
            )
