"""Data sets as plain arrays with stable sample ids, and the loaders that make them.

Everything is decoded once and kept in memory as uint8 (images) or float32 (features): a batch is
then one gather by row. What does not fit stays on disk as `records.Records`, which are indexed
alike and decoded when needed. Nothing here downloads, unpickles or needs TensorFlow.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pal_jax import pictures, synthetic
from pal_jax.errors import UserError, at_home, nearest, pick
from pal_jax.records import Records

# Below this spread a channel or feature counts as constant: there is nothing to scale.
STD_FLOOR = 1e-6
# Records that stand for all when the moments of channels are estimated: with 2,048 photographs the
# mean is known to 0.005 of the range.
_MOMENT_RECORDS = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """n samples in a fixed order; row i of every array is sample i.

    Attributes:
        name: what `load` was asked for.
        inputs: uint8 [n, H, W, C] images, in memory or on disk, or float32 [n, d] features.
        ids: [n] str, unique; the same sample has the same id in every run.
        labels: [n] int64 in 0 .. len(class_names) - 1, or None where the source has no labels.
        class_names: one name a class, () without labels.
        skipped: "path: reason" for every file or folder that was left out.
    """

    name: str
    inputs: np.ndarray | Records
    ids: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with any input, any id, their order, or labels coming or going.

        Label values are left out: they are for oracle and evaluation, and a corrected label does
        not make the answers about the images void. Of records on disk it sees what `Records.stamp`
        does.
        """
        digest = hashlib.blake2b(digest_size=16)
        kind = (self.inputs.dtype.str, self.inputs.shape, self.labels is not None)
        digest.update(repr(kind).encode())
        if isinstance(self.inputs, Records):
            digest.update(self.inputs.stamp)
        else:
            digest.update(np.ascontiguousarray(self.inputs).view(np.uint8).data)
        digest.update("\0".join(self.ids.tolist()).encode())
        return digest.hexdigest()


def take(dataset: Dataset, index: np.ndarray) -> Dataset:
    """The samples at rows `index` (int or bool array), in that order; `skipped` stays whole."""
    inputs = dataset.inputs
    return dataclasses.replace(
        dataset,
        inputs=inputs.take(index) if isinstance(inputs, Records) else inputs[index],
        ids=dataset.ids[index],
        labels=None if dataset.labels is None else dataset.labels[index],
    )


def with_labels(dataset: Dataset, least: int) -> Dataset:
    """The same; without labels where fewer than `least` are known."""
    if dataset.labels is None or np.count_nonzero(dataset.labels >= 0) >= least:
        return dataset
    return without_labels(dataset)


def without_labels(dataset: Dataset) -> Dataset:
    """The same, as if its labels had never been."""
    return dataclasses.replace(dataset, labels=None, class_names=())


