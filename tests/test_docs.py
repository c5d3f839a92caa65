"""What the docs show is run: examples in docstrings, and docs/own_pipeline.md with its changes."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/own_pipeline.md").read_text()
SOURCES = sorted((ROOT / "pal_jax").rglob("*.py"))
SHOWN = [path for path in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_examples_in_docstrings(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_the_mathematics_has_examples():
    assert {"graph", "losses", "spectral", "closed_form", "views"} <= {p.stem for p in SHOWN}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def patched(source, diff):
    """The lines of `source` after a diff without line numbers; its lines must be found in order."""
    before, after = source.splitlines(), []
    for line in diff.splitlines():
        mark, text = line[0], line[1:]
        if mark == "+":
            after.append(text)
            continue
        at = before.index(text)
        after += before[: at + (mark == " ")]
        before = before[at + 1 :]
    return "\n".join(after + before)


LOOP, CHANGES = blocks("python")[0], blocks("diff")
PROMISED = [float(figure) for figure in re.findall(r"`[^`\n]*: (0\.\d+)`", PAGE)]


@pytest.mark.slow
@pytest.mark.parametrize("change", [None, *range(len(CHANGES))])
def test_own_pipeline_prints_what_the_page_says(change):
    source = LOOP if change is None else patched(LOOP, CHANGES[change])
    figure = PROMISED[0 if change is None else change + 1]
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Both have two decimals: 0.03 apart is what it says, whatever their binary difference.
    assert float(done.stdout.split()[-1]) == pytest.approx(figure, abs=0.03 + 1e-9)


def test_prior_knowledge_is_ten_lines_and_helps():
    assert len(CHANGES) == 2
    assert all(len(re.findall(r"^\+", change, flags=re.MULTILINE)) <= 10 for change in CHANGES)
    plain, *informed = PROMISED
    assert len(informed) == len(CHANGES)
    assert plain + 0.1 < min(informed)
