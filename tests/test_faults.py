"""The real command, ended at random moments; benchmarks/faults.py does it fifty times."""

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
    assert tally.slowest < 60  # 10 on a machine of one's own; this one may be busy
