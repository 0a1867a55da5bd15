"""Partitions that are flushed all the time: what each flush covers, who tells of it, and when the thread leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from takhin.storage import flush_loop
from takhin.storage.flush_loop import PartitionLoop
from takhin.storage.flusher import IDLE, LAZY, RUNNING
from takhin.storage.partition import Partition
from tests.reference.flush_loop import PythonFlushLoop

from .storage_tools import QUIET, Store, append, configs, frame, stores, values, wait_until

Make = Callable[..., Store]
AGES_S = 1000.0


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


class Told:
    """Outcomes in their order, each with the thread that told of it."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        self.threads.append(threading.current_thread())


def send(partition: Partition, told: Told, value: bytes = b"v") -> None:
    partition.append(frame(value), told)


def ready(store: Store, number: int = 0) -> Partition:
    """Its file is new no more, and no flush is under way."""
    partition = store.partition(number)
    append(partition, b"first")
    wait_until(lambda: partition.environment.flusher._busy == 0)
    return partition


def left_alone(partition: Partition) -> PartitionLoop:
    """No thread stays, until the next append that somebody waits for."""
    flusher = partition.environment.flusher
    flusher._loop.close()
    wait_until(lambda: flusher._busy == 0)
    return flusher._loop


def has_news(loop: PartitionLoop) -> bool:
    return loop._stay is not None and loop._stay.loop.has_news


class Patient(PythonFlushLoop):
    def run(self, patience_s: float, idle_s: float) -> bool:
        return super().run(AGES_S, idle_s)


