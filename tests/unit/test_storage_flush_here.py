"""A flush that is made by who appends, because nobody else is there: what it covers, and when it is left to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from takhin import errors
from takhin.storage import flusher
from takhin.storage.partition import Partition
from takhin.storage.waiters import Placed

from .flush_loop_tools import loop_in_python  # noqa: F401 (a fixture)
from .storage_tools import QUIET, Store, append, configs, frame, stores, values, wait_until
from .test_storage_flush import Gate

Make = Callable[..., Store]

pytestmark = pytest.mark.usefixtures("loop_in_python")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(flusher, "QUICK_S", 10.0)
    yield from stores()


class Told:
    """The outcome, and the thread that told of it."""

    def __init__(self) -> None:
        self.outcome: Any = None
        self.thread: threading.Thread | None = None

    def __call__(self, outcome: Any) -> None:
        assert self.thread is None, "told twice"
        self.outcome, self.thread = outcome, threading.current_thread()

    @property
    def here(self) -> bool:
        return self.thread is threading.current_thread()


def ready(store: Store, number: int = 0) -> Partition:
    """Its file is new no more, and no flush is under way."""
    partition = store.partition(number)
    append(partition, b"first")
    idle(partition)
    return partition


def idle(partition: Partition) -> None:
    wait_until(lambda: partition.environment.flusher._busy == 0 and partition.flush_state == flusher.IDLE)


def alone(partition: Partition, value: bytes = b"v") -> Told:
    told = Told()
    partition.append(frame(value), told, may_flush=True)
    return told


def test_who_is_alone_is_told_before_the_append_returns(make: Make) -> None:
    partition = ready(make().open())
    before = partition.environment.counters.flushes
    woken = threading.Event()
    partition.park(object(), 1, woken.set)
    told = alone(partition)
    assert told.here
    assert told.outcome == Placed(1, 1, told.outcome.timestamp)
    assert woken.is_set()
    assert (partition.flushed_offset, partition.high_watermark) == (2, 2)
    assert partition.environment.counters.flushes == before + 1
    assert values(partition) == [(0, b"first"), (1, b"v")]
    assert [alone(partition).here for _ in range(20)] == [True] * 20
    idle(partition)


def test_in_interval_mode_it_is_shown_at_once_as_ever(make: Make) -> None:
    partition = ready(make(log=msgspec.structs.replace(QUIET, flush="interval", flush_interval_ms=60_000)).open())
    gate = Gate(partition)
    woken = threading.Event()
    partition.park(object(), 1, woken.set)
    told = Told()
    thread = threading.Thread(target=lambda: partition.append(frame(b"v"), told, may_flush=True))
    thread.start()
    assert gate.entered.acquire(timeout=20)
    assert woken.is_set()
    assert (partition.high_watermark, partition.flushed_offset, told.thread) == (2, 1, None)
    gate.open.set()
    thread.join(20)
    assert told.thread is thread
    assert partition.flushed_offset == 2


def test_it_covers_what_lingered(make: Make) -> None:
    partition = ready(make(log=msgspec.structs.replace(QUIET, flush_linger_ms=60_000)).open())
    partition.append(frame(b"lingers"), None)
    assert partition.high_watermark == 1
    assert alone(partition).here
    assert partition.high_watermark == 3


def test_what_comes_meanwhile_is_flushed_next_by_another(make: Make) -> None:
    partition = ready(make().open())
    gate = Gate(partition)
    first, second, third = Told(), Told(), Told()
    thread = threading.Thread(target=lambda: partition.append(frame(b"1"), first, may_flush=True))
    thread.start()
    assert gate.entered.acquire(timeout=20)
    partition.append(frame(b"2"), second, may_flush=True)
    partition.append(frame(b"3"), third)
    assert second.thread is None, "a flush is under way that may not cover it"
    gate.open.set()
    thread.join(20)
    assert first.thread is thread
    wait_until(lambda: second.thread is not None and third.thread is not None)
    assert second.thread is third.thread is not thread
    assert gate.flushes == 2
    assert partition.high_watermark == 4


def test_other_partitions_do_not_wait_for_it(make: Make) -> None:
    store = make(partitions=2).open()
    partition, other = ready(store), ready(store, 1)
    gate = Gate(partition)
    thread = threading.Thread(target=lambda: alone(partition))
    thread.start()
    assert gate.entered.acquire(timeout=20)
    told = alone(other)
    assert not told.here
    wait_until(lambda: told.thread is not None)
    gate.open.set()
    thread.join(20)


def test_a_failed_flush_is_told_of_and_final(make: Make) -> None:
    partition = ready(make().open())
    gate = Gate(partition)
    gate.error = OSError(5, "Input/output error")
    gate.open.set()
    told = alone(partition)
    wait_until(lambda: told.thread is not None)
    assert isinstance(told.outcome, errors.DurabilityUnknown)
    assert (partition.flushed_offset, gate.flushes) == (1, 1)
    with pytest.raises(errors.LogOffline):
        alone(partition)


def test_a_slow_disk_is_waited_for_by_another(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = ready(make().open())
    monkeypatch.setattr(flusher, "QUICK_S", 0.0)
    told = alone(partition)
    wait_until(lambda: told.thread is not None)
    assert not told.here


def test_much_to_write_is_written_by_another(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = ready(make().open())
    monkeypatch.setattr(flusher, "LITTLE_BYTES", 1000)
    told = alone(partition, b"v" * 2000)
    wait_until(lambda: told.thread is not None)
    assert not told.here


def test_new_names_are_flushed_by_another(make: Make) -> None:
    partition = make(configs=configs(segment_bytes=400)).open().partition()
    seen = []
    for n in range(12):
        told = alone(partition, b"%03d" % n * 30)
        wait_until(lambda told=told: told.thread is not None)  # type: ignore[misc]
        idle(partition)
        seen.append((len(partition.segments), told.here))
    rolls = [n for n in range(1, 12) if seen[n][0] > seen[n - 1][0]]
    assert len(rolls) >= 3
    assert [n for n in range(12) if not seen[n][1]] == [0, *rolls]
