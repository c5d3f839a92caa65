"""How the process gets its memory."""

import os
import sys

_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this program anew, as the same process, with huge pages for large buffers.

    A training step on CPUs gets its buffers from the C library, which maps them anew at each step;
    given in pages of 4 KiB, that can take a third of the step. glibc reads whether it may ask for
    pages of 2 MiB where a process starts, and only there: call this first of all. Nothing happens
    outside Linux, where the variable GLIBC_TUNABLES is set already, or in an interactive session,
    which would be lost.
    """
    if sys.platform == "linux" and _TUNABLES not in os.environ and not hasattr(sys, "ps1"):
        command = [sys.executable, *sys.orig_argv[1:]]  # by its path, so that an environment stays
        os.execve(sys.executable, command, os.environ | {_TUNABLES: _HUGE_PAGES})
