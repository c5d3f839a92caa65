"""Feeding and embedding what stays on disk: one host or two, stopped or not, the same numbers."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import faults
from pal_jax import ondisk, pictures, records, sharding, train
from pal_jax.active.sampler import Sampler
from pal_jax.errors import UserError
from tests import processes

N = 37  # no multiple of a chunk, of the devices or of two hosts
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3)).astype(np.uint8)
WEIGHTS = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)


class Source:
    """PNG records of PIXELS; the `fail`-th read from now raises, as a killed machine would."""

    def __init__(self, fail=-1):
        self.fail, self.read = fail, []

    def __len__(self):
        return N

    def __getitem__(self, row):
        if len(self.read) == self.fail:
            raise OSError("the plug is pulled")
        self.read.append(row)
        file = io.BytesIO()
        Image.fromarray(PIXELS[row]).save(file, "PNG")
        return {"image": file.getvalue()}


def make_records(source):
    def decode(file):
        return pictures.decode(file, size=None)

    return records.Records(source, "image", decode, workers=1)


def apply(variables, x, *, train):
    assert not train
    h = x.reshape(len(x), -1) @ variables["params"]["w"]
    return h, h, {}


def prepare(x):
    return x.astype(np.float32) / 255


def state(scale=1.0):
    w = jax.numpy.asarray(WEIGHTS * np.float32(scale))
    return train.TrainState(jax.numpy.zeros((), np.int32), {"w": w}, {}, ())


def make_embed(source, path, devices=8):
    mesh = sharding.make_mesh(devices)
    return ondisk.make_embed(apply, prepare, make_records(source), mesh, batch_size=8, path=path)


def expected(scale=1.0):
    return (PIXELS.reshape(N, -1) / 255.0) @ (WEIGHTS.astype(np.float64) * scale)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("devices", [1, 8])
def test_the_embedding_is_a_mapped_float16_file(tmp_path, devices):
    h, z = make_embed(Source(), tmp_path / "deep" / "pool", devices)(state())
    assert isinstance(h, np.memmap)
    assert h.dtype == np.float16
    assert not h.flags.writeable
    assert z.shape == (N, 0)
    np.testing.assert_allclose(h, expected(), rtol=2e-3, atol=2e-3)
    assert len(files(tmp_path / "deep")) == 1  # neither parts nor marks stay


def test_it_is_computed_once_for_the_same_weights_and_anew_for_others(tmp_path):
    source = Source()
    embed = make_embed(source, tmp_path / "pool")
    first, _ = embed(state())
    source.read.clear()
    np.testing.assert_array_equal(embed(state())[0], first)
    assert source.read == []
    before = np.array(first)
    second, _ = embed(state(2.0))
    np.testing.assert_allclose(second, expected(2.0), rtol=2e-3, atol=4e-3)
    np.testing.assert_array_equal(first, before)  # whoever still holds it sees what he saw
    assert len(files(tmp_path)) == 1


def test_a_stopped_pass_goes_on_at_its_chunk_and_ends_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(ondisk, "_MARK_EVERY", 0.0)
    whole, _ = make_embed(Source(), tmp_path / "whole")(state())
    source = Source()
    embed = make_embed(source, tmp_path / "pool")
    source.fail = len(source.read) + N + 27  # after the stamp, which reads each
    with pytest.raises(UserError, match="the plug is pulled"):
        embed(state())
    left = files(tmp_path)
    assert [name for name in left if name.startswith("pool")] == []
    source.fail = -1
    source.read.clear()
    h, _ = embed(state())
    np.testing.assert_array_equal(h, whole)
    assert source.read == list(range(16, N))  # two chunks of 8 were marked, a third was under way


def test_a_stopped_pass_of_other_weights_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(ondisk, "_MARK_EVERY", 0.0)
    source = Source()
    embed = make_embed(source, tmp_path / "pool")
    source.fail = len(source.read) + N + 27
    with pytest.raises(UserError):
        embed(state())
    source.fail = -1
    h, _ = embed(state(2.0))
    np.testing.assert_allclose(h, expected(2.0), rtol=2e-3, atol=4e-3)
    assert len(files(tmp_path)) == 1


def test_what_float16_cannot_hold_is_an_error_and_no_file(tmp_path):
    for scale in (1e6, np.nan):
        with pytest.raises(UserError, match="65504 or NaN"):
            make_embed(Source(), tmp_path / "pool")(state(scale))
    assert not any(name.endswith(".npy") for name in files(tmp_path))


def test_a_full_disk_is_an_error_before_the_pass(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ondisk.os, "posix_fallocate", full, raising=False)
    source = Source()
    embed = make_embed(source, tmp_path / "pool")
    with pytest.raises(OSError, match="No space left"):
        embed(state())
    assert files(tmp_path) == []


def test_without_a_call_for_it_the_blocks_are_taken_by_writing_zeros(tmp_path, monkeypatch):
    monkeypatch.delattr(ondisk.os, "posix_fallocate", raising=False)  # as on macOS
    shape = (2**20 + 1, 3)  # six blocks and a bit
    ondisk._reserve(tmp_path / "part", shape)
    array = np.load(tmp_path / "part")
    assert array.shape == shape
    assert array.dtype == np.float16
    assert not array.any()
    info = (tmp_path / "part").stat()
    assert info.st_size == 128 + array.nbytes
    assert info.st_blocks * 512 >= info.st_size
    h, _ = make_embed(Source(), tmp_path / "pool")(state())
    np.testing.assert_allclose(h, expected(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("missing", [False, True])
def test_a_disk_that_is_really_full_is_told_at_the_start(missing, monkeypatch):
    if missing:
        monkeypatch.delattr(ondisk.os, "posix_fallocate", raising=False)
    with faults.small_disk(mebibytes=4) as disk:
        if disk is None:
            pytest.skip("only root may mount a tmpfs")
        with pytest.raises(OSError, match="No space left"):
            ondisk._reserve(Path(disk) / "part", (2**20, 4))
        assert files(Path(disk)) == []


@pytest.mark.parametrize("devices", [1, 8])
def test_the_feed_gives_the_batch_split_over_the_devices(devices):
    mesh = sharding.make_mesh(devices)
    sampler = Sampler(N, budget=1, seed=0, known=np.arange(N) % 4)
    feed = ondisk.make_feed(make_records(Source()), mesh, sampler.upcoming)
    for _ in range(3):
        batch = sampler.batch(16)
        images, groups = feed(batch)
        np.testing.assert_array_equal(images, PIXELS[batch.ids])
        np.testing.assert_array_equal(groups, batch.groups)
        for array in (images, groups):
            assert array.sharding.is_equivalent_to(sharding.split_rows(mesh), array.ndim)


TWO_HOSTS = """
import pathlib, sys
import jax, numpy as np
which, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
from pal_jax import hosts, ondisk, sharding
hosts.start(f"127.0.0.1:{port}", 2, which, 100.0)
from pal_jax.active.sampler import Sampler
from tests import test_ondisk as t
source = t.Source()
records = t.make_records(source)
mesh = sharding.make_mesh()
sampler = Sampler(t.N, budget=1, seed=0)
feed = ondisk.make_feed(records, mesh, sampler.upcoming)
source.read.clear()
batch = sampler.batch(16)
images, groups = feed(batch)
assert len(images.addressable_shards) == 2 and images.shape == (16, 4, 4, 3)
for shard in images.addressable_shards:
    np.testing.assert_array_equal(shard.data, t.PIXELS[batch.ids[shard.index[0]]])
assert set(source.read[:8]) == set(batch.ids[8 * which : 8 * which + 8].tolist())

records.stamp
feed = None  # with it, its workers
other = t.Source()
records = t.make_records(other)
records.stamp
other.read.clear()
path = pathlib.Path(folder) / "pool"
h, _ = ondisk.make_embed(t.apply, t.prepare, records, mesh, batch_size=8, path=path)(t.state())
assert other.read == [row for row in range(t.N) if row % 8 // 4 == which]
assert h.shape == ((t.N, 5) if which == 0 else (0, 5))
if which == 0:
    np.testing.assert_allclose(h, t.expected(), rtol=2e-3, atol=2e-3)
"""


@pytest.mark.slow
def test_two_hosts_read_and_embed_half_each(tmp_path):
    processes.run_two(TWO_HOSTS, str(tmp_path), timeout=200)
    assert len(files(tmp_path)) == 1
