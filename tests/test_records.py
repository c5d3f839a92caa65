"""Images on disk: the same pixels as in memory, in the order asked for, read before they are."""

import functools
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pal_jax import data, pictures, records, synthetic
from pal_jax.active import batches
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.sampler import Sampler
from pal_jax.errors import UserError


class Counting:
    """Ten or so PNG records of one grey each, of which it is known who was read when."""

    def __init__(self, n=10, slow=(), broken=()):
        self.read, self.slow, self.broken, self.n = [], slow, broken, n

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        self.read.append(row)
        if row in self.slow:
            time.sleep(0.05)
        file = io.BytesIO()
        Image.new("L", (4, 3), row).save(file, "PNG")
        return {"image": b"broken" if row in self.broken else file.getvalue()}


def decode(file):
    return pictures.decode(file, size=None, mode="L")


def make(source, **options):
    return records.Records(source, "image", decode, **options)


def greys(images):
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("workers", [1, 4])
def test_they_are_indexed_like_an_array(workers):
    images = make(Counting(slow=(0, 3)), workers=workers)
    array = np.tile(np.arange(10, dtype=np.uint8)[:, None, None, None], (1, 3, 4, 1))
    assert (len(images), images.shape, images.dtype, images.ndim) == (10, array.shape, "uint8", 4)
    keys = [3, np.int64(-1), slice(2, 9, 3), np.array([5, 5, 0, 9]), array[:, 0, 0, 0] % 2 == 1]
    for key in [*keys, slice(0, 0), np.array([], int)]:
        np.testing.assert_array_equal(images[key], array[key])
        assert images[key].dtype == np.uint8
    with pytest.raises(IndexError):
        images[10]
    some = images.take(np.array([8, 2, 4]))
    assert greys(some[:]) == [8, 2, 4]
    assert greys(some.take(np.array([False, True, True]))[:]) == [2, 4]


def test_chunks_cover_their_rows_once_and_in_order():
    images = make(Counting())
    assert [greys(chunk) for chunk in images.chunks(1, 9, 3)] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert list(images.chunks(4, 4, 3)) == []


def test_a_broken_record_is_named_by_its_number_in_the_set():
    images = make(Counting(broken=(7,)), rows=np.array([1, 7, 2]))
    with pytest.raises(UserError, match="record 7 cannot be read"):
        images[:]
    with pytest.raises(UserError, match="empty"):
        make(Counting(), rows=np.array([], int))


def test_the_stamp_sees_number_order_and_content():
    source = Counting()
    stamps = [make(source).stamp, make(source, rows=np.arange(9)).stamp]
    stamps += [make(source, rows=np.arange(10)[::-1]).stamp, make(Counting(11)).stamp]
    assert len(set(stamps)) == 4
    assert make(Counting()).stamp == stamps[0]


# ----------------------------------------------------------------------------------- reading ahead


def batch(*ids):
    return batches.Batch(np.array(ids), np.zeros(len(ids), np.int32))


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_next_batches_are_read_before_they_are_asked_for():
    source = Counting(200)
    plan = [batch(*range(4 * k, 4 * k + 4)) for k in range(50)]
    ahead = records.ReadAhead(
        make(source, workers=2), lambda size: lambda k: plan[1 + k], slice(None)
    )
    source.read.clear()
    assert greys(ahead(plan[0])) == [0, 1, 2, 3]
    wait_for(lambda: {4, 5, 6, 7} <= set(source.read))  # nobody has asked for them
    assert greys(ahead(plan[1])) == [4, 5, 6, 7]
    assert len(source.read) == len(set(source.read))  # and nothing is read twice
    wait_for(lambda: len(source.read) >= 72)
    assert len(source.read) <= 8 + 4 + records.SPARE  # nor without bound
    ahead.close()


def test_a_wrong_guess_costs_time_and_no_image():
    ahead = records.ReadAhead(
        make(Counting()), lambda size: lambda k: batch(*[9] * size), slice(None)
    )
    for ids in ([1, 2], [3, 4], [9, 9], [5, 6, 7]):
        assert greys(ahead(batch(*ids))) == ids
    ahead.close()


def test_every_host_reads_its_own_rows():
    source = Counting(40)
    plan = [batch(*range(4 * k, 4 * k + 4)) for k in range(10)]
    ahead = records.ReadAhead(make(source), lambda size: lambda k: plan[1 + k % 9], slice(2, 4))
    source.read.clear()
    assert [greys(ahead(plan[k])) for k in range(3)] == [[2, 3], [6, 7], [10, 11]]
    assert not {0, 1, 4, 5, 8, 9} & set(source.read)
    ahead.close()


def workers():
    return sum(thread.name.startswith("grain-prefetch") for thread in threading.enumerate())


def test_workers_end_with_the_stream():
    wait_for(lambda: not workers())  # those of the tests before
    ahead = records.ReadAhead(
        make(Counting(), workers=3), lambda size: lambda k: batch(1, 2), slice(None)
    )
    ahead(batch(0, 1))
    assert workers() == 3
    ahead.close()
    wait_for(lambda: not workers())
    with pytest.raises(UserError):
        make(Counting(broken=(3,)), workers=3)[:]
    wait_for(lambda: not workers())


