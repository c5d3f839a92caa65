"""Ctrl-C and SIGTERM ask a run to stop; it decides when it safely can."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields () -> whether a stop was asked for; a second signal raises KeyboardInterrupt."""
    asked = False

    def remember(number, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # Not print: a signal may arrive while the progress bar is inside a write to stderr.
        os.write(2, b"\nstopping at the next safe point; once more stops at once\n")

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
