"""The ImageNet experiments: all build, have the right shapes and take three steps.

The data are made-up records of ImageNet's format and size. Shapes are those of the full batch at
224 x 224; the steps are taken at 32 x 32 with 8 samples, which two CPU cores can do.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pal_jax import experiment, synthetic

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "configs" / "imagenet"
CONFIGS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "base"))
PARAMETERS = {"resnet50": 23_508_032, "vit_s": 21_589_632}  # of the encoder alone
WIDTH = {"resnet50": 2048, "vit_s": 384}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    synthetic.write_tfds(folder, {"train": 40, "validation": 16}, classes=4)
    return folder


def get_config(name, folder):
    config = importlib.import_module(f"configs.imagenet.{name}").get_config()
    config.data.data_dir = str(folder)
    config.data.cache = str(folder / "cache")
    return config


def test_all_that_were_promised_are_there():
    losses = ("vicreg", "simclr", "barlow_twins")
    names = {f"{encoder}_{loss}" for encoder in PARAMETERS for loss in losses}
    names |= {f"{name}_800" for name in names}
    names |= {f"resnet50_{how}" for how in ("supervised", "semi_1", "semi_10", "pal_active")}
    assert set(CONFIGS) == names


@pytest.mark.parametrize("name", CONFIGS)
def test_every_one_has_the_shapes_it_should(name, imagenet):
    config = get_config(name, imagenet)
    epochs = 800 if name.endswith("_800") else 100
    assert config.train.steps == epochs * (1_281_167 // config.train.batch_size)
    experiment.check(config)
    assert config.train.batch_size % 8 == 0
    encoder = config.model.encoder
    model = experiment.build_model(config)
    mean = std = np.full(3, 0.5, np.float32)
    views = experiment.build_views(config, mean, std, images=True)
    size = config.train.batch_size
    images = jax.ShapeDtypeStruct((size, 224, 224, 3), np.uint8)
    x = jax.eval_shape(views, jax.random.key(0), images)
    assert (x.shape, x.dtype) == ((2 * size, 224, 224, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    sizes = jax.tree.map(lambda leaf: leaf.size, variables["params"]["encoder"])
    assert sum(jax.tree.leaves(sizes)) == PARAMETERS[encoder]
    h, z, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=True), variables, x)
    assert h.shape == (2 * size, WIDTH[encoder])
    assert z.shape == (2 * size, config.model.projector[2])
    assert h.dtype == z.dtype == np.float32


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Programs that several experiments share are compiled once: embeddings, and the whole step
    of 100 and of 800 epochs, which here take the same number of steps."""
    return tmp_path_factory.mktemp("caches")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_one_takes_three_steps_on_records_like_imagenet(name, imagenet, caches, tmp_path):
    config = get_config(name, imagenet)
    asks = name == "resnet50_pal_active"
    options = {
        "data.data_dir": imagenet,
        "data.cache": imagenet / "cache",
        "data.image_size": 32,
        "model.projector": f"(64, {config.model.projector[1]}, 64)",
        "train.batch_size": 8,
        "train.steps": 3,
        "train.rounds": 3,
        "train.warmup_steps": 1,
        "train.learning_rate": 1e-3,  # the published ones are for batches of thousands
        "train.log_every": 1,
        "evaluate.batch_size": 8,
        "evaluate.limit": 30,
        "checkpoint.free": 0.0,
    }
    if name == "resnet50_semi_1":
        options["graph.labelled"] = 4  # 1 % of 40 samples is none
    if asks:
        options |= {"asking.budget": 12, "asking.audit": 2, "asking.at_once": 5}
    done = subprocess.run(
        [
            *(sys.executable, "main.py", f"--config=configs/imagenet/{name}.py"),
            *(f"--config.{key}={value}" for key, value in options.items()),
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(caches)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 40
    assert summary["judgements"] == (12 if asks else 0)
    assert 0 <= summary["probe_accuracy"] <= 1
    with np.load(tmp_path / "run" / "embeddings.npz") as saved:
        assert saved["h"].shape == (40, WIDTH[config.model.encoder])
        assert saved["h"].dtype == np.float16
        assert np.isfinite(saved["h"]).all()
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"grad_norm"') == 3
    assert any((caches / "pal_jax" / "compiled").iterdir())
