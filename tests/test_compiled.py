"""Compiled programs outlive the run: the second start of the same experiment compiles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = ["--config.data.limit=64", "--config.train.steps=2", "--config.train.rounds=2"]
TINY += ["--config.train.warmup_steps=1", "--config.train.batch_size=8"]
TINY += ["--config.model.encoder=mlp", "--config.model.width=8", "--config.checkpoint.free=0.0"]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [False, True])
def test_a_second_run_finds_the_programs_of_the_first(tmp_path, chosen):
    environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "caches")
    if chosen:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "chosen")

    def programs():
        """[names of the compiled programs that are kept]."""
        place = tmp_path / ("chosen" if chosen else "caches/pal_jax/compiled")
        return sorted(path.name for path in place.glob("*-cache"))

    found = []
    for name in ("first", "second"):
        command = [sys.executable, "main.py", "--config=configs/ssl.py", *TINY]
        subprocess.run(
            [*command, f"--workdir={tmp_path / name}"], cwd=ROOT, env=environment, check=True
        )
        found.append(programs())
    assert any("train_step" in program for program in found[0])
    assert found[1] == found[0]
    assert (tmp_path / "caches").exists() != chosen
    first, second = (tmp_path / name / "embeddings.npz" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


# main.py where the user has no entry in the list of them, as in a container under any number.
NOBODY = """
import pwd, sys
def getpwuid(number):
    raise KeyError(number)
pwd.getpwuid = getpwuid
import main
sys.exit(main.main(sys.argv))
"""


@pytest.mark.slow
def test_without_a_home_a_run_keeps_no_programs(tmp_path):
    gone = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in gone}
    command = [sys.executable, "-c", NOBODY, "--config=configs/ssl.py", *TINY]
    subprocess.run([*command, f"--workdir={tmp_path}/run"], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "run" / "summary.json").exists()