def test_the_sampler_tells_what_it_will_draw_and_a_resumed_one_goes_on_at_the_record():
    sampler = Sampler(50, budget=10, seed=3)
    sampler.batch(8)
    upcoming = sampler.upcoming(8)
    foretold = [upcoming(k).ids.tolist() for k in (2, 0, 1, 1)]
    state = sampler.state_dict()
    drawn = [sampler.batch(8).ids.tolist() for _ in range(3)]
    assert foretold == [drawn[2], drawn[0], drawn[1], drawn[1]]
    sampler.tell([Answer(Question(0, (1,)), (Relation.ALIKE,), "test")])
    assert upcoming(0).ids.tolist() == drawn[0]  # what was known when it was asked

    source = Counting(50)
    resumed = Sampler(50, budget=10, seed=3)
    resumed.load_state_dict(state)
    images = make(source, workers=1)
    source.read.clear()
    ahead = records.ReadAhead(images, resumed.upcoming, slice(None))
    assert [greys(ahead(resumed.batch(8))) for _ in range(3)] == drawn
    assert source.read[:24] == [*drawn[0], *drawn[1], *drawn[2]]  # not one record before these
    ahead.close()
    with pytest.raises(UserError, match="cannot be drawn"):
        sampler.upcoming(51)


# ------------------------------------------------------------------------------- made-up records


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder with made-up records in TFDS's layout of ImageNet."""
    folder = tmp_path_factory.mktemp("tfds")
    synthetic.write_tfds(folder, {"train": 24, "validation": 8}, classes=5)
    return str(folder)


def test_made_up_records_are_as_large_as_those_of_imagenet():
    photographs = synthetic.Photographs(40)
    sizes = [len(photographs[row]["image"]) for row in range(40)]
    assert np.mean(sizes) == pytest.approx(110_000, rel=0.1)
    pixels = np.asarray(Image.open(io.BytesIO(photographs[0]["image"])))
    assert pixels.shape == (375, 500, 3)
    assert 40 < pixels.std() < 80
    assert photographs[3] == synthetic.Photographs(50)[3]
    assert photographs[0]["image"] != photographs[4]["image"]


def test_what_is_streamed_equals_what_is_loaded(imagenet):
    loaded = data.load("tfds:imagenet2012", data_dir=imagenet, image_size=32)
    streamed = data.load("tfds:imagenet2012", data_dir=imagenet, image_size=32, stream=True)
    assert isinstance(streamed.inputs, records.Records)
    assert loaded.inputs.shape == streamed.inputs.shape == (24, 32, 32, 3)
    np.testing.assert_array_equal(streamed.inputs[:], loaded.inputs)
    np.testing.assert_array_equal(streamed.labels, loaded.labels)
    np.testing.assert_array_equal(streamed.ids, loaded.ids)
    assert streamed.class_names == loaded.class_names
    for a, b in zip(
        data.channel_statistics(streamed.inputs),
        data.channel_statistics(loaded.inputs),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    parts = [data.split_off(dataset, 0.25, seed=1) for dataset in (streamed, loaded)]
    for one, other in zip(*parts, strict=True):
        np.testing.assert_array_equal(one.inputs[:], other.inputs[:])
    few = data.load("tfds:imagenet2012", data_dir=imagenet, image_size=32, stream=True, limit=7)
    assert len(few) == 7
    prints = {streamed.fingerprint, few.fingerprint, loaded.fingerprint}
    prints.add(data.take(streamed, np.arange(23)).fingerprint)
    assert len(prints) == 4


def labels_kept_in(cache, data_dir):
    options = {"split": "validation", "image_size": 8, "stream": True}
    return data.load("tfds:imagenet2012", data_dir=data_dir, cache=str(cache), **options).labels


def test_labels_of_a_streamed_set_are_read_once(imagenet, tmp_path, monkeypatch):
    labels_kept = functools.partial(labels_kept_in, tmp_path / "new" / "cache", imagenet)
    labels = labels_kept()
    np.testing.assert_array_equal(labels, np.arange(8) % 5)

    def never(*_):
        raise AssertionError("the records were read again")

    monkeypatch.setattr(data, "_in_batches", never)
    np.testing.assert_array_equal(labels_kept(), labels)
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 1


def test_labels_that_were_kept_and_are_damaged_are_read_anew(imagenet, tmp_path):
    labels_kept = functools.partial(labels_kept_in, tmp_path, imagenet)
    labels = labels_kept()
    assert labels is not None
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    arrays = io.BytesIO()
    np.savez(arrays, labels)
    short = io.BytesIO()
    np.save(short, np.zeros(3, np.int64))
    damages = (b"", good[:-9], good[:7], b"PK\x03\x04" + good, b"?" * 99)
    for damaged in (*damages, arrays.getvalue(), short.getvalue()):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(labels_kept(), labels)
        assert path.read_bytes() == good
        assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_part_of_the_labels(imagenet, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.os, "fsync", full)
    with pytest.raises((OSError, UserError), match="No space left"):
        data.load("tfds:imagenet2012", data_dir=imagenet, stream=True, cache=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_a_file_is_told_and_left_alone(imagenet, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"data\.cache=.*notes is a file; name a folder"):
        labels_kept_in(tmp_path / "notes", imagenet)
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("synthetic:many", {}, "a number of records"),
        ("synthetic:0", {}, "a number of records"),
        ("synthetic", {}, "must be one of"),
        ("synthetic:9", {"split": "test"}, "no split"),
        ("digits", {"stream": True}, "cannot be streamed, only tfds and synthetic"),
    ],
)
def test_what_cannot_be_streamed_is_said_in_a_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        data.load(name, **options)


def test_synthetic_sets_follow_limit_and_size():
    dataset = data.load("synthetic:300", image_size=16, limit=290)
    assert dataset.inputs.shape == (290, 16, 16, 3)
    assert dataset.labels is not None
    assert dataset.labels[-1] == 289
    np.testing.assert_array_equal(dataset.inputs[0], dataset.inputs[synthetic.FILES])
