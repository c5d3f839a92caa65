"""Ctrl-C and SIGTERM ask a run to stop; it decides when it safely can."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_AGAIN = 0.05  # seconds


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

    with _handling(remember), _interrupting_again():
        yield lambda: asked


@contextlib.contextmanager
def leaving_at_once(sentence: str) -> Iterator[None]:
    """Within the block a signal ends the process, with `sentence` on stderr and status 130."""

    def leave(number, frame):
        os.write(2, f"\n{sentence}\n".encode())
        os._exit(130)

    with _handling(leave):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def _interrupting_again() -> Iterator[None]:
    """A KeyboardInterrupt that comes where Python drops it comes again, a little later.

    In a callback of the garbage collector, of which JAX has one, or in a destructor it would leave
    a traceback on the screen, and the run would go on.
    """
    before, inside = sys.unraisablehook, True

    def interrupt() -> None:
        if inside:
            signal.raise_signal(signal.SIGINT)

    def hook(unraisable: Any) -> None:
        if inside and isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(_AGAIN, interrupt).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        inside = False
        if sys.unraisablehook is hook:  # one that was put around it may be meant to stay
            sys.unraisablehook = before
