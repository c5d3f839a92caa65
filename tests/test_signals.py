"""Ctrl-C and SIGTERM: the first one asks, the second one ends, wherever it comes."""

import gc
import signal
import sys
import time

import pytest

from pal_jax.signals import stop_on_signals


def test_the_first_asks_and_the_second_interrupts(capfd):
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with stop_on_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before
    assert capfd.readouterr().err.count("stopping at the next safe point") == 1


def test_a_hook_that_was_put_around_ours_stays(monkeypatch):
    def other(_): ...

    with monkeypatch.context() as patch:
        with stop_on_signals():
            patch.setattr(sys, "unraisablehook", other)
        assert sys.unraisablehook is other


def test_one_in_a_callback_of_the_garbage_collector_comes_again_and_leaves_no_traceback(capfd):
    """There Python shows what is raised, and drops it."""
    signals = [signal.SIGINT, signal.SIGINT]

    def callback(phase, _):
        if phase == "start" and signals:
            signal.raise_signal(signals.pop())

    gc.callbacks.append(callback)

    def collect():
        while signals:
            gc.collect()
        time.sleep(20)

    try:
        with stop_on_signals(), pytest.raises(KeyboardInterrupt):
            collect()
    finally:
        gc.callbacks.remove(callback)
    assert "Traceback" not in capfd.readouterr().err