def split_off(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(pool, held_out): round(fraction n) samples drawn by `seed` are held out.

    Both parts keep the order of the data set and share no row. Fraction 0 holds out nothing.

    Raises:
        UserError: `fraction` is not in [0, 1), or leaves one of the two parts empty.
    """
    n = len(dataset)
    if not 0 <= fraction < 1:
        raise UserError(f"the held-out fraction must be at least 0 and below 1, not {fraction}")
    count = round(fraction * n)
    if fraction and not 0 < count < n:
        raise UserError(f"holding out a fraction of {fraction} of {n} samples leaves a part empty")
    held_out = np.zeros(n, bool)
    held_out[np.random.default_rng(seed).permutation(n)[:count]] = True
    return take(dataset, ~held_out), take(dataset, held_out)


def all_the_same(inputs: np.ndarray | Records) -> bool:
    """Whether no sample differs from the first; of records on disk nobody looks at all."""
    if isinstance(inputs, Records):
        return False
    same = functools.partial(np.allclose, inputs[0], rtol=STD_FLOOR, atol=STD_FLOOR)
    return all(map(same, inputs))  # mostly ends at the second


def channel_statistics(inputs: np.ndarray | Records) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), float32: [C] of pixels / 255 for uint8 images, [d] for float features.

    A channel or feature that never changes gets std 1, so that dividing by it stays harmless. Of
    records on disk, 2,048 that are spread evenly are read.
    """
    if isinstance(inputs, Records):
        count = min(len(inputs), _MOMENT_RECORDS)
        inputs = inputs[np.linspace(0, len(inputs) - 1, count).astype(int)]
    if inputs.dtype == np.uint8:
        # Counting the 256 values is exact; by parts, since bincount makes int64 of what it counts.
        pixels = inputs.reshape(-1, inputs.shape[-1])
        counts = np.zeros((pixels.shape[1], 256), np.int64)
        for part in np.array_split(pixels, -(-len(pixels) // 2**20)):
            counts += [np.bincount(channel, minlength=256) for channel in part.T]
        values = np.arange(256) / 255
        weights = counts / counts.sum(axis=1, keepdims=True)
        mean = weights @ values
        std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    else:
        mean, std = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    std = np.where(std > STD_FLOOR * np.maximum(1, np.abs(mean)), std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


def load(
    name: str,
    *,
    data_dir: str | None = None,
    split: str = "train",
    limit: int = 0,
    image_size: int = 64,
    stream: bool = False,
    workers: int = 0,
    cache: str | None = None,
) -> Dataset:
    """Reads a data set.

    Args:
        name: `digits` (1,797 real 8x8 images that come with scikit-learn), `tfds:NAME` (any image
            set that TFDS prepared with file_format="array_record"), `folder:PATH` (image files),
            `arrays:FILE.npz` (keys x and, optionally, y) or `synthetic:N` (N made-up JPEG records
            of ImageNet's size, to measure with).
        data_dir: folder of the TFDS sets; nothing else reads it.
        split: a split of the TFDS set; everything else has only "train".
        limit: keep the first so many samples in the order of the source; 0 keeps all.
        image_size: side in pixels to which images of differing sizes are cut: those of a folder,
            and of TFDS sets without a fixed shape.
        stream: leave the images of a TFDS set on disk, as `Records`; synthetic ones always are.
        workers: threads that decode what is streamed; 0 = one a core.
        cache: folder, made when missing, that keeps the labels of streamed sets, which takes a pass
            over all records to read; None reads them every time.

    Raises:
        UserError: there is no such source, or nothing in it that can be used.
    """
    kind, colon, where = name.partition(":")
    if kind not in LOADERS and (path := at_home(name)).exists():
        form = "folder" if path.is_dir() else "arrays"
        raise UserError(f"data set {name!r} does not say what it is; write {form}:{name}")
    loader = pick(LOADERS, kind, "data set")
    if stream and kind not in STREAMED:
        raise UserError(
            f"data set {name!r} cannot be streamed, only {' and '.join(STREAMED)} sets; "
            "set data.stream=False"
        )
    if (kind == "digits") == bool(colon) or (colon and not where):
        raise UserError(f"data set {name!r} must be one of {', '.join(FORMS)}")
    if kind != "tfds" and split != "train":
        raise UserError(f"data set {name!r} has no split {split!r}, only 'train'")
    if limit < 0:
        raise UserError(f"the limit of samples must be 0 (no limit) or more, not {limit}")
    if image_size < 1:
        raise UserError(f"the image size must be at least 1 pixel, not {image_size}")
    dataset = loader(
        where,
        data_dir=data_dir,
        split=split,
        limit=limit,
        image_size=image_size,
        stream=stream,
        workers=workers,
        cache=cache,
    )
    return dataclasses.replace(dataset, name=name)


def _instead(path: Path) -> str:
    """What is at `path`, where something else should be."""
    if path.is_dir():
        return "is a folder"
    return "is a file" if path.exists() else "does not exist"


def _index_ids(n: int) -> np.ndarray:
    return np.arange(n).astype(str)


def _head(dataset: Dataset, limit: int) -> Dataset:
    return take(dataset, np.arange(min(limit, len(dataset)))) if limit else dataset


# ---------------------------------------------------------------------------------------- digits


def load_digits(where: str, *, limit: int, **_: Any) -> Dataset:
    """scikit-learn's digits, its 17 grey values 0 .. 16 spread over 0 .. 255."""
    from sklearn.datasets import load_digits as read  # half a second that only digits pay

    images, labels = read(return_X_y=True)
    inputs = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    names = tuple(str(digit) for digit in range(10))
    dataset = Dataset("digits", inputs, _index_ids(len(inputs)), labels.astype(np.int64), names)
    return _head(dataset, limit)


# ------------------------------------------------------------------------------------------ TFDS


@dataclasses.dataclass(frozen=True)
class _TfdsSet:
    """A split of a TFDS set, opened; images come as the bytes of their files."""

    folder: Path
    features: Any
    source: Any
    image_key: str
    label_key: str | None


def load_tfds(
    where: str,
    *,
    data_dir: str | None,
    split: str,
    limit: int,
    image_size: int,
    stream: bool,
    workers: int,
    cache: str | None,
) -> Dataset:
    """An image set in the folder layout of TFDS: NAME, NAME/CONFIG or either with :VERSION.

    The builder is made from the folder itself, so a set that is not there cannot start a download,
    and a set that somebody else defined needs none of their code. Rows follow the (shuffled, but
    fixed) order of the TFDS files. Ids are the text feature `id` if unique, else the row; of a
    streamed set always the row.
    """
    opened = _open_tfds(where, data_dir, split)
    n = min(limit or len(opened.source), len(opened.source))
    height, width, channels = opened.features[opened.image_key].shape
    decode = functools.partial(
        pictures.decode,
        size=image_size if height is None or width is None else None,
        mode="L" if channels == 1 else "RGB",
    )
    with _tfds_errors(opened.folder):
        if stream:
            inputs = Records(
                opened.source, opened.image_key, decode, workers=workers, rows=np.arange(n)
            )
            ids, values = _index_ids(n), _streamed_labels(opened, inputs, where, cache)
        else:
            records = pictures.progress(_in_batches(opened.source, n), n, f"reading {where}")
            inputs, rest = _decode_records(records, n, opened.image_key, decode)
            ids = _named_ids(opened.features, rest)
            key = opened.label_key
            values = None if key is None else np.array([record[key] for record in rest], np.int64)
    # Negative is how TFDS marks test sets whose labels are kept secret.
    if values is None or (values < 0).any():
        return Dataset(where, inputs, ids)
    names = tuple(opened.features[opened.label_key].names)
    return Dataset(where, inputs, ids, values, names)


def _open_tfds(where: str, data_dir: str | None, split: str) -> _TfdsSet:
    import tensorflow_datasets as tfds  # half a second, and only for those who use it

    folder = _tfds_folder(where, data_dir)
    with _tfds_errors(folder):
        builder: Any = tfds.builder_from_directory(folder)
    pick(builder.info.splits, split, f"split of {where}")
    features: Any = builder.info.features
    image_key = _only_key(features, tfds.features.Image, "image")
    if image_key is None:
        raise UserError(f"{folder} has no image feature, only {', '.join(features)}")
    decoders = {image_key: tfds.decode.SkipDecoding()}
    with _tfds_errors(folder):
        source = builder.as_data_source(split=split, decoders=decoders)
        if not len(source):
            raise UserError(f"the split {split!r} of {folder} is empty")
    label_key = _only_key(features, tfds.features.ClassLabel, "label")
    return _TfdsSet(folder, features, source, image_key, label_key)


def _named_ids(features: Any, records: list[dict[str, Any]]) -> np.ndarray:
    """The text feature `id` of each record, if there is one and it is unique; else the row."""
    import tensorflow_datasets as tfds

    if "id" in features and isinstance(features["id"], tfds.features.Text):
        named = np.array([record["id"].decode() for record in records])
        if len(np.unique(named)) == len(records):
            return named
    return _index_ids(len(records))


def _streamed_labels(
    opened: _TfdsSet, records: Records, where: str, cache: str | None
) -> np.ndarray | None:
    """[n] int64 labels of the first n records: from the cache if there, else read and kept there.

    They lie beside the images in the files, so reading them is a pass over all the bytes.
    """
    key, n = opened.label_key, len(records)
    if key is None:
        return None
    name = f"{where.replace('/', '-').replace(':', '-')}-{records.stamp.hex()}.labels.npy"
    path = None if cache is None else at_home(cache) / name
    if path is not None:
        if path.parent.exists() and not path.parent.is_dir():
            raise UserError(f"data.cache={cache} is a file; name a folder, new or old")
        if (kept := _kept_labels(path, n)) is not None:
            return kept
    labels = np.empty(n, np.int64)
    found = pictures.progress(_in_batches(opened.source, n), n, f"reading labels of {where}")
    for row, record in enumerate(found):
        labels[row] = record[key]
    if path is not None:
        _keep_labels(path, labels)
    return labels


def _kept_labels(path: Path, n: int) -> np.ndarray | None:
    """[n] int64 labels as `_keep_labels` left them; None where they are to be read anew."""
    try:
        with path.open("rb") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):  # not there, or damaged
        return None
    return labels if labels.shape == (n,) and labels.dtype == np.int64 else None


def _keep_labels(path: Path, labels: np.ndarray) -> None:
    """Whole or not at all, whoever else is writing it, on this host or on one that shares it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        with beside.open("wb") as file:
            np.save(file, labels)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave an empty file at `path`
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _tfds_folder(where: str, data_dir: str | None) -> Path:
    """data_dir/NAME[/CONFIG]/VERSION, the newest version unless one is named."""
    if not data_dir:
        raise UserError(f"tfds:{where} needs data_dir, the folder that holds the TFDS sets")
    base = at_home(data_dir)
    if not base.is_dir():
        raise UserError(
            f"the TFDS folder {base} {_instead(base)}; set data.data_dir to the folder that holds "
            "the TFDS sets"
        )
    folder = base / where.replace(":", "/")
    if not folder.is_dir():
        there = sorted(path.name for path in base.iterdir() if path.is_dir())
        raise UserError(
            f"{base} holds no TFDS set {where!r}{nearest(where, there)}; "
            f"there are: {', '.join(there) or 'none'}"
        )
    if (folder / "dataset_info.json").is_file():
        return folder
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    if not versions:
        configs = sorted({path.parent.parent.name for path in folder.glob("*/*/dataset_info.json")})
        hint = f"; name one of its configs: {', '.join(configs)}" if configs else ""
        raise UserError(f"{folder} holds no version that TFDS has finished preparing{hint}")
    return max(versions, key=lambda path: [(len(part), part) for part in path.name.split(".")])


def _only_key(features: Any, kind: type, preferred: str) -> str | None:
    """The top-level feature of this kind: `preferred` if it is one, else the only one there is."""
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    if preferred in keys:
        return preferred
    return keys[0] if len(keys) == 1 else None


@contextlib.contextmanager
def _tfds_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(
            f"{folder} was not written as array_record, and reading anything else needs "
            'TensorFlow; prepare it with file_format="array_record"'
        ) from error
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{folder} cannot be read, a file is missing or broken: {error}") from error


def _in_batches(source: Any, n: int, size: int = 1024) -> Iterator[dict[str, Any]]:
    """The first n records; asking for many at once is what array_record reads fast."""
    for start in range(0, n, size):
        yield from source.__getitems__(list(range(start, min(start + size, n))))


def _decode_records(
    records: Iterable[dict[str, Any]],
    n: int,
    image_key: str,
    decode: Callable[[io.BytesIO], np.ndarray],
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(images uint8 [n, H, W, C], the n records without them).

    One thread: small images spend their time in Python, and were slower to decode with two.
    """
    images, rest = np.empty(0, np.uint8), []
    with pictures.quiet_pillow():
        for row, record in enumerate(records):
            image = decode(io.BytesIO(record.pop(image_key)))
            if not row:
                images = np.empty((n, *image.shape), np.uint8)
            images[row] = image
            rest.append(record)
    return images, rest


# ---------------------------------------------------------------------------------------- folder


def load_folder(where: str, *, limit: int, image_size: int, **_: Any) -> Dataset:
    """Image files (jpg, jpeg, png, webp, bmp) below a folder, as RGB squares of image_size.

    Rows follow the sorted relative paths, which are the ids. Where at least two subfolders hold
    images and none lies at the top, the subfolder is the label; else there are no labels. What
    cannot be read is named in `skipped`.
    """
    folder = at_home(where)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} {_instead(folder)}; name a folder of images")
    paths, left_out = pictures.find(folder)
    images, rows, broken = pictures.decode_folder(folder, paths[: limit or None], image_size)
    skipped = (*left_out, *broken)
    if not len(rows):
        why = f"; the first of {len(skipped)} skipped is {skipped[0]}" if skipped else ""
        kinds = ", ".join(suffix[1:] for suffix in pictures.SUFFIXES)
        raise UserError(f"{folder} has no image that can be read ({kinds}){why}; name one that has")
    paths = [paths[row] for row in rows]
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    names, labels = np.unique(tops, return_inverse=True)
    if len(names) < 2 or "" in names:
        return Dataset(where, images, np.array(paths), skipped=skipped)
    return Dataset(where, images, np.array(paths), labels.astype(np.int64), tuple(names), skipped)


# ---------------------------------------------------------------------------------------- arrays


def load_arrays(where: str, *, limit: int, **_: Any) -> Dataset:
    """An .npz file with x and, optionally, y; ids are the rows.

    x is [n, d] of numbers (features, made float32), or [n, H, W] or [n, H, W, C] with C <= 4 of
    whole numbers 0 .. 255 (images, made uint8). Float images are refused: whether they run to 1, to
    255 or are standardised already cannot be told from them. y is [n] of whole numbers or text; its
    distinct values, sorted, are the classes. A negative number is the usual mark of a sample
    without a label, and stays -1; with nothing else there are no labels.
    """
    x, y = _read_npz(at_home(where))
    if not x.ndim or not len(x):
        raise UserError(f"x of {where} holds no samples (its shape is {x.shape})")
    inputs = _features(x, where) if x.ndim == 2 else _images(x, where)
    labels, names = None, ()
    if y is not None:
        if y.shape != (len(x),):
            raise UserError(f"y of {where} must be one label a sample, [{len(x)}], not {y.shape}")
        if y.dtype.kind not in "iubU":
            raise UserError(f"y of {where} must hold whole numbers or text, not {y.dtype}")
        known = y >= 0 if y.dtype.kind == "i" else np.ones(len(y), bool)
        if known.any():
            values, inverse = np.unique(y[known], return_inverse=True)
            labels, names = np.full(len(y), -1, np.int64), tuple(map(str, values))
            labels[known] = inverse
    return _head(Dataset(where, inputs, _index_ids(len(x)), labels, names), limit)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if not path.is_file():
        raise UserError(
            f"the array file {path} {_instead(path)}; name one that numpy.savez(path, x=x) wrote"
        )
    try:
        # Opened here, since np.load leaves the file open when its zip is broken.
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise UserError(
                    f"{path} is not a whole .npz file; write one with numpy.savez(path, x=x)"
                )
            file = np.load(stream, allow_pickle=False)
            if "x" not in file:
                raise UserError(f"{path} has no array x, only: {', '.join(file) or 'nothing'}")
            return file["x"], file.get("y")
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):  # NumPy's advice would run whatever is in the file
            raise UserError(
                f"{path} cannot be read as a plain .npz file: it holds Python objects; save x as "
                "an array of numbers, and y as one of whole numbers or text"
            ) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"{path} cannot be read as a plain .npz file: {reason}; mend it, or name another"
        ) from error


