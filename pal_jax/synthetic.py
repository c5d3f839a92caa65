"""Made-up records of ImageNet's size and format, to measure and test without the data.

JPEG files of 375 x 500 pixels and the like with 110 kB on average (ILSVRC 2012: 144 GB in 1,331,167
files), of noise with the 1/f spectrum of photographs, since white noise would decode more slowly
and a plain colour faster than a picture does.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from PIL import Image

CLASSES = 1000
# Heights and widths that are common in ImageNet, and the quality that gives its mean file size.
SIZES = ((375, 500), (333, 500), (500, 375), (500, 333))
QUALITY = 86
# Distinct files; more records repeat them. 28 MB in memory.
FILES = 256


def jpeg(rng: np.random.Generator, height: int, width: int) -> bytes:
    """One such file. Field 1987: amplitudes of natural images fall as 1 / frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is set below
    noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
    planes = np.fft.irfft2(noise, s=(height, width))
    grey, blue, green = planes / planes.std(axis=(1, 2), keepdims=True)
    # Photographs vary mostly in lightness, less between blue and orange, least towards green.
    rgb = np.stack([grey - 0.3 * blue, grey + 0.1 * green, grey + 0.3 * blue], axis=-1)
    file = io.BytesIO()
    pixels = np.clip(118 + 60 * rgb, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Photographs:
    """n records {"image": JPEG bytes, "label": 0 .. 999}: a `records.Source` without a disk.

    Record i is file i modulo `files`, of class i modulo 1000, the same in every run.
    """

    def __init__(self, n: int, files: int = FILES):
        rng = np.random.default_rng(0)
        count = min(n, files)
        self._n = n
        self._files = [jpeg(rng, *SIZES[i % len(SIZES)]) for i in range(count)]

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: SupportsIndex, /) -> dict[str, Any]:
        i = row.__index__()
        return {"image": self._files[i % len(self._files)], "label": i % CLASSES}


def write_tfds(folder: Path, splits: Mapping[str, int], *, classes: int = CLASSES) -> None:
    """Writes such records as the TFDS set `folder`/imagenet2012, of `classes` classes.

    Features and file names are those of TFDS's own imagenet2012; split -> number of its records.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    version = "5.1.0"
    place = folder / "imagenet2012" / version
    place.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=classes),
        }
    )
    features.save_config(str(place))
    entries = []
    for split, count in splits.items():
        photographs, size = Photographs(count), 0
        # One record a group, as TFDS writes them for random access.
        writer = ArrayRecordWriter(
            str(place / f"imagenet2012-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for row in range(count):
            example = {
                "file_name": f"made_up_{row}.JPEG",
                "image": io.BytesIO(photographs[row]["image"]),
                "label": row % classes,
            }
            record = features.serialize_example(features.encode_example(example))
            size += len(record)
            writer.write(record)
        writer.close()
        entries.append(
            {
                "name": split,
                "numBytes": str(size),
                "shardLengths": [str(count)],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": "imagenet2012", "version": version, "fileFormat": "array_record"}
    text = json.dumps(info | {"splits": entries}, indent=2)
    (place / "dataset_info.json").write_text(text)
