"""Images that stay on disk: indexed like an array, decoded by worker threads when they are needed.

For data sets that do not fit in memory. Nothing is shuffled and nothing is remembered here: which
record is read when is a function of the ids that are asked for, so whoever knows the ids goes on at
the very record where a stopped run stood.
"""

import contextlib
import functools
import hashlib
import io
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pal_jax.errors import UserError

Decode = Callable[[io.BytesIO], np.ndarray]
Stream = Generator[np.ndarray, None, None]
# Images that are decoded ahead, beyond the batch that is waited for, so that a slow one (a large
# JPEG, a seek) does not hold up the others: 64 of 224x224x3 are 10 MB.
SPARE = 64
_ENDLESS = 2**40  # batches, since Grain wants a length; the reader stops before
_STAMPED = 64  # records that a fingerprint looks at


class Source(Protocol):
    """Random access to records, from many threads at once; TFDS's data sources are such."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, Any]: ...


class Draw(Protocol):
    """A batch as the sampler draws it."""

    @property
    def ids(self) -> np.ndarray: ...


class Records:
    """Images of n records, which `decode` makes uint8 [H, W, C], all of one shape.

    Args:
        source: the records; encoded images under `image_key`.
        image_key: as it says.
        decode: file -> pixels; called from several threads.
        workers: threads that read and decode; 0 = one a core.
        rows: [n] int, the records of `source` that these are; None: all of them, in order.

    Raises:
        UserError: there is no record, or the first cannot be decoded.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        source: Source,
        image_key: str,
        decode: Decode,
        *,
        workers: int = 0,
        rows: np.ndarray | None = None,
    ):
        self.source = source
        self.rows = np.arange(len(source)) if rows is None else rows
        self._image_key, self.decode = image_key, decode
        self.workers = workers or os.cpu_count() or 1
        if not len(self.rows):
            raise UserError("a set of records is empty")
        self.shape = (len(self.rows), *self._image(0).shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        """uint8 [H, W, C] for an integer, [m, H, W, C] for a slice or an array of indices."""
        if isinstance(key, int | np.integer):
            return self._image(range(len(self))[key])
        ids = np.arange(len(self))[key]
        images = np.empty((len(ids), *self.shape[1:]), self.dtype)
        with contextlib.closing(self.read(ids, ahead=SPARE)) as stream:
            for row, image in enumerate(stream):
                images[row] = image
        return images

    def take(self, index: np.ndarray) -> "Records":
        """Those at `index` (int or bool array), in that order; reads nothing but the first."""
        return Records(
            self.source, self._image_key, self.decode, workers=self.workers, rows=self.rows[index]
        )

    def read(self, ids: Sequence[int] | np.ndarray, *, ahead: int) -> Stream:
        """The images at `ids`, in order; `ahead` of them are decoded before they are asked for."""
        import grain  # a second, and only for those who use it

        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=ahead)
        source: Any = ids
        images = grain.MapDataset.source(source).map(self._image).to_iter_dataset(options)
        with contextlib.closing(iter(images)) as stream:
            yield from stream

    def chunks(self, start: int, stop: int, size: int) -> Stream:
        """Rows start .. stop in their order, uint8 [size, H, W, C]; the last may be shorter."""
        ids = range(start, stop)
        with contextlib.closing(self.read(ids, ahead=size + SPARE)) as stream:
            for first in range(start, stop, size):
                yield np.stack([next(stream) for _ in range(min(size, stop - first))])

    @functools.cached_property
    def stamp(self) -> bytes:
        """16 bytes that change with the number of records, the shape, and the encoded bytes of 64
        records spread evenly; reading all of them would take an hour of a disk."""
        digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        for row in np.unique(np.linspace(0, len(self) - 1, _STAMPED).astype(int)):
            digest.update(self.source[int(self.rows[row])][self._image_key])
        return digest.digest()

    def _image(self, row: int) -> np.ndarray:
        """One image; what its decoder says of a broken record is told with the record's number."""
        number = int(self.rows[row])
        try:
            image = self.decode(io.BytesIO(self.source[number][self._image_key]))
        except Exception as error:  # Pillow's decoders raise whatever they like
            raise UserError(
                f"record {number} cannot be read ({type(error).__name__}: {error}); the data "
                "set is damaged: prepare it again"
            ) from error
        return image


class ReadAhead:
    """The images of batch after batch, read and decoded before they are asked for.

    Which batch comes next is a guess that the sampler makes; a batch is compared with it before it
    is served, so a wrong guess (answers came in between) costs time and never gives wrong images.

    Args:
        records: where the images are.
        upcoming: size of a batch -> (k -> the batch that the k-th next draw will give, from 0, as
            long as nothing is told). What it returns is called from several threads.
        part: the rows of each batch that this host reads.
    """

    def __init__(
        self, records: Records, upcoming: Callable[[int], Callable[[int], Draw]], part: slice
    ):
        self._records, self._upcoming, self._part = records, upcoming, part
        self._order: _Order | None = None
        self._served = 0
        self._stream: Stream | None = None

    def __call__(self, batch: Draw) -> np.ndarray:
        """uint8 [b, H, W, C]: the images of this host's part of the batch just drawn."""
        ids = batch.ids[self._part]
        if self._order is None or not np.array_equal(ids, self._order.ids(self._served)):
            self.close()
            self._order = _Order(batch, self._upcoming(len(batch.ids)), self._part)
            self._stream = self._records.read(self._order, ahead=len(ids) + SPARE)
        assert self._stream is not None
        images = np.empty((len(ids), *self._records.shape[1:]), self._records.dtype)
        for row in range(len(ids)):
            images[row] = next(self._stream)
        self._served += 1
        return images

    def close(self) -> None:
        """Stops the workers; the next call starts them again."""
        if self._stream is not None:
            self._stream.close()
        self._order, self._stream, self._served = None, None, 0


class _Order(Sequence[int]):
    """The ids of a batch and of all that follow it, end to end; each is drawn once, when needed."""

    def __init__(self, first: Draw, following: Callable[[int], Draw], part: slice):
        self._part = part
        self._size = len(first.ids[part])
        draw = lambda number: following(number - 1) if number else first  # noqa: E731
        self._draw = functools.lru_cache(maxsize=4)(draw)
        self._lock = threading.Lock()  # workers cross into a new batch together

    def __len__(self) -> int:
        return self._size * _ENDLESS

    def ids(self, number: int) -> np.ndarray:
        with self._lock:
            return self._draw(number).ids[self._part]

    def __getitem__(self, position: Any) -> Any:
        number, row = divmod(position, self._size)
        return int(self.ids(number)[row])
