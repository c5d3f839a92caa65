"""Whose workdir is it? A run starts in a folder of its own, or goes on where it stopped."""

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from etils import epath

from pal_jax.errors import UserError, at_home

IDENTITY_FILE = "config.json"
JOURNAL_FILE, JOURNAL_OWNER = "journal.sqlite", "journal.json"  # the second: where it lies apart
_WORKDIR_OPTION, _JOURNAL_OPTION = "--workdir", "--config.checkpoint.journal"
RAISED = "raised_from"  # in both: budgets that the run had before, ascending
_BUDGET = "config.asking.budget"
_UNFINISHED = f".{IDENTITY_FILE}.tmp"  # what a run leaves that is killed while it writes its first
# What may differ when a run goes on: it changes where things lie and who is called, never a
# result that is there already.
_FREE_KEYS = (
    "data.data_dir",
    "data.workers",
    "data.cache",
    "checkpoint.",
    "oracle.timeout",
    "oracle.command",
    "train.fsdp",
    "hosts.",
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


def locate(workdir: str, journal: str) -> tuple[Path, Path]:
    """(folder of the run, local folder of its journal and TensorBoard's events).

    Args:
        workdir: a local folder, or one on gs://, which then is an etils.epath.Path.
        journal: where the journal lies; "" = in the workdir, or below runs/ where that is on gs://.

    Raises:
        UserError: it is at another URL, or gs:// without what that needs.
    """
    if "://" not in workdir:
        return at_home(workdir), at_home(journal or workdir)
    if not workdir.startswith("gs://"):
        raise UserError(
            f"--workdir={workdir} is neither a local folder nor on gs://; name one of the two"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"--workdir={workdir} needs gcsfs, which is not installed; pip install -r "
            "requirements/tpu.txt, or name a local folder"
        )
    below = workdir.removeprefix("gs://").strip("/")
    return cast(Path, epath.Path(workdir)), at_home(journal or f"runs/{below}")


def check(path: Path, local: Path, identity: Mapping[str, Any], *, free: float) -> list[int]:
    """All that could make the folders of this run unusable; writes nothing.

    Args:
        path, local: see `locate`; neither need exist.
        identity: nested dict, JSON-able, that says which run this is (config, data set).
        free: GiB that must be free on each disk.

    Returns:
        The budgets that the run had before it was raised to that of `identity`, ascending.

    Raises:
        UserError: one is no folder, holds something else or another run, or its disk is full.
    """
    raised = []
    options = {local: _JOURNAL_OPTION, path: _WORKDIR_OPTION}  # the second where they are one
    for folder, option in options.items():
        if "://" not in str(folder):
            _check_local(option, folder, free)
    if path.exists() and any(p.name != _UNFINISHED for p in path.iterdir()):
        raised = _check_owner(_WORKDIR_OPTION, path / IDENTITY_FILE, identity)
    if local != path and (local / JOURNAL_FILE).exists():  # another run's answers are not for this
        _check_owner(_JOURNAL_OPTION, local / JOURNAL_OWNER, identity)
    return raised


def _check_local(option: str, path: Path, free: float) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{option}={path} is a file; name a folder, new or of this run")
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UserError(f"{option}={path} lies below {existing}, which is a file, not a folder")
    room = shutil.disk_usage(existing).free / 2**30
    if room < free:
        raise UserError(
            f"the disk of {option}={path} has {room:.2f} GiB free and config.checkpoint.free "
            f"asks for {free:g}; make room, or name a folder on another disk"
        )
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{option}={path}: {existing} may not be written to; choose another")


def disagreement(leader: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """A sentence where process 0 was started on another run or on other data, else None."""
    other = _difference(flatten(leader), flatten(identity))
    if other is None:
        return None
    key, there, here = other
    return (
        f"process 0 has {key}={there!r} and this one {here!r}; start all processes with the same "
        "config on the same data"
    )


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """(option, its value there, here) of the first that differs and may not; None without one."""
    for key in sorted(there.keys() | here.keys(), key=lambda key: (key == "data.fingerprint", key)):
        option = key.removeprefix("config.")
        one, other = there.get(key), here.get(key)
        if option == "data.name":  # the same files by another path are the same data
            one, other = _kind_of_data(one), _kind_of_data(other)
        if one != other and not option.startswith(_FREE_KEYS):
            return option, there.get(key), here.get(key)
    return None


def _kind_of_data(name: Any) -> Any:
    kind, _, _ = str(name).partition(":")
    return kind if kind in ("folder", "arrays") else name


def _check_owner(option: str, stamp: Path, identity: Mapping[str, Any]) -> list[int]:
    """Raises unless `stamp`, in the folder that `option` names, is that of the run `identity`.

    A budget may grow; returns those that the run had before, ascending.
    """
    path = stamp.parent
    if not stamp.is_file():
        first = min(p.name for p in path.iterdir())
        raise UserError(
            f"{option}={path} holds files of something else ({first}) and no {stamp.name}; "
            "choose an empty folder"
        )
    try:
        there = flatten(json.loads(stamp.read_text()))
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{stamp} is not a run's config ({error}); restore it, or choose another {option}"
        ) from None
    asked_for, raised = flatten(identity), there.pop(RAISED, [])
    if _grows(there, asked_for):
        raised = [*raised, there[_BUDGET]]
        there[_BUDGET] = asked_for[_BUDGET]
    other = _difference(there, asked_for)
    if other is not None:
        key, value, here = other
        told = f"{key} is {value!r} there and {here!r} here"
        advice = f"choose another {option}"
        if key == _BUDGET.removeprefix("config.") and isinstance(value, int) and here < value:
            told += ", and a budget is not lowered"
            advice = f"give asking.budget={value} again to go on, or {advice}"
        if key == "data.prior":
            told = "its oracle.prior held other answers"
        if key in ("data.samples", "data.fingerprint"):
            told = "its data were others" + (
                f", {value} samples and not {here}" if key == "data.samples" else ""
            )
        raise UserError(
            f"{option}={path} belongs to another run: {told}; {advice}. "
            "oracle.prior lets a new run begin with the answers.jsonl of an old one"
        )
    return raised


def _grows(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether more is to be asked here than there, where anything is asked at all."""
    before = there.get(_BUDGET)
    return (
        isinstance(before, int)
        and before < here.get(_BUDGET, 0)
        and here.get("config.oracle.name") != "none"
    )
