"""Feeding and embedding a pool that stays on disk: what train.py does in memory, for `Records`.

Every host reads and decodes the rows of its own devices. The embedding is a float16 file that is
mapped into memory; a pass over the pool that is stopped goes on at the chunk where it stood.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from pal_jax import export, hosts, sharding
from pal_jax.active.batches import Batch
from pal_jax.errors import UserError
from pal_jax.records import SPARE, ReadAhead, Records

# Seconds between the marks of a pass over the pool: what a stop may cost.
_MARK_EVERY = 30.0
_BLOCK = 2**20  # bytes of zeros written at a time


def make_feed(
    records: Records, mesh: Mesh, upcoming: Callable[[int], Callable[[int], Batch]]
) -> Callable[[Batch], tuple[Array, Array]]:
    """The function batch -> (images [B, H, W, C], groups [B]), split over the devices of the mesh.

    Each host decodes the rows of its own devices, while the devices work on the batch before.

    Args:
        upcoming: see `Sampler.upcoming`.
    """
    split = sharding.split_rows(mesh)
    readers: dict[int, ReadAhead] = {}

    def feed(batch: Batch) -> tuple[Array, Array]:
        size = len(batch.ids)
        if size not in readers:
            readers[size] = ReadAhead(records, upcoming, _own_rows(split, size))
        images = readers[size](batch)
        shape = (size, *images.shape[1:])
        groups = sharding.put_rows(mesh, size, lambda rows: batch.groups[rows])
        return jax.make_array_from_process_local_data(split, images, shape), groups

    return feed


def _own_rows(split: NamedSharding, size: int) -> slice:
    """The rows of `size` that are on this host's devices, which are neighbours in the mesh."""
    indices = split.addressable_devices_indices_map((size,)).values()
    parts = [index[0].indices(size) for index in indices if index is not None]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def make_embed(
    apply: Callable[..., tuple[Array, Array, Any]],
    prepare: Callable[[Array], Array],
    records: Records,
    mesh: Mesh,
    *,
    batch_size: int,
    path: Path,
) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """The function state -> (h [n, H], z [n, 0]) of all records, without augmentation.

    h is float16 in PATH-WEIGHTS.npy, read-only and mapped, not loaded: 5 GB for ImageNet and a
    ResNet-50, of which only what is looked at enters memory. There is no z: a projector is often
    several times as wide as h, and nothing but the loss uses it. WEIGHTS is a digest of the weights
    (and of the records), so a file that is there is never computed again and one of other weights
    never taken for it; older ones are removed. With several processes each decodes the rows of its
    own devices, and process 0 writes; in the others h has no rows.

    Args:
        prepare: [B, ...] samples -> [B, ...] float32, what the encoder expects.
        batch_size: rows of one compiled chunk over all devices, a multiple of them; the last chunk
            is padded.
        path: the file but for its end, on a local disk; its folder is made.

    Raises:
        UserError: from the function, when a value of h does not fit float16 (beyond 65,504 or NaN).
    """
    rows, copied = sharding.split_rows(mesh), sharding.replicated(mesh)
    own = _own_rows(rows, batch_size)
    chunk = jax.ShapeDtypeStruct((batch_size, *records.shape[1:]), records.dtype)

    def forward(variables: Any, x: Array) -> Array:
        h, _, _ = apply(variables, prepare(x), train=False)
        return h.astype(jnp.float16)  # 0.05 % off at most

    compiled = jax.jit(forward, out_shardings=copied)
    whole = jax.jit(lambda tree: tree, out_shardings=copied)  # also what is split over hosts

    def embed(state: Any) -> tuple[np.ndarray, np.ndarray]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        digest = _digest(jax.device_get(whole(variables)), records.stamp)
        file = path.with_name(f"{path.name}-{digest}.npy")
        h = _File(file, (len(records), jax.eval_shape(forward, variables, chunk).shape[1]))
        done = hosts.only_lead(h.open)
        if done < len(records):

            def encode(images: np.ndarray) -> Array:
                x = jax.make_array_from_process_local_data(rows, images, chunk.shape)
                return compiled(variables, x)

            for values in _embeddings(records, done, batch_size, own, encode):
                h.write(values)
        hosts.only_lead(lambda: h.finish(path))
        return h.read(), np.empty((len(records), 0), np.float16)

    return embed


