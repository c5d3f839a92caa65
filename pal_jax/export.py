"""What a user takes home, in standard files.

Each file is written beside its place and then moved there, so a reader never sees half of one, and
the same content always gives the same bytes.
"""

import contextlib
import csv
import io
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

# What a spreadsheet takes for the start of a formula, full-width forms included (OWASP, "CSV
# injection"), and the apostrophe that marks a cell as text.
_MARKED = tuple("=+-@'\uff1d\uff0b\uff0d\uff20")


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
    names: Mapping[int, str] | None = None,
) -> None:
    """partition.csv: one sample a row (RFC 4180, UTF-8), with the header id,group,probability,name.

    Text that a spreadsheet would run as a formula, or that begins with an apostrophe, gets an
    apostrophe in front; `read_partition` takes it off again.

    Args:
        ids: [n] sample ids.
        groups: [n] int.
        probability: [n] that the sample is in its group; written so that it reads back exactly.
        names: group -> name, for the groups that have one.
    """
    named = names or {}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("id", "group", "probability", "name"))
    for sample, group, p in zip(ids, groups, probability, strict=True):
        name = named.get(int(group), "")
        writer.writerow((_mark(str(sample)), int(group), float(p), _mark(name)))
    write_text(path, text.getvalue())


def read_partition(path: Path) -> PartitionFile:
    """What `write_partition` was given, with one name a sample."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return PartitionFile(
        ids=[row[0].removeprefix("'") for row in rows],
        groups=np.array([int(row[1]) for row in rows], np.int64),
        probability=np.array([float(row[2]) for row in rows], np.float64),
        names=[row[3].removeprefix("'") for row in rows],
    )


def write_contradictions(
    path: Path,
    ids: Sequence[str] | np.ndarray,
    contradictions: Iterable[Contradiction],
    answers: Sequence[Answer],
) -> None:
    """contradictions.csv: an answer that the groups do not follow a row, as `write_partition`.

    The columns first, second, said and oracle tell what it was; answer is its line in
    answers.jsonl, from 1, and against are the lines of those that outweigh it. Answers believed
    from the start have no line: they are "prior".
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("first", "second", "said", "oracle", "answer", "against"))
    for c in contradictions:
        first, second = (_mark(str(ids[i])) for i in c.pair)
        oracle = answers[c.position].oracle if c.position >= 0 else "prior"
        against = dict.fromkeys(_line(position) for position in c.against)
        row = (first, second, c.relation.value, _mark(oracle), _line(c.position), " ".join(against))
        writer.writerow(row)
    write_text(path, text.getvalue())


def _line(position: int) -> str:
    return str(position + 1) if position >= 0 else "prior"


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
