"""A workdir on gs://, whose objects lie in a folder: no byte of ours knows the difference."""

import json
import os

import fsspec
import jax
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

import main
from configs import pal_active
from pal_jax import experiment, run, workdir
from pal_jax.active.journal import Journal
from pal_jax.errors import Interrupted


class Bucket(DirFileSystem):
    """Stands in for gcsfs: gs://BUCKET/PATH is the file PATH of a folder of that name."""

    protocol = ("gs", "gcs")
    root = ""

    def __init__(self, **_):
        super().__init__(type(self).root, LocalFileSystem(auto_mkdir=True))

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("gs://").removeprefix("gcs://")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder in which the objects of gs:// lie."""
    root = tmp_path / "cloud"
    root.mkdir()
    monkeypatch.setattr(Bucket, "root", str(root))
    Bucket.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    # The arrays are TensorStore's, which has a driver of its own for gs://.
    driver = {"driver": "file"}
    monkeypatch.setattr(
        gcs_utils,
        "get_kvstore_for_gcs",
        lambda path: driver | {"path": os.path.join(root, path.removeprefix("gs://"))},
    )
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    find = workdir.importlib.util.find_spec
    monkeypatch.setattr(
        workdir.importlib.util, "find_spec", lambda name: name == "gcsfs" or find(name)
    )
    return root


def live(folder, tmp_path, stops=10**9, journal="local"):
    """One process of a small run; asked to stop after so many looks at whether it was."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 3
    x = (4 * rng.normal(size=(3, 5))[y] + rng.normal(size=(64, 5))).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    config = pal_active.get_config()
    config.update_from_flattened_dict(
        {
            "data.name": f"arrays:{tmp_path}/x.npz",
            "model.encoder": "mlp",
            "model.width": 8,
            "model.projector": (8, 2, 8),
            "train.batch_size": 16,
            "train.rounds": 3,
            "train.steps": 12,
            "train.first": 0.0,
            "train.warmup_steps": 2,
            "train.log_every": 1,
            "checkpoint.every": 3,
            "checkpoint.journal": str(tmp_path / journal),
            "asking.budget": 12,
            "asking.audit": 4,
        }
    )
    looks = iter(range(10**9))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run.execute(experiment.build(config, folder), lambda: next(looks) >= stops)


def answers(path):
    with Journal(path / "journal.sqlite") as journal:
        return journal.answers()


@pytest.mark.slow
def test_a_run_on_gs_is_the_run_on_a_disk(bucket, tmp_path):
    """Stopped half way, and gone on with on a machine that has never seen its journal."""
    live(str(tmp_path / "disk"), tmp_path, journal="disk")
    with pytest.raises(Interrupted):
        live("gs://b/run", tmp_path, stops=20)
    cloud = bucket / "b" / "run"
    assert {p.name for p in cloud.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoints"}
    assert not (cloud / "journal.sqlite").exists()
    bought = answers(tmp_path / "local")
    assert bought
    live("gs://b/run", tmp_path, journal="another")
    assert answers(tmp_path / "another")[: len(bought)] == bought
    for name in ("metrics.jsonl", "answers.jsonl", "partition.csv", "embeddings.npz"):
        assert (cloud / name).read_bytes() == (tmp_path / "disk" / name).read_bytes(), name
    assert (cloud / "report.html").stat().st_size > 10_000
    assert json.loads((cloud / "summary.json").read_text())["judgements"] == 12
    assert list((tmp_path / "another" / "tensorboard").iterdir())


class HttpError(Exception):
    """As gcsfs raises it, for a key that is wrong or a server that is busy: no OSError."""

    __module__ = "gcsfs.retry"


@pytest.mark.parametrize("call", ["exists", "isdir", "open", "mkdirs"])
def test_what_a_store_refuses_ends_in_a_sentence(call, bucket, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise HttpError("Invalid Credentials,\n401")

    for name in (call, "makedirs", "_open") if call in ("mkdirs", "open") else (call,):
        monkeypatch.setattr(Bucket, name, refuse)
    config = pal_active.get_config()
    config.checkpoint.journal = str(tmp_path / "journal")
    monkeypatch.setattr(main, "parse", lambda _: (config, "gs://b/run"))
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert main.main(["main.py"]) == 2
    err = capsys.readouterr().err
    assert "error: gs:// failed (HttpError: Invalid Credentials, 401); see that" in err


def test_a_mistake_of_ours_is_no_failure_of_a_store(monkeypatch):
    def wrong(*_):
        raise RuntimeError

    monkeypatch.setattr(main, "parse", wrong)
    with pytest.raises(RuntimeError):
        main.main(["main.py"])


@pytest.mark.slow
def test_metrics_are_there_while_the_run_is_under_way(bucket, tmp_path, monkeypatch):
    """A file there cannot grow: with each checkpoint it is written anew."""
    published = []
    save = run.Checkpoints.save

    def saved(self, step, *rest):
        path = bucket / "b" / "run" / "metrics.jsonl"
        published.append(len(path.read_text().splitlines()))
        save(self, step, *rest)

    monkeypatch.setattr(run.Checkpoints, "save", saved)
    live("gs://b/run", tmp_path)
    assert published == [0, 3, 5, 8, 10, 13]


def test_without_a_name_for_it_the_journal_lies_below_runs(bucket):
    path, local = workdir.locate("gs://b/some/run", "")
    assert str(path) == "gs://b/some/run"
    assert str(local) == "runs/b/some/run"
