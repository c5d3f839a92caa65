"""docs/theory.py checks its own statements; here it runs to its end."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_theory_holds(tmp_path):
    command = [sys.executable, "-m", "docs.theory", "--out", str(tmp_path)]
    environment = {"PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" and fit_linear: ") == 3  # moons, circles, digits
    assert done.stdout.count(": ") == 3 * 6  # statements
    assert "<img" in (tmp_path / "theory.html").read_text()
