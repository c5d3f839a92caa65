"""memory.py, in a process of its own, which it starts anew."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv, flush=True)
from pal_jax import memory
memory.use_huge_pages()
print("goes on")
"""


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return dict(os.environ)


def printed(environment, program):
    command = [sys.executable, "-W", "error", "-c", program, "--some", "argument"]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 0
    return started.pid, out.splitlines()


def on(platform):
    return f"import sys; sys.platform = {platform!r}" + PROGRAM


def test_a_program_starts_anew_once_as_the_same_process(environment):
    pid, lines = printed(environment, on("linux"))
    assert lines == [
        f"{pid} None -c --some argument",
        f"{pid} glibc.malloc.hugetlb=1 -c --some argument",
        "goes on",
    ]


def test_elsewhere_than_on_linux_it_goes_on(environment):
    pid, lines = printed(environment, on("darwin"))
    assert lines == [f"{pid} None -c --some argument", "goes on"]


def test_what_is_set_already_stays(environment):
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    pid, lines = printed(environment | tunables, on("linux"))
    assert lines == [f"{pid} glibc.malloc.check=0 -c --some argument", "goes on"]


def test_an_interactive_session_is_not_lost(environment):
    pid, lines = printed(environment, "import sys; sys.ps1 = '>>> '\n" + on("linux"))
    assert lines == [f"{pid} None -c --some argument", "goes on"]
