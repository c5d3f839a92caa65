"""What a run has measured so far: metrics.jsonl, TensorBoard, and the table on the screen."""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from pal_jax import export
from pal_jax.errors import UserError


class Record:
    """The lines of metrics.jsonl, and the seconds it took.

    The lines travel in every checkpoint, so the file can be put back to what it was there.

    Args:
        files: (metrics.jsonl, local folder for TensorBoard), or None: kept in memory alone. On a
            local disk each line is in the first when `add` returns; elsewhere, where files cannot
            grow, all of them are when `publish` does.
        progress: what `to_dict` said at the checkpoint that the run goes on from, or None.
    """

    def __init__(self, files: tuple[Path, Path] | None, progress: Mapping[str, Any] | None):
        saved = progress or {"lines": [], "baseline_rows": [], "seconds": 0.0}
        self.lines: list[dict[str, Any]] = list(saved["lines"])
        self.baseline_rows: list[dict[str, Any]] = list(saved["baseline_rows"])
        self._seconds, self._started = saved["seconds"], time.monotonic()
        self._files = None
        if files is not None:
            step = self.lines[-1]["step"] + 1 if self.lines else 0
            self._files = _Files(*files, self.lines, step)

    def add(self, line: dict[str, Any]) -> None:
        """One line: of a step, or, with the key "round", of a round.

        Raises:
            UserError: the disk is full or fails.
        """
        self.lines.append(line)
        if self._files is not None:
            self._files.add(line)

    def publish(self) -> None:
        """Brings a metrics.jsonl that is not on a local disk up to date."""
        if self._files is not None:
            self._files.publish(self.lines)

    def rounds(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "round" in line]

    def losses(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.lines if "round" not in line]

    @property
    def seconds(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, and a copy: it is written while lines are added."""
        return {
            "lines": list(self.lines),
            "baseline_rows": list(self.baseline_rows),
            "seconds": self.seconds,
        }

    def close(self) -> None:
        if self._files is not None:
            self._files.close()


class _Files:
    """metrics.jsonl and TensorBoard's events, from `lines`, of steps below `step`, on."""

    def __init__(self, metrics: Path, events: Path, lines: list[dict[str, Any]], step: int):
        self._path = metrics
        export.write_text(metrics, _json_lines(lines))
        # Unbuffered: a line that cannot be written fails once, here, and not again at the close.
        self._file = metrics.open("ab", buffering=0) if export.is_local(metrics) else None
        events.mkdir(exist_ok=True)
        # SummaryWriter has a thread, which dies of a full disk and leaves its queue to block.
        self._events = EventsWriter(str(events / "events"))
        self._event(step, session_log={"status": "START"})  # drop what is later

    def _event(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(step=step, wall_time=time.time(), **content)  # pyright: ignore
        self._events.write_event(event)

    def add(self, line: dict[str, Any]) -> None:
        kind = "round" if "round" in line else "train"
        try:
            if self._file is not None:
                self._file.write(_json_lines([line]).encode())
            for name, value in line.items():
                if name not in ("step", "round"):
                    self._event(line["step"], summary=summary.scalar(f"{kind}/{name}", value))
            self._events.flush()
        except OSError as error:
            raise UserError(
                f"{self._path} and tensorboard/ could not be written ({error.strerror or error}); "
                "make room on the disk and start again: the run goes on from its last checkpoint"
            ) from error

    def publish(self, lines: list[dict[str, Any]]) -> None:
        if self._file is None:
            export.write_text(self._path, _json_lines(lines))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(OSError):  # `add` has flushed what could be written
            self._events.close()


def _json_lines(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


_COLUMNS = {
    "round": ("round", "d"),
    "judgements": ("judgements", "d"),
    "groups": ("groups", "d"),
    "partition_accuracy": ("partition accuracy", ".4f"),
    "knn_accuracy": ("kNN accuracy", ".4f"),
    "loss": ("loss", ".4f"),
}
TABLE_HEADER = "  ".join(title for title, _ in _COLUMNS.values())


def table_row(line: Mapping[str, Any]) -> str:
    """One line of the table; '-' where a figure needs true labels and there are none."""
    cells = []
    for name, (title, form) in _COLUMNS.items():
        text = format(line[name], form) if name in line else "-"
        cells.append(text.rjust(max(len(title), 9 if name == "loss" else 0)))
    return "  ".join(cells)
