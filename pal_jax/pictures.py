"""Image files: finding them in a folder, and turning any of them into uint8 pixels."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Pictures of other kinds, which are told; what else lies in a folder is not.
_OTHERS = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".tif", ".tiff")
# Named, so that a PostScript file called cat.jpg is refused and not run through an interpreter.
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# A photograph has up to some 40 million pixels; a header that promises more is taken for a bomb.
MAX_PIXELS = 40_000_000


def find(folder: Path) -> tuple[list[str], list[str]]:
    """(paths, skipped): the image files below `folder`, relative with "/" and sorted.

    Names that begin with a dot are ignored. Links to files are followed as long as they stay below
    `folder`; linked folders are not entered, since they would repeat samples or never end. What was
    left out for such a reason is in `skipped`, as "path: reason".
    """
    root = folder.resolve()
    paths, skipped = [], []

    def skip(path: Path, reason: str) -> None:  # what is not UTF-8 could not be shown
        skipped.append(f"{path.as_posix().encode(errors='replace').decode()}: {reason}")

    def cannot(error: OSError) -> None:
        skip(Path(error.filename).relative_to(folder), error.strerror or "cannot be read")

    for parent, folders, files in os.walk(folder, onerror=cannot):
        here = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (folder / here / name).is_symlink():
                skip(here / name, "a link to a folder")
        for name in files:
            if name.startswith(".") or not name.lower().endswith(SUFFIXES + _OTHERS):
                continue
            reason = _unusable(folder / here / name, root)
            if not name.lower().endswith(SUFFIXES):
                reason = f"not {', '.join(suffix[1:] for suffix in SUFFIXES)}"
            if reason:
                skip(here / name, reason)
            else:
                paths.append((here / name).as_posix())
    return sorted(paths), sorted(skipped)


def _unusable(path: Path, root: Path) -> str:
    """Why this file cannot be a sample, or ''; looks at its name and kind, not into it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its path is not UTF-8"
    if not path.resolve().is_relative_to(root):
        return "a link that leaves the folder"
    if not path.is_file():
        return "not a regular file"
    return ""


def decode(source: Path | io.BytesIO, *, size: int | None, mode: str = "RGB") -> np.ndarray:
    """uint8 pixels of an image file, [H, W, 3] or, with mode "L", [H, W, 1].

    EXIF rotation is applied, 16-bit grey keeps its upper 8 bits, and what is transparent shows
    white. With a `size`, the centre square is resampled to size x size (antialiased); None keeps
    the size of the file.

    Raises:
        ValueError: more than MAX_PIXELS, according to the header.
        Exception: whatever Pillow's decoders raise for broken files, which is a wide choice.
    """
    with Image.open(source, formats=FORMATS) as file:
        if file.width * file.height > MAX_PIXELS:
            raise ValueError(
                f"{file.width}x{file.height} pixels, more than {MAX_PIXELS // 10**6} million"
            )
        if size:
            # JPEG can decode at 1/2, 1/4 or 1/8; twice the wanted size keeps the quality.
            file.draft(None, (2 * size, 2 * size))
        image = _flatten(ImageOps.exif_transpose(file)).convert(mode)
        if size:
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            square = (left, top, left + side, top + side)
            # Cut and resized in one go: a 1 x 10,000 image must not become 64 x 640,000 first.
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=square)
        return np.asarray(image).reshape(image.height, image.width, -1)


def _flatten(image: Image.Image) -> Image.Image:
    """The image without transparency and with 8 bits a channel."""
    if image.mode.startswith("I"):  # 16-bit grey
        return Image.fromarray(
            (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode_folder(
    folder: Path, paths: list[str], size: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images uint8 [m, size, size, 3], rows [m], skipped): what could be read of `paths`.

    `rows` are the positions in `paths` that images were read from; the others are in `skipped`.
    """

    def read(path: str) -> np.ndarray | str:
        try:
            return decode(folder / path, size=size)
        except Exception as error:  # one broken file of thousands must not end the run
            return f"{path}: {_reason(error)}"

    images = np.empty((len(paths), size, size, 3), np.uint8)
    rows, skipped = [], []
    # Decoders of photographs leave Python's lock, so threads pay.
    with quiet_pillow(), ThreadPoolExecutor() as pool:
        results = progress(pool.map(read, paths), len(paths), f"reading {folder.name}")
        for row, result in enumerate(results):
            if isinstance(result, str):
                skipped.append(result)
            else:
                images[len(rows)] = result
                rows.append(row)
    return images[: len(rows)], np.array(rows, int), skipped


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or cut off in its header"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warnings (odd palettes, corrupt EXIF, large images) are not news to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def progress(items: Iterable, total: int, what: str) -> Iterable:
    """A progress bar on stderr that short loads never show and that leaves no line behind."""
    return tqdm(items, total=total, desc=what, unit="image", delay=1.0, leave=False)