@pytest.fixture
def for_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread stays with its partition."""
    monkeypatch.setattr(flush_loop, "IDLE_S", AGES_S)


def test_who_appends_next_tells_of_what_was_flushed(
    make: Make, monkeypatch: pytest.MonkeyPatch, for_ages: None
) -> None:
    partition = make().open().partition()
    append(partition, b"first")
    wait_until(lambda: partition.flushed_offset == 1)
    monkeypatch.setattr(flush_loop, "FlushLoop", Patient)
    loop, told = left_alone(partition), Told()
    send(partition, told)
    wait_until(lambda: has_news(loop))
    assert (told.outcomes, partition.high_watermark) == ([], 1)
    send(partition, told)
    assert [outcome.base_offset for outcome in told.outcomes] == [1]
    assert told.threads == [threading.current_thread()]
    assert partition.high_watermark == 2
    # And in the end the thread itself, which nobody keeps waiting any more.
    loop.close()
    wait_until(lambda: len(told.outcomes) == 2)
    assert told.threads[1] is not threading.current_thread()


@pytest.mark.parametrize("patience_s", [0.0, 0.0005, 0.2])
def test_all_are_told_in_order_whoever_tells(make: Make, monkeypatch: pytest.MonkeyPatch, patience_s: float) -> None:
    monkeypatch.setattr(flush_loop, "PATIENCE_S", patience_s)
    partition = ready(make().open())
    told = Told()
    for n in range(2000):
        send(partition, told, b"%d" % n)
        if n % 100 == 0:
            time.sleep(0.002)
    wait_until(lambda: len(told.outcomes) == 2000)
    assert [outcome.base_offset for outcome in told.outcomes] == list(range(1, 2001))
    assert (partition.flushed_offset, partition.high_watermark) == (2001, 2001)
    assert partition.environment.counters.flushes < 2000
    wait_until(lambda: partition.environment.flusher._busy == 0)
    assert partition.unflushed_bytes == 0


def stays_with(partition: Partition) -> bool:
    return partition.environment.flusher._loop._stay is not None


def stayed_with(store: Store, number: int = 0) -> Partition:
    partition = store.partition(number)
    append(partition, b"new")  # its directory is flushed with it, which is no matter of one file
    append(partition, b"v")
    wait_until(lambda: stays_with(partition))
    return partition


def test_other_partitions_join(make: Make, for_ages: None) -> None:
    store = make(partitions=3).open()
    one, others = stayed_with(store), [store.partition(number) for number in (1, 2)]
    for other in others:
        append(other, b"new")
        assert other.asked_offset == -1, "a file that is new is flushed as ever"
    told = Told()
    for _ in range(20):
        for partition in (one, *others):
            send(partition, told)
    wait_until(lambda: len(told.outcomes) == 60)
    assert [each.flushed_offset for each in (one, *others)] == [22, 21, 21]
    assert stays_with(one)
    wait_until(lambda: {each.flush_state for each in (one, *others)} == {IDLE})
    assert {each.asked_offset for each in (one, *others)} == {-1}


def test_all_of_many_partitions_are_told_in_order(make: Make) -> None:
    store = make(partitions=30).open()
    partitions = [ready(store, number) for number in range(30)]
    told = [Told() for _ in partitions]

    def sender(which: int) -> None:
        for n in range(200):
            for number in range(which, 30, 3):
                partitions[number].append(frame(b"%d" % n), told[number] if n % 5 else None)

    threads = [threading.Thread(target=sender, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: all(len(each.outcomes) == 160 for each in told))
    for each in told:
        assert [outcome.base_offset for outcome in each.outcomes] == [n for n in range(1, 201) if (n - 1) % 5]
    wait_until(lambda: all(each.flushed_offset == 201 and each.flush_state == IDLE for each in partitions))
    assert all(each.high_watermark == 201 and each.asked_offset == -1 for each in partitions)


def test_others_do_not_wait_for_a_flush_that_hangs(make: Make, for_ages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    class Hanging(PythonFlushLoop):
        _flushes = 0

        def _flush(self) -> int:
            if told.outcomes == [] and self._flushes:
                hangs.set()
                self._began = time.monotonic()
                self._changed.release()
                assert goes_on.wait(20)
                self._changed.acquire()
            self._flushes += 1
            return super()._flush()

    store = make(partitions=2).open()
    one, other = ready(store), ready(store, 1)
    left_alone(one)
    monkeypatch.setattr(flush_loop, "FlushLoop", Hanging)
    told = Told()
    append(one, b"v")
    send(one, told)
    assert hangs.wait(20)
    time.sleep(0.06)
    append(other, b"by another thread")
    send(one, told)
    assert not told.outcomes
    goes_on.set()
    wait_until(lambda: len(told.outcomes) == 2)


def test_what_was_asked_for_is_not_asked_for_again(make: Make, for_ages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush_loop, "FlushLoop", Patient)
    partition = ready(make().open())
    loop, told = left_alone(partition), Told()
    send(partition, told)
    wait_until(lambda: has_news(loop))
    partition.park("reader", 1, lambda: None)  # asks too, for what is flushed and not told of
    loop.look()
    assert [outcome.base_offset for outcome in told.outcomes] == [1]
    assert (partition.flush_state, partition.asked_offset) == (IDLE, -1)


def test_a_stop_ends_it(make: Make, for_ages: None) -> None:
    store = make().open()
    stayed_with(store)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 20
    assert values(store.open().partition()) == [(0, b"new"), (1, b"v")]


def test_a_roll_ends_it_and_all_files_are_flushed_and_sealed(
    make: Make, for_ages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    class Watched(PythonFlushLoop):
        def ask(self, who: Any, file: Any, goal: Any) -> bool:
            flushed.append(file.path)
            return super().ask(who, file, goal)

    monkeypatch.setattr(flush_loop, "FlushLoop", Watched)
    store = make(configs=configs(segment_bytes=1000)).open()
    partition = stayed_with(store)
    told = Told()
    for n in range(40):
        before = partition.active
        send(partition, told, b"%02d" % n * 50)
        if partition.active is not before:
            wait_until(lambda n=n: len(told.outcomes) == n + 1)
            # The new file's name is flushed with it: the thread that stayed had one file alone.
            assert not partition._rolled
            assert not partition._directory_dirty
    wait_until(lambda: len(told.outcomes) == 40)
    assert [outcome.base_offset for outcome in told.outcomes] == list(range(2, 42))
    sealed = partition.segments[:-1]
    assert len(sealed) > 4
    wait_until(lambda: len(store.files(".seal")) == len(sealed))
    assert not any(segment.pinned for segment in sealed)
    assert len(set(flushed)) > 1, "it was stayed with again"


def test_a_goal_holds_nothing_of_a_roll_that_comes_after_it(make: Make) -> None:
    """Else a segment would be sealed before the flush that covers it."""
    partition = ready(make().open())
    with partition._lock:
        goal = partition.goal_of_now()
    partition.roll()
    assert not goal.rolled


def test_what_nobody_waits_for_is_not_stayed_with(make: Make, for_ages: None) -> None:
    store = make(log=msgspec.structs.replace(QUIET, flush_linger_ms=10)).open()
    partition = store.partition()
    append(partition, b"new")
    wait_until(lambda: partition.environment.flusher._busy == 0)
    partition.append(frame(b"v"), None)
    wait_until(lambda: partition.flushed_offset == 2)
    wait_until(lambda: partition.environment.flusher._busy == 0)


def test_what_nobody_waits_for_is_covered_by_the_next_flush_that_somebody_waits_for(
    make: Make, monkeypatch: pytest.MonkeyPatch, for_ages: None
) -> None:
    monkeypatch.setattr(flush_loop, "FlushLoop", Patient)
    partition = ready(make(log=msgspec.structs.replace(QUIET, flush_linger_ms=3_600_000)).open())
    loop, told = left_alone(partition), Told()
    send(partition, told)
    wait_until(lambda: has_news(loop))
    partition.append(frame(b"nobody"), None)  # it tells of the one before
    assert (len(told.outcomes), partition.flush_state) == (1, LAZY)
    send(partition, told)
    assert partition.flush_state == RUNNING
    partition.append(frame(b"nobody"), None)
    wait_until(lambda: has_news(loop) or len(told.outcomes) == 2)
    loop.look()
    assert len(told.outcomes) == 2
    assert partition.flushed_offset in (4, 5)
    send(partition, told)
    wait_until(lambda: (loop.look(), len(told.outcomes) == 3)[1])
    # Else it would linger for an hour, with nothing to flush.
    assert (partition.flushed_offset, partition.flush_state) == (6, IDLE)


def test_a_single_thread_stays_with_nobody(make: Make, for_ages: None) -> None:
    store = make(log=msgspec.structs.replace(QUIET, flush_threads=1), partitions=2).open()
    for n in range(6):
        append(store.partition(n % 2), b"v")
    wait_until(lambda: store.partition().environment.flusher._busy == 0)


def test_flushes_of_much_say_nothing_of_how_long_little_takes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(PythonFlushLoop):
        def run(self, patience_s: float, idle_s: float) -> bool:
            time.sleep(0.2)
            return super().run(patience_s, idle_s)

        def take_times(self) -> tuple[int, float]:
            flushes, _ = super().take_times()
            return flushes, 0.2 * flushes

    partition = ready(make().open())
    flusher = partition.environment.flusher
    before = flusher._flush_s
    monkeypatch.setattr(flush_loop, "FlushLoop", Slow)
    told = Told()
    send(partition, told)
    wait_until(lambda: stays_with(partition))
    for _ in range(4):
        send(partition, told, bytes(2 << 20))
    wait_until(lambda: flusher._busy == 0 and len(told.outcomes) == 5)
    assert flusher._flush_s == before
    # And those of little do.
    send(partition, told)
    wait_until(lambda: flusher._busy == 0 and len(told.outcomes) == 6)
    assert flusher._flush_s > before


def test_an_error_of_who_is_told_is_no_fault_of_the_disk(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    partition = ready(make().open())

    def broken(outcome: Any) -> None:
        raise ConnectionResetError("of a peer")

    partition.append(frame(b"v"), broken)
    wait_until(lambda: partition.flushed_offset == 2 and partition.flush_state == IDLE)
    assert "of a peer" in caplog.text
    assert not partition.environment.fault.reason
    append(partition, b"and on")


def test_after_a_fault_nothing_is_flushed_and_no_thread_is_kept_busy(make: Make, for_ages: None) -> None:
    store = make(partitions=2).open()
    partition = stayed_with(store)
    partition.environment.fault.report(OSError(5, "disk"), "0.log")
    flusher = partition.environment.flusher
    flusher._loop.close()
    wait_until(lambda: flusher._busy == 0)
    partition._waiters.park("reader", lambda: None)
    with partition._lock:
        partition.log_end_offset += 1  # as if written and not flushed when the disk failed
        flusher.request(partition, urgent=True)
    wait_until(lambda: partition.flush_state == IDLE and flusher._busy == 0)
    assert flusher._loop._stay is None
    partition.log_end_offset -= 1