def _features(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype.kind not in "iubf" or not x.shape[1]:
        raise UserError(f"features of {where} must be numbers, not {x.dtype} {x.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, found below
        features = x.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise UserError(
            f"x of {where} has NaN or infinite values in {len(bad)} rows, such as {bad[0]}"
        )
    return features


def _images(x: np.ndarray, where: str) -> np.ndarray:
    images = x[..., None] if x.ndim == 3 else x
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] > 4:
        raise UserError(
            f"x of {where} must be features [n, d] or images [n, H, W, C] with 1 to 4 channels "
            f"last, not {x.shape}"
        )
    if x.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        raise UserError(
            f"images of {where} must be whole numbers 0 .. 255 (uint8), not {x.dtype} from "
            f"{images.min()} to {images.max()}; save them so, or as features [n, d]"
        )
    return images.astype(np.uint8)


# ------------------------------------------------------------------------------------- synthetic


def load_synthetic(where: str, *, limit: int, image_size: int, workers: int, **_: Any) -> Dataset:
    """`where` made-up photographs of 1,000 classes, decoded when needed; see `synthetic`."""
    if not where.isdecimal() or not int(where):
        raise UserError(f"synthetic:{where} must be a number of records, such as synthetic:4096")
    n = min(limit or int(where), int(where))
    decode = functools.partial(pictures.decode, size=image_size)
    photographs = synthetic.Photographs(n)
    inputs = Records(photographs, "image", decode, workers=workers)
    labels = np.arange(n) % synthetic.CLASSES
    names = tuple(str(label) for label in range(synthetic.CLASSES))
    return Dataset(where, inputs, _index_ids(n), labels, names)


LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "tfds": load_tfds,
    "folder": load_folder,
    "arrays": load_arrays,
    "synthetic": load_synthetic,
}
STREAMED = ("tfds", "synthetic")
FORMS = ("digits", "tfds:NAME", "folder:PATH", "arrays:FILE.npz", "synthetic:N")
