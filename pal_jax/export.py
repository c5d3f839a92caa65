"""What a user takes home, in standard files.

Each file is written beside its place and then moved there, so a reader never sees half of one, and
the same content always gives the same bytes.
"""

import contextlib
import csv
import io
import itertools
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pal_jax.active.questions import Answer, answer_to_dict
from pal_jax.active.relations import Contradiction
from pal_jax.errors import UserError

# What a spreadsheet takes for the start of a formula, full-width forms included (OWASP, "CSV
# injection"), and the apostrophe that marks a cell as text.
_MARKED = tuple("=+-@'\uff1d\uff0b\uff0d\uff20")
_UTF8_MARK = "\ufeff"  # without it Excel on Windows takes a file for one in the local code page
_PARTITION_HEADER = ["id", "group", "probability", "name"]


class PartitionFile(NamedTuple):
    """The columns of partition.csv."""

    ids: list[str]
    groups: np.ndarray  # [n] int64
    probability: np.ndarray  # [n] float64
    names: list[str]  # of the groups, "" where a group has none


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when the block ends, and not at all if it fails.

    Args:
        path: on a local disk, or any path of etils.epath, whose stores show only whole objects.
    """
    if not is_local(path):
        content = io.BytesIO()
        yield content
        path.write_bytes(content.getvalue())
        return
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave an empty file at `path`
        beside.replace(path)
    except OSError as error:  # a failing write does not say of which file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def is_local(path: Path) -> bool:
    """Whether `path` is on a disk of this machine, not at a URL such as gs://."""
    return "://" not in str(path)


