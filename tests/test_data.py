import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pal_jax import data, pictures
from pal_jax.errors import UserError

SHARED = Path(os.environ.get("PAL_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_tfds_files = pytest.mark.skipif(
    not (SHARED / "cifar10").is_dir(),
    reason="no TFDS files; set PAL_JAX_DATA to a folder with cifar10 and fashion_mnist",
)


def save(path: Path, size=(40, 30), color=(200, 100, 50), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def labels_of(dataset: data.Dataset) -> np.ndarray:
    assert dataset.labels is not None
    return dataset.labels


def pixels_of(dataset: data.Dataset) -> np.ndarray:
    assert isinstance(dataset.inputs, np.ndarray)
    return dataset.inputs


def small(n=10, labels=True) -> data.Dataset:
    inputs = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    y = np.arange(n) % 3 if labels else None
    return data.Dataset("small", inputs, np.arange(n).astype(str), y, ("a", "b", "c"))


# --------------------------------------------------------------------------------- the container


def test_fingerprint_sees_every_change_but_not_label_values():
    base = small()
    pixels = pixels_of(base)
    other_pixel, other_id = pixels.copy(), base.ids.copy()
    other_pixel[-1, -1, -1, -1] += 1
    other_id[3] = "x"
    changed = [
        data.Dataset("small", other_pixel, base.ids, base.labels),
        data.Dataset("small", base.inputs, other_id, base.labels),
        data.Dataset("small", base.inputs, base.ids, None),
        data.Dataset("small", pixels.reshape(10, 4, 1, 1), base.ids, base.labels),
        data.Dataset("small", pixels.view(np.int8), base.ids, base.labels),
        data.take(base, np.arange(10)[::-1]),
    ]
    prints = {base.fingerprint, *(dataset.fingerprint for dataset in changed)}
    assert len(prints) == 1 + len(changed)
    assert small().fingerprint == base.fingerprint
    corrected = data.Dataset("other", base.inputs, base.ids, (labels_of(base) + 1) % 3)
    assert corrected.fingerprint == base.fingerprint
    strided = data.Dataset("small", pixels.repeat(2, axis=0)[::2], base.ids, base.labels)
    assert strided.fingerprint == base.fingerprint


def test_ids_that_only_join_alike_have_other_fingerprints():
    inputs = np.zeros((2, 1), np.float32)
    one = data.Dataset("", inputs, np.array(["ab", "c"]))
    two = data.Dataset("", inputs, np.array(["a", "bc"]))
    assert one.fingerprint != two.fingerprint


def test_split_off_shares_no_row_keeps_rows_together_and_follows_the_seed():
    dataset = small(50)
    pool, held_out = data.split_off(dataset, 0.2, seed=3)
    assert (len(pool), len(held_out)) == (40, 10)
    assert sorted([*pool.ids, *held_out.ids]) == sorted(dataset.ids)
    for part in (pool, held_out):
        rows = part.ids.astype(int)
        np.testing.assert_array_equal(part.inputs, dataset.inputs[rows])
        np.testing.assert_array_equal(part.labels, labels_of(dataset)[rows])
        np.testing.assert_array_equal(rows, np.sort(rows))
    again = data.split_off(dataset, 0.2, seed=3)[1]
    other = data.split_off(dataset, 0.2, seed=4)[1]
    np.testing.assert_array_equal(held_out.ids, again.ids)
    assert set(held_out.ids) != set(other.ids)


def test_nothing_held_out_is_allowed_and_an_empty_part_is_not():
    pool, held_out = data.split_off(small(), 0.0, seed=0)
    assert (len(pool), len(held_out)) == (10, 0)
    for fraction in (1.0, -0.1, 0.01, 0.99, float("nan")):
        with pytest.raises(UserError):
            data.split_off(small(), fraction, seed=0)


def test_statistics_are_mean_and_std_and_constants_are_left_alone(rng):
    images = rng.integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)
    images[..., 2] = 77
    mean, std = data.channel_statistics(images)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, [*pixels.std(axis=0)[:2], 1.0], rtol=1e-6)
    features = rng.normal(100, 3, (50, 4)).astype(np.float32)
    features[:, 1] = 1e8
    mean, std = data.channel_statistics(features)
    np.testing.assert_allclose(mean, features.astype(float).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std[[0, 2, 3]], features[:, [0, 2, 3]].std(axis=0), rtol=1e-4)
    assert std[1] == 1
    assert mean.dtype == std.dtype == np.float32


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("digits:8", {}, "must be one of digits, tfds:NAME"),
        ("folder", {}, "must be one of"),
        ("arrays:", {}, "must be one of"),
        ("digits", {"split": "test"}, "no split 'test'"),
        ("digits", {"limit": -1}, "not -1"),
        ("digits", {"image_size": 0}, "at least 1 pixel"),
        ("tfds:cifar10", {}, "needs data_dir"),
        ("tfds:cifar10", {"data_dir": "/does/not/exist"}, "/does/not/exist does not exist"),
        ("folder:/does/not/exist", {}, "/does/not/exist does not exist"),
        ("arrays:/does/not/exist.npz", {}, "/does/not/exist.npz does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_a_data_set_is_said_in_a_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        data.load(name, **options)


def test_a_file_that_may_not_be_read_is_told_without_an_error_number(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((4, 2)))

    def refused(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "open", refused)
    with pytest.raises(UserError, match=r"\.npz file: Permission denied; mend it, or name another"):
        data.load(f"arrays:{path}")


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    images, labels = load_digits(return_X_y=True)
    assert digits.inputs.dtype == np.uint8
    assert digits.inputs.shape == (1797, 8, 8, 1)
    np.testing.assert_array_equal(
        np.rint(digits.inputs[..., 0] * (16 / 255)), images.reshape(-1, 8, 8)
    )
    assert pixels_of(digits).max() == 255
    np.testing.assert_array_equal(digits.labels, labels)
    assert digits.class_names == tuple("0123456789")
    first = data.load("digits", limit=5)
    np.testing.assert_array_equal(first.inputs, digits.inputs[:5])
    assert list(first.ids) == list("01234")


# ---------------------------------------------------------------------------------------- folder


def test_subfolders_are_labels_unless_an_image_lies_at_the_top(tmp_path):
    save(tmp_path / "dog" / "2.PNG")
    save(tmp_path / "dog" / "deep" / "1.Jpeg")
    save(tmp_path / "cat" / "9.bmp")
    save(tmp_path / "cat" / "b.webp")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    dataset = data.load(f"folder:{tmp_path}", image_size=16)
    assert list(dataset.ids) == ["cat/9.bmp", "cat/b.webp", "dog/2.PNG", "dog/deep/1.Jpeg"]
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.labels, [0, 0, 1, 1])
    assert dataset.inputs.shape == (4, 16, 16, 3)
    assert dataset.skipped == ()
    assert data.load(f"folder:{tmp_path}", limit=3).ids.tolist() == dataset.ids[:3].tolist()

    save(tmp_path / "top.jpg")
    dataset = data.load(f"folder:{tmp_path}", image_size=16)
    assert dataset.labels is None
    assert dataset.class_names == ()


