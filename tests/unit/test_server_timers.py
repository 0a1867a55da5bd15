"""Timers: in order, cancelled, and quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from takhin.server.timers import Timers


@pytest.fixture
def timers() -> Iterator[Timers]:
    running = Timers()
    running.start()
    yield running
    running.stop()


def test_timers_fire_in_the_order_of_their_times(timers: Timers) -> None:
    fired: list[str] = []
    done = threading.Event()
    timers.after(0.06, lambda: (fired.append("second"), done.set()))
    timers.after(0.02, lambda: fired.append("first"))
    assert done.wait(5)
    assert fired == ["first", "second"]


def test_a_timer_does_not_fire_early(timers: Timers) -> None:
    done = threading.Event()
    begun = time.monotonic()
    timers.after(0.05, done.set)
    assert done.wait(5)
    assert time.monotonic() - begun >= 0.05


def test_a_cancelled_timer_does_not_fire(timers: Timers) -> None:
    fired: list[str] = []
    done = threading.Event()
    cancelled = timers.after(0.01, lambda: fired.append("cancelled"))
    cancelled.cancel()
    assert cancelled.is_cancelled
    timers.after(0.03, done.set)
    assert done.wait(5)
    assert not fired


def test_a_failing_call_does_not_end_the_thread(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    timers.after(0, lambda: 1 / 0)
    timers.after(0.01, done.set)
    assert done.wait(5)
    assert "internal error" in caplog.text


def test_cancelled_timers_do_not_pile_up(timers: Timers) -> None:
    for _ in range(5 * Timers.SWEEP_AT):
        timers.after(1000, lambda: None).cancel()
    assert len(timers._heap) <= 2 * Timers.SWEEP_AT


def test_a_stopped_timers_thread_is_gone_and_late_timers_are_dropped() -> None:
    timers = Timers()
    timers.start()
    fired = threading.Event()
    timers.after(0.05, fired.set)
    timers.stop()
    timers.after(0, fired.set)
    timers.stop()
    assert not timers._thread.is_alive()
    assert not fired.wait(0.1)


def test_an_idle_thread_does_not_run(timers: Timers) -> None:
    timers.after(1000, lambda: None)
    time.sleep(0.05)
    begun = time.thread_time_ns(), time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begun[1] < 0.05
