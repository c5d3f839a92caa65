"""The real command, ended at random moments; benchmarks/faults.py does it fifty times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ended_at_random_moments_it_ends_as_if_it_never_was(tmp_path):
    with faults.small_disk() as disk:
        runs = Path(disk or tmp_path / "runs")
        runs.mkdir(exist_ok=True)
        tally = faults.endure(6, 0, runs, tmp_path / "whole", tmp_path / "cache")
    assert sum(tally.stops.values()) == 6
    assert tally.finished
    assert tally.slowest < 10  # seconds of processor time, one step included


def test_processor_seconds_are_those_of_the_process():
    work = (
        "import time; end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
        "print('done', flush=True); input()"
    )
    command = [sys.executable, "-c", work]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        whole_ticks = 2 / os.sysconf("SC_CLK_TCK")  # user and system time are each rounded down
        assert 0.5 - whole_ticks <= faults.processor_seconds(process.pid) < 1.5
        process.communicate(b"\n")