def test_one_subfolder_alone_is_no_class(tmp_path):
    save(tmp_path / "images" / "1.png")
    save(tmp_path / "images" / "2.png")
    assert data.load(f"folder:{tmp_path}").labels is None


def modes():
    color = Image.new("RGB", (20, 20), (200, 100, 50))
    clear = Image.new("RGBA", (20, 20), (9, 9, 9, 0))
    grey16 = Image.fromarray(np.full((20, 20), 100 * 256 + 7, np.uint16))
    palette = color.convert("P", palette=Image.Palette.ADAPTIVE)
    return [
        ("L.png", Image.new("L", (20, 20), 80), (80, 80, 80)),
        ("1.png", Image.new("1", (20, 20), 1), (255, 255, 255)),
        ("P.png", palette, (200, 100, 50)),
        ("RGB.bmp", color, (200, 100, 50)),
        ("RGBA.png", clear, (255, 255, 255)),  # shows what a viewer shows, not hidden colours
        ("RGBA.webp", clear, (255, 255, 255)),
        ("LA.png", Image.new("LA", (20, 20), (80, 255)), (80, 80, 80)),
        ("16.png", grey16, (100, 100, 100)),
        ("CMYK.jpg", Image.new("CMYK", (20, 20), (0, 255, 255, 0)), (254, 0, 0)),
    ]