def write_text(path: Path, text: str) -> None:
    """Puts `text` at `path`, in UTF-8; what Unicode has no word for becomes "?"."""
    with whole(path) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces of indent; NumPy scalars and arrays become numbers and lists.

    NaN and infinities become null: JSON has no word for them.
    """
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_answers(path: Path, answers: Iterable[Answer], ids: Sequence[str] | np.ndarray) -> None:
    """answers.jsonl: one answer a line, in the order they were given.

    Each with the "names" of its samples, anchor first: in a folder to which pictures were added
    they are others by number, but not by name. `oracles.read_answers` goes by the names.

    Args:
        ids: [n] sample ids.
    """

    def line(answer: Answer) -> str:
        rows = (answer.question.anchor, *answer.question.candidates)
        names = [str(ids[row]) for row in rows]
        return json.dumps(answer_to_dict(answer) | {"names": names}) + "\n"

    write_text(path, "".join(map(line, answers)))


def write_partition(
    path: Path,
    ids: Sequence[str] | np.ndarray,
    groups: np.ndarray,
    probability: np.ndarray,
    names: Sequence[str] | None = None,
) -> None:
    """partition.csv: one sample a row, with the header id,group,probability,name.

    RFC 4180, in UTF-8 with its mark. Text that a spreadsheet would run as a formula, or that begins
    with an apostrophe, gets an apostrophe in front; `read_partition` takes it off again.

    Args:
        ids: [n] sample ids.
        groups: [n] int.
        probability: [n] that the sample is in its group; written so that it reads back exactly.
        names: [n] of the group of each sample, "" where it has none.
    """
    columns = (ids, groups, probability, names or [""] * len(ids))
    rows = [
        (_mark(str(sample)), int(group), float(p), _mark(name))
        for sample, group, p, name in zip(*columns, strict=True)
    ]
    _write_csv(path, [_PARTITION_HEADER, *rows])


def read_partition(path: Path) -> PartitionFile:
    """What `write_partition` was given, whoever has typed names into it since.

    Raises:
        UserError: it is no such file any more; says which line of it is not.
    """
    try:
        with path.open("rb") as file:
            text = io.StringIO(file.read().decode("utf-8-sig"), newline="")
        header, *rows = list(csv.reader(text)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; write it as CSV in UTF-8") from error
    for number, row in enumerate([header, *rows], 1):
        if not (_is_partition_row(row) if number > 1 else row == _PARTITION_HEADER):
            raise UserError(
                f"row {number} of {path} is {','.join(row)[:80]!r}, not one of "
                f"{','.join(_PARTITION_HEADER)}; restore it"
            )
    return PartitionFile(
        ids=[_unmark(row[0]) for row in rows],
        groups=np.array([int(row[1]) for row in rows], np.int64),
        probability=np.array([float(row[2]) for row in rows], np.float64),
        names=[_unmark(row[3]) for row in rows],
    )


def _is_partition_row(row: Sequence[str]) -> bool:
    try:
        _, group, probability, _ = row
        return int(group) >= 0 and 0.0 <= float(probability) <= 1.0
    except ValueError:
        return False


def names_typed_into(path: Path, ids: Sequence[str] | np.ndarray) -> list[str]:
    """[n] what somebody typed into the column "name" of the partition.csv at `path`, "" elsewhere.

    A sample keeps its name, whichever group it is in now.

    Raises:
        UserError: the file cannot be read, or has names for samples that are not in `ids`.
    """
    if not path.exists():
        return [""] * len(ids)
    there = read_partition(path)
    named = {sample: name for sample, name in zip(there.ids, there.names, strict=True) if name}
    if strange := named.keys() - set(map(str, ids)):
        raise UserError(
            f"{path} has a name for the sample {min(strange)!r}, which is not in this run; "
            "restore its ids"
        )
    return [named.get(str(sample), "") for sample in ids]


def move_aside(path: Path) -> Path:
    """Renames the file to the first of NAME.old, NAME.old2, ... that is free; returns that."""
    names = (f"{path.name}.old{number if number > 1 else ''}" for number in itertools.count(1))
    aside = next(free for name in names if not (free := path.with_name(name)).exists())
    path.rename(aside)
    return aside


def write_contradictions(
    path: Path,
    ids: Sequence[str] | np.ndarray,
    contradictions: Iterable[Contradiction],
    answers: Sequence[Answer],
    prior_lines: Sequence[int] = (),
) -> None:
    """contradictions.csv: an answer that the groups do not follow a row, as `write_partition`.

    The columns first, second, said and oracle tell what it was; answer is its line in
    answers.jsonl, from 1, and against are the lines of those that outweigh it. Line 7 of the
    answers that were believed from the start is "prior:7".

    Args:
        prior_lines: of each answer believed from the start, in the file that it is from.
    """

    def line(position: int) -> str:
        return str(position + 1) if position >= 0 else f"prior:{prior_lines[position]}"

    rows = []
    for c in contradictions:
        first, second = (_mark(str(ids[i])) for i in c.pair)
        oracle = answers[c.position].oracle if c.position >= 0 else "prior"
        against = " ".join(dict.fromkeys(map(line, c.against)))
        said = c.relation.value
        rows.append((first, second, said, _mark(oracle), line(c.position), against))
    _write_csv(path, [("first", "second", "said", "oracle", "answer", "against"), *rows])


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_text(path, _UTF8_MARK + text.getvalue())


def write_embeddings(
    path: Path, ids: Sequence[str] | np.ndarray, h: np.ndarray, z: np.ndarray
) -> None:
    """embeddings.npz with ids [n] (text), h [n, H] and z [n, K]; `np.load` reads it unpickled.

    An npz is a zip; `np.savez` would put the time of day into it, so the zip is written here.
    """
    arrays = {"ids": np.asarray(ids, dtype=np.str_), "h": np.asarray(h), "z": np.asarray(z)}
    with whole(path) as whole_file, zipfile.ZipFile(whole_file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980-01-01
            entry.create_system = 3  # Unix, also on Windows
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _mark(text: str) -> str:
    return "'" + text if text.lstrip().startswith(_MARKED) else text


def _unmark(text: str) -> str:
    """The inverse of `_mark`; an apostrophe that somebody has typed stays."""
    bare = text.removeprefix("'")
    return bare if _mark(bare) == text else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
