"""python -m benchmarks.faults [--moments=50] [--seed=0]

Runs the real main.py on digits and ends it at random moments: kill -9, SIGTERM, and a disk that
is full (where a tmpfs may be mounted, so as root on Linux). Checks that nothing that was
acknowledged is ever lost, and that each run which ends at last has the files of one that never
stopped. Prints how often it was ended, and the processor time from SIGTERM to the exit: by the
clock a machine that is busy with other work would be what is measured.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pal_jax.active.journal import Journal
from pal_jax.active.questions import Answer

ROOT = Path(__file__).parent.parent
# Small: 300 digits, 4 rounds of 30 steps, 40 judgements, a checkpoint every 11 steps, a refit every
# 7 judgements.
SMALL = (
    "--config=configs/pal_active.py",
    "--config.data.limit=300",
    "--config.train.batch_size=64",
    "--config.train.rounds=4",
    "--config.train.steps=120",
    "--config.train.first=0",
    "--config.train.warmup_steps=10",
    "--config.asking.budget=40",
    "--config.asking.audit=10",
    "--config.asking.refit=7",
    "--config.oracle.name=noisy",
    "--config.checkpoint.every=11",
    "--config.checkpoint.free=0",
    "--config.model.width=16",
)
FULL_DISK = "full disk"
_STARTING = 20.0  # seconds after which Python has imported enough to answer a SIGTERM


def start(folder: Path, cache: Path) -> subprocess.Popen[str]:
    """main.py on `folder`; compiled programs are kept in `cache`, to spend the time elsewhere."""
    return subprocess.Popen(
        [sys.executable, "main.py", *SMALL, f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder: Path) -> dict[str, Any]:
    """What a user takes home, without the seconds it took."""
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("seconds")
    report = re.sub(r"(<dt>Time</dt><dd>)[^<]*", r"\1", (folder / "report.html").read_text())
    names = ("metrics.jsonl", "answers.jsonl", "partition.csv", "embeddings.npz", "config.json")
    files: dict[str, Any] = {name: (folder / name).read_bytes() for name in names}
    return files | {"summary": summary, "report": report}


def acknowledged(folder: Path) -> list[Answer]:
    """All answers that the journal holds."""
    path = folder / "journal.sqlite"
    if not path.exists():
        return []
    with Journal(path) as journal:
        return journal.answers()


@dataclasses.dataclass
class Tally:
    """stops: by kind. finished: runs that came to their end. slowest: processor seconds, all
    threads together, from a SIGTERM to the exit."""

    stops: dict[str, int]
    finished: int = 0
    slowest: float = 0.0


@contextlib.contextmanager
def small_disk(mebibytes: int = 64) -> Iterator[Path | None]:
    """A disk of that size, or None where none may be mounted."""
    with tempfile.TemporaryDirectory() as name:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", name]
        try:
            mounted = not subprocess.run(mount, capture_output=True).returncode
        except OSError:
            mounted = False
        try:
            yield Path(name) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", name], check=True)


def fill(disk: Path) -> Path:
    """Takes all that is left of the disk; remove the file to give it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1))
    return filler


def processor_seconds(pid: int) -> float:
    """What all threads of a living process have used so far (Linux), in whole ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


def _of_ended_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def stop_at(moment: float, kind: str, process: subprocess.Popen[str], disk: Path) -> float | None:
    """Ends `process` after `moment` seconds; the processor seconds it still used, or None if it
    had ended by then."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        return None
    others, before, filler = _of_ended_children(), processor_seconds(process.pid), None
    if kind == FULL_DISK:
        filler = fill(disk)
    else:
        process.send_signal(signal.SIGKILL if kind == "SIGKILL" else signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    if filler is not None:
        filler.unlink()
    # 0: it had ended by itself before that reached it
    allowed = {"SIGKILL": {-9, 0}, "SIGTERM": {130, 0}, FULL_DISK: {2, 0}}[kind]
    if kind == "SIGTERM" and (moment < _STARTING or "look at" in out):
        allowed.add(-15)  # it did not listen yet, or had said its last word
    assert process.returncode in allowed, (kind, moment, process.returncode, err)
    assert "Traceback" not in err, (kind, moment, err)
    assert process.returncode != 2 or "error: " in err, err
    return _of_ended_children() - others - before


def check_answers(folder: Path, before: list[Answer]) -> list[Answer]:
    """The answers now; all of those of before are there, in their places."""
    now = acknowledged(folder)
    assert now[: len(before)] == before, "an acknowledged answer was lost"
    return now


def endure(moments: int, seed: int, disk: Path, whole: Path, cache: Path) -> Tally:
    """Ends runs on `disk` at so many moments and compares each that finishes with `whole`."""
    rng = np.random.default_rng(seed)
    begin = time.monotonic()
    done = start(whole, cache)
    _, err = done.communicate(timeout=600)
    assert not done.returncode, err
    seconds, expected = time.monotonic() - begin, results(whole)
    kinds = ["SIGKILL", "SIGTERM"] + [FULL_DISK] * os.path.ismount(disk)
    tally = Tally(dict.fromkeys(kinds, 0))
    answers: list[Answer] = []
    with tqdm(total=moments, unit="stop") as bar:
        while True:
            folder = disk / f"run{tally.finished}"
            left = moments - sum(tally.stops.values())
            kind = kinds[rng.integers(len(kinds))]
            process = start(folder, cache)
            took = stop_at(rng.uniform(0, 0.8 * seconds), kind, process, disk) if left else None
            if took is not None:
                tally.stops[kind] += 1
                bar.update()
                if kind == "SIGTERM":
                    tally.slowest = max(tally.slowest, took)
                answers = check_answers(folder, answers)
                continue
            _, err = process.communicate(timeout=600)
            assert not process.returncode, err
            actual = results(folder)
            for name, content in expected.items():
                assert actual[name] == content, f"{name} of {folder} differs"
            check_answers(folder, answers)
            answers, tally.finished = [], tally.finished + 1
            if not left:
                return tally


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, small_disk() as disk:
        place = Path(name)
        runs = disk or place / "runs"
        runs.mkdir(exist_ok=True)
        tally = endure(options.moments, options.seed, runs, place / "whole", place / "cache")
    for kind, count in tally.stops.items():
        print(f"{kind:10} {count:3} times")
    print(f"{tally.finished} runs came to their end, all with the files of one that never stopped")
    print(f"slowest SIGTERM: {tally.slowest:.1f} processor seconds from the signal to the exit")


if __name__ == "__main__":
    main()
