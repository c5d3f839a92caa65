"""Programs that run as two processes on one machine, over loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_two(
    program: str, *arguments: str, timeout: float, status: int = 0,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:  # fmt: skip
    """What each of two processes prints, which both end with `status`; sys.argv of `program` holds
    the number of its process, a free port and the `arguments`.

    Args:
        timeout: seconds that both may take; none is left when the call ends.
    """
    port = str(free_port())
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, number, port, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    printed = []
    with contextlib.ExitStack() as stack:
        for process in both:
            stack.enter_context(process)
            stack.callback(process.kill)
        for process in both:
            out, err = process.communicate(timeout=timeout)
            assert process.returncode == status, err
            printed.append(out)
    return printed
