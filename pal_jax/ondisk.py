"""Feeding and embedding a pool that stays on disk: what train.py does in memory, for `Records`.

Every host reads and decodes its own rows. The embedding is a float16 file that is mapped into
memory; a pass over the pool that is stopped goes on at the chunk where it stood.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from pal_jax import export, sharding
from pal_jax.active.batches import Batch
from pal_jax.errors import UserError
from pal_jax.records import ReadAhead, Records

# Seconds between the marks of a pass over the pool: what a stop may cost.
_MARK_EVERY = 30.0


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
        groups = jax.make_array_from_callback((size,), split, lambda at: batch.groups[at])
        shape = (size, *images.shape[1:])
        return jax.make_array_from_process_local_data(split, images, shape), groups

    return feed


def _own_rows(split: NamedSharding, size: int) -> slice:
    """The rows of `size` that are on this host's devices, which are neighbours in the mesh."""
    parts = [
        index[0].indices(size) for index in split.addressable_devices_indices_map((size,)).values()
    ]
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
    never taken for it; older ones are removed. Each host embeds its own rows, on its own devices,
    into the one file, which all hosts must see.

    Args:
        prepare: [B, ...] samples -> [B, ...] float32, what the encoder expects.
        batch_size: rows of one compiled chunk over all devices, a multiple of them; the last chunk
            is padded.
        path: the file but for its end; its folder is made.

    Raises:
        UserError: from the function, when a value of h does not fit float16 (beyond 65,504 or NaN).
    """
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    here = Mesh(np.array(own), ("rows",))
    rows, copied = NamedSharding(here, PartitionSpec("rows")), NamedSharding(here, PartitionSpec())
    size = batch_size // jax.process_count()

    def forward(variables: Any, x: Array) -> Array:
        h, _, _ = apply(variables, prepare(x), train=False)
        return h.astype(jnp.float16)  # 0.05 % off at most

    compiled = jax.jit(forward, in_shardings=(copied, rows), out_shardings=rows)

    def embed(state: Any) -> tuple[np.ndarray, np.ndarray]:
        variables = _on_host({"params": state.params, "batch_stats": state.batch_stats}, mesh)
        digest = _digest(variables, records.stamp)
        file = path.with_name(f"{path.name}-{digest}.npy")
        if not file.is_file():
            variables = jax.device_put(variables, copied)

            def encode(images: np.ndarray) -> Array:
                padding = [(0, size - len(images))] + [(0, 0)] * (images.ndim - 1)
                return compiled(variables, jax.device_put(np.pad(images, padding), rows))

            example = jax.ShapeDtypeStruct((size, *records.shape[1:]), records.dtype)
            width = jax.eval_shape(forward, variables, example).shape[1]
            _embed_to_file(file, records, encode, width, size)
            _remove_others(path, file)
        return np.load(file, mmap_mode="r"), np.empty((len(records), 0), np.float16)

    return embed


def _embed_to_file(
    file: Path,
    records: Records,
    encode: Callable[[np.ndarray], Array],
    width: int,
    size: int,
) -> None:
    """Puts float16 [n, width] at `file`, whole or not at all; goes on where a stopped pass stood.

    Args:
        encode: images [<= size, ...] -> float16 [size, width] on the devices, rows past them void.
    """
    which, hosts, n = jax.process_index(), jax.process_count(), len(records)
    first, last = which * n // hosts, (which + 1) * n // hosts
    part = file.with_name(f".{file.name}.part")
    mark = part.with_name(f"{part.name}.{which}-of-{hosts}")
    if which == 0 and not part.is_file():
        _reserve(part, (n, width))
    _all_hosts("the file is there")
    h = np.lib.format.open_memmap(part, mode="r+")
    done = int(mark.read_text()) if mark.is_file() else 0
    marked = time.monotonic()
    with (
        contextlib.closing(records.chunks(first + done, last, size)) as chunks,
        tqdm(
            desc="embedding", total=last - first, initial=done, unit="image", leave=False, delay=1.0
        ) as bar,
    ):
        for rows in _encoded(chunks, encode):
            if not np.isfinite(rows).all():
                raise UserError(
                    "the embedding has values beyond 65504 or NaN, which a float16 file cannot "
                    "hold: training diverged; lower train.learning_rate, in a new workdir"
                )
            h[first + done : first + done + len(rows)] = rows
            done += len(rows)
            bar.update(len(rows))
            if time.monotonic() - marked > _MARK_EVERY:
                h.flush()
                export.write_text(mark, str(done))
                marked = time.monotonic()
    h.flush()
    export.write_text(mark, str(done))
    _all_hosts("all rows are written")
    if which == 0:
        part.replace(file)
    _all_hosts("the file is whole")


def _encoded(
    chunks: Iterable[np.ndarray], encode: Callable[[np.ndarray], Array]
) -> Iterator[np.ndarray]:
    """float16 [len, H] of each chunk; the devices work on one while the next is decoded."""
    before: tuple[int, Array] | None = None
    for images in chunks:
        now = len(images), encode(images)
        if before is not None:
            yield np.asarray(before[1])[: before[0]]
        before = now
    if before is not None:
        yield np.asarray(before[1])[: before[0]]


def _reserve(part: Path, shape: tuple[int, int]) -> None:
    """An .npy file of zeros. Its blocks are taken at once: a full disk is an error here and now,
    where later it would be a bus error in the middle of a write to mapped memory."""
    part.parent.mkdir(parents=True, exist_ok=True)
    beside = part.with_name(f"{part.name}.new")
    np.lib.format.open_memmap(beside, mode="w+", dtype=np.float16, shape=shape).flush()
    try:
        with beside.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, beside.stat().st_size)
        beside.replace(part)
    finally:
        beside.unlink(missing_ok=True)


def _remove_others(path: Path, file: Path) -> None:
    """Removes files of other weights and what is left of passes; those still mapped stay alive."""
    if jax.process_index() == 0:
        for pattern in (f"{path.name}-*.npy", f".{path.name}-*.npy.part*"):
            for other in path.parent.glob(pattern):
                if other != file:
                    other.unlink()


def _on_host(tree: Any, mesh: Mesh) -> Any:
    """The tree as NumPy arrays, also where it is split over hosts."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.device_get(jax.jit(lambda tree: tree, out_shardings=everywhere)(tree))


def _digest(variables: Any, stamp: bytes) -> str:
    """16 hex digits that change with any weight, its place, or the records."""
    digest = hashlib.blake2b(stamp, digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()


def _all_hosts(what: str) -> None:
    """Waits for the other hosts, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