@pytest.mark.parametrize(("name", "image", "expected"), modes(), ids=lambda v: str(v)[:9])
def test_every_mode_becomes_rgb(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    dataset = data.load(f"folder:{tmp_path}", image_size=8)
    assert dataset.inputs.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(dataset.inputs[0].reshape(-1, 3), np.tile(expected, (64, 1)), atol=4)


def test_the_centre_square_is_kept_and_exif_rotation_applied(tmp_path):
    """A wide picture, red | green | blue: the centre is green, and turning it moves the edges."""
    bands = np.zeros((20, 60, 3), np.uint8)
    bands[:, :22, 0] = bands[:, 22:38, 1] = bands[:, 38:, 2] = 255
    Image.fromarray(bands).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    Image.fromarray(bands).save(tmp_path / "b.png", exif=exif)
    plain, turned = data.load(f"folder:{tmp_path}", image_size=20).inputs
    assert set(plain[10, 4:16].argmax(axis=1)) == {1}  # cut, not squeezed
    assert plain[10, 0].argmax() == 0
    assert plain[10, 19].argmax() == 2
    np.testing.assert_array_equal(turned, np.rot90(plain, k=-1))


def test_broken_files_are_named_and_skipped_and_the_rest_is_read(tmp_path):
    save(tmp_path / "a" / "good.jpg")
    save(tmp_path / "b" / "good.png")
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "a" / "text.jpg").write_text("this is no picture")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in ("cut.png", "cut.jpg"):
        Image.fromarray(noise).save(tmp_path / "a" / name)
        whole = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "gif.png", format="GIF")
    Image.new("1", (7000, 7000)).save(tmp_path / "a" / "large.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "a" / "bomb.png")
    save(tmp_path / "a" / ".hidden.png")
    dataset = data.load(f"folder:{tmp_path}", image_size=16)
    assert list(dataset.ids) == ["a/good.jpg", "b/good.png"]
    np.testing.assert_array_equal(dataset.labels, [0, 1])
    names = [line.partition(": ")[0] for line in dataset.skipped]
    assert names == sorted(
        f"a/{name}"
        for name in (
            "bomb.png",
            "cut.jpg",
            "cut.png",
            "empty.png",
            "gif.png",
            "large.png",
            "text.jpg",
        )
    )
    reasons = dict(line.split(": ", 1) for line in dataset.skipped)
    assert "7000x7000 pixels, more than 40 million" in reasons["a/large.png"]
    assert all(reasons.values())


def test_what_is_left_out_can_be_told_whatever_its_name(tmp_path, monkeypatch):
    """Few disks take names that are not UTF-8, so the walk that meets them is made up."""

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/1\udcff"))
        yield str(folder), ["0\udcff"], []

    monkeypatch.setattr(os, "walk", walk)
    monkeypatch.setattr(Path, "is_symlink", lambda path: True)
    paths, skipped = pictures.find(tmp_path)
    assert paths == []
    assert [line.encode() for line in skipped] == [
        b"0?: a link to a folder",
        b"1?: Permission denied",
    ]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    real = save(inside / "real.png")
    (inside / "good.png").symlink_to(real)
    (inside / "bad.png").symlink_to(save(outside / "secret.png"))
    (inside / "loop").symlink_to(inside)
    (inside / "gone.png").symlink_to(inside / "nothing.png")
    os.mkfifo(inside / "pipe.png")  # opening it would wait for ever
    dataset = data.load(f"folder:{inside}", image_size=8)
    assert list(dataset.ids) == ["good.png", "real.png"]
    assert dict(line.split(": ", 1) for line in dataset.skipped) == {
        "bad.png": "a link that leaves the folder",
        "gone.png": "not a regular file",
        "loop": "a link to a folder",
        "pipe.png": "not a regular file",
    }


def test_a_very_long_image_does_not_grow_on_the_way(tmp_path):
    save(tmp_path / "long.png", size=(30_000, 2))
    image = pictures.decode(tmp_path / "long.png", size=256)
    assert image.shape == (256, 256, 3)


def test_folders_without_a_usable_image_are_refused(tmp_path):
    with pytest.raises(UserError, match="no image that can be read"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "x.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"the first of 1 skipped is x\.png: not an image"):
        data.load(f"folder:{tmp_path}")


# ---------------------------------------------------------------------------------------- arrays


def load_npz(tmp_path, **arrays) -> data.Dataset:
    np.savez(tmp_path / "a.npz", **arrays)
    return data.load(f"arrays:{tmp_path / 'a.npz'}")


def test_arrays_of_images_and_of_features(tmp_path, rng):
    images = rng.integers(0, 256, (5, 4, 3, 3))
    assert load_npz(tmp_path, x=images.astype(np.uint8)).inputs.dtype == np.uint8
    wide = load_npz(tmp_path, x=images)  # whole numbers of any type will do
    np.testing.assert_array_equal(wide.inputs, images)
    assert wide.inputs.dtype == np.uint8
    assert wide.labels is None
    assert load_npz(tmp_path, x=images[..., 0]).inputs.shape == (5, 4, 3, 1)
    features = load_npz(tmp_path, x=rng.normal(size=(5, 7)), y=np.array(list("babab")))
    assert features.inputs.dtype == np.float32
    assert features.class_names == ("a", "b")
    np.testing.assert_array_equal(features.labels, [1, 0, 1, 0, 1])
    gaps = load_npz(tmp_path, x=np.zeros((3, 2)), y=np.array([7, -1, 7], np.int8))
    np.testing.assert_array_equal(gaps.labels, [0, -1, 0])  # negative: a label that is missing
    assert gaps.class_names == ("7",)
    assert labels_of(gaps).dtype == np.int64
    assert load_npz(tmp_path, x=np.zeros((3, 2)), y=np.full(3, -1)).labels is None


ONES = np.ones((4, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": ONES}, "no array x, only: z"),
        ({"x": np.array([None, 1])}, "plain .npz"),
        ({"x": np.ones(4)}, r"must be features \[n, d\] or images"),
        ({"x": np.ones((4, 3, 2, 2, 2), np.uint8)}, "must be features"),
        ({"x": np.ones((4, 3, 32, 32), np.uint8)}, "1 to 4 channels last"),
        ({"x": np.array(3)}, "no samples"),
        ({"x": np.ones((0, 3))}, "no samples"),
        ({"x": np.ones((4, 0))}, "must be numbers"),
        ({"x": np.ones((4, 0, 3, 1), np.uint8)}, "must be features"),
        ({"x": np.array([["a", "b"]])}, "must be numbers"),
        ({"x": ONES * [1, np.nan, 1]}, "NaN or infinite values in 4 rows, such as 0"),
        ({"x": ONES * 1e60}, "NaN or infinite"),
        ({"x": ONES * 1j}, "must be numbers"),
        ({"x": np.ones((4, 2, 2, 3), np.float32)}, r"0 \.\. 255 \(uint8\), not float32"),
        ({"x": np.full((4, 2, 2, 3), 256)}, "not int64 from 256 to 256"),
        ({"x": ONES, "y": np.ones(3, int)}, "one label a sample"),
        ({"x": ONES, "y": np.ones((4, 2), int)}, "one label a sample"),
        ({"x": ONES, "y": np.ones(4)}, "whole numbers or text, not float64"),
        ({"x": ONES, "y": np.array([None] * 4)}, "plain .npz"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_arrays_that_cannot_be_samples_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path, **arrays)


def test_files_that_are_no_npz_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(100, 100)))
    whole = path.read_bytes()
    np.save(tmp_path / "b.npy", ONES)
    corrupt = bytearray(whole)
    corrupt[len(whole) // 2] ^= 255
    contents = [b"", b"text", whole[:500], bytes(corrupt), (tmp_path / "b.npy").read_bytes()]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match="npz"):
            data.load(f"arrays:{path}")


# ------------------------------------------------------------------------------------------ TFDS


@needs_tfds_files
@pytest.mark.parametrize(
    ("name", "split", "shape", "size", "first_id", "class_name"),
    [
        ("cifar10", "test", (32, 32, 3), 10_000, "test_09933", "airplane"),
        ("fashion_mnist:3.0.1", "test", (28, 28, 1), 10_000, "0", "T-shirt/top"),
    ],
)
def test_tfds_files_are_read_without_tensorflow(name, split, shape, size, first_id, class_name):
    dataset = data.load(f"tfds:{name}", data_dir=str(SHARED), split=split)
    assert dataset.inputs.shape == (size, *shape)
    assert dataset.inputs.dtype == np.uint8
    assert dataset.ids[0] == first_id
    assert len(set(dataset.ids)) == size
    assert dataset.class_names[0] == class_name
    np.testing.assert_array_equal(np.bincount(labels_of(dataset)), np.full(10, 1_000))
    limited = data.load(f"tfds:{name}", data_dir=str(SHARED), split=split, limit=7)
    np.testing.assert_array_equal(limited.inputs, dataset.inputs[:7])
    np.testing.assert_array_equal(limited.labels, labels_of(dataset)[:7])
    assert "tensorflow" not in sys.modules


@needs_tfds_files
def test_statistics_of_fashion_mnist_are_the_published_ones():
    dataset = data.load("tfds:fashion_mnist", data_dir=str(SHARED), limit=3000)
    mean, std = data.channel_statistics(dataset.inputs)
    assert mean == pytest.approx(0.2860, abs=0.01)
    assert std == pytest.approx(0.3530, abs=0.01)


@needs_tfds_files
@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar", "train", "did you mean 'cifar10'"),
        ("cifar10:9.9.9", "train", "holds no TFDS set"),
        ("cifar10", "tests", "did you mean 'test'"),
    ],
)
def test_what_tfds_does_not_have_is_refused(name, split, message):
    with pytest.raises(UserError, match=message):
        data.load(f"tfds:{name}", data_dir=str(SHARED), split=split)


@needs_tfds_files
def test_missing_and_broken_tfds_files_are_refused_and_nothing_is_created(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="no version that TFDS has finished"):
        data.load("tfds:cifar10", data_dir=str(tmp_path))
    for path in (SHARED / "cifar10" / "3.0.2").iterdir():
        if "array_record" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="missing or broken"):
        data.load("tfds:cifar10", data_dir=str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before
    for part in range(4):
        name = f"cifar10-test.array_record-{part:05d}-of-00004"
        whole = (SHARED / "cifar10" / "3.0.2" / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="missing or broken"):
        data.load("tfds:cifar10", data_dir=str(tmp_path), split="test")