def _embeddings(
    records: Records,
    done: int,
    size: int,
    own: slice,
    encode: Callable[[np.ndarray], Array],
) -> Iterator[np.ndarray]:
    """float16 [<= size, H] of the rows from `done` on, in order.

    The devices work on a chunk while the host decodes its rows of the next.

    Args:
        own: the rows of each chunk that this host reads.
        encode: those images [len, H, W, C] -> float16 [size, H], on every device.
    """
    total = len(records)
    starts = range(done, total, size)
    ids = [np.arange(start + own.start, min(start + own.stop, total)) for start in starts]
    before: tuple[int, Array] | None = None
    with (
        contextlib.closing(
            records.read(np.concatenate(ids), ahead=own.stop - own.start + SPARE)
        ) as stream,
        tqdm(
            desc="embedding", total=total, initial=done, unit="image", leave=False, delay=1.0
        ) as bar,
    ):
        for start, here in zip(starts, ids, strict=True):
            images = np.zeros((own.stop - own.start, *records.shape[1:]), records.dtype)
            for row in range(len(here)):
                images[row] = next(stream)
            now = min(size, total - start), encode(images)
            if before is not None:
                yield np.asarray(before[1])[: before[0]]
            before = now
            bar.update(now[0])
        if before is not None:
            yield np.asarray(before[1])[: before[0]]


class _File:
    """A float16 .npy file [n, H] that grows from its first row and is there whole or not at all.

    What is unfinished lies beside it, with a mark that says how many rows are on disk.
    """

    def __init__(self, file: Path, shape: tuple[int, int]):
        self._file, self._shape, self._rows = file, shape, 0
        self._part = file.with_name(f".{file.name}.part")
        self._mark = file.with_name(f".{file.name}.part.rows")
        self._array: np.memmap | None = None
        self._marked = time.monotonic()

    def open(self) -> int:
        """Rows that are there already; makes the file when there is none."""
        if self._file.is_file():
            return self._shape[0]
        if not self._part.is_file():
            _reserve(self._part, self._shape)
        self._array = np.lib.format.open_memmap(self._part, mode="r+")
        self._rows = int(self._mark.read_text()) if self._mark.is_file() else 0
        return self._rows

    def write(self, values: np.ndarray) -> None:
        """The next rows, in the process that has opened the file."""
        if not np.isfinite(values).all():
            raise UserError(
                "the embedding has values beyond 65504 or NaN, which a float16 file cannot hold: "
                "training diverged; lower train.learning_rate, in a new workdir"
            )
        if self._array is None:
            return
        self._array[self._rows : self._rows + len(values)] = values
        self._rows += len(values)
        if time.monotonic() - self._marked > _MARK_EVERY:
            self._array.flush()
            export.write_text(self._mark, str(self._rows))
            self._marked = time.monotonic()

    def finish(self, path: Path) -> None:
        """Puts the file in its place and removes those of other weights; whoever has one of them
        mapped keeps it."""
        if self._array is not None:
            self._array.flush()
            self._array = None
            self._part.replace(self._file)
        for pattern in (f"{path.name}-*.npy", f".{path.name}-*.npy.part*"):
            for other in path.parent.glob(pattern):
                if other != self._file:
                    other.unlink()

    def read(self) -> np.ndarray:
        """float16 [n, H], mapped and read-only; [0, H] in the processes that do not lead."""
        if not hosts.lead():
            return np.empty((0, self._shape[1]), np.float16)
        return np.load(self._file, mmap_mode="r")


def _reserve(part: Path, shape: tuple[int, int]) -> None:
    """An .npy file of zeros. Its blocks are taken at once: a full disk is an error here and now,
    where later it would be a bus error in the middle of a write to mapped memory."""
    part.parent.mkdir(parents=True, exist_ok=True)
    beside = part.with_name(f"{part.name}.new")
    array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float16, shape=shape)
    array.flush()
    try:
        _take_blocks(beside, array.offset)
        beside.replace(part)
    finally:
        beside.unlink(missing_ok=True)


def _take_blocks(file: Path, header: int) -> None:
    """Takes the disk for a file of zeros, of which the system may have noted no more than the size.

    Args:
        header: bytes at its start that are no zeros.
    """
    with file.open("r+b") as stream:
        size = file.stat().st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
            return
        stream.seek(header)  # macOS has no such call
        for start in range(header, size, _BLOCK):
            stream.write(bytes(min(_BLOCK, size - start)))
        stream.flush()
        os.fsync(stream.fileno())


def _digest(variables: Any, stamp: bytes) -> str:
    """16 hex digits that change with any weight, its place, or the records."""
    digest = hashlib.blake2b(stamp, digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()
