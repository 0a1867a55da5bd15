"""A partition that is flushed all the time: what each flush covers, who tells of it, and when the thread leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from takhin._os import FlushLoop
from takhin._segment import SegmentFile
from takhin.storage import flush_loop
from takhin.storage.flusher import IDLE, RUNNING_LAZY
from takhin.storage.partition import Partition
from tests.reference.flush_loop import PythonFlushLoop

from .storage_tools import QUIET, Store, append, configs, frame, stores, values, wait_until

Make = Callable[..., Store]
Loop = FlushLoop | PythonFlushLoop
AGES_S = 1000.0


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


# -- the loop itself; the one in Python, which other tests use, does as it does ------------------------


@pytest.fixture(params=[FlushLoop, PythonFlushLoop])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def file(tmp_path: Path) -> SegmentFile:
    return SegmentFile(str(tmp_path / "0.log"), create=True)


def test_what_was_asked_for_is_flushed_and_told_of_once(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind(7)
    assert (loop.has_news, loop.tell(), loop.is_done) == (False, -1, False)
    assert loop.run(file, 0.0, AGES_S)
    assert (loop.has_news, loop.tell()) == (True, 7)
    assert (loop.has_news, loop.tell()) == (False, -1)
    flushes, seconds = loop.take_times()
    assert (flushes, loop.take_times()) == (1, (0, 0.0))
    assert seconds > 0


def test_there_is_one_flush_for_all_that_was_asked_for_meanwhile(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind(1)
    assert all(loop.ask(n) for n in range(2, 10))
    assert loop.run(file, 0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == (9, 1)
    loop.ask(10)
    assert loop.run(file, 0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == (10, 1)


def test_it_waits_for_somebody_to_tell_before_it_comes_back_for_that(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind(1)
    began = time.monotonic()
    assert loop.run(file, 0.1, AGES_S)
    assert 0.1 <= time.monotonic() - began < 5
    # The next flush does not wait for that.
    loop.ask(2)
    came_back = threading.Thread(target=loop.run, args=(file, 0.3, 0.2), daemon=True)
    came_back.start()
    wait_until(lambda: loop.tell() == 2)
    came_back.join(20)
    assert not came_back.is_alive(), "told of, and idle"
    assert not loop.has_news


def test_it_goes_on_while_something_is_asked_for_and_comes_back_when_nothing_was(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind(1)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(loop.run(file, 1.0, 0.3)), daemon=True)
    thread.start()
    for n in range(2, 6):
        wait_until(lambda n=n: loop.tell() == n - 1)
        assert loop.ask(n)
    wait_until(lambda: loop.tell() == 5)
    assert not results
    thread.join(20)
    assert results == [False]
    assert not loop.is_done, "it may be asked for more until it is closed"


def test_closed_it_flushes_what_was_asked_for_and_takes_no_more(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind(1)
    assert loop.ask(2)
    loop.close()
    assert not loop.ask(3)
    assert loop.run(file, AGES_S, AGES_S), "nobody is waited for"
    assert not loop.is_done
    assert loop.tell() == 2
    assert loop.is_done
    assert not loop.run(file, AGES_S, AGES_S)


@pytest.mark.parametrize("news", ["ask", "close", "idle"])
def test_a_thread_that_has_nothing_to_do_hears_of_news(kind: Any, file: SegmentFile, news: str) -> None:
    loop: Loop = kind(1)
    assert loop.run(file, 0.0, AGES_S)
    loop.tell()
    results: list[bool] = []
    idle_s = 0.05 if news == "idle" else AGES_S
    thread = threading.Thread(target=lambda: results.append(loop.run(file, 0.0, idle_s)), daemon=True)
    thread.start()
    time.sleep(0.02)
    if news == "ask":
        loop.ask(2)
    elif news == "close":
        loop.close()
    thread.join(20)
    assert results == [news == "ask"]


def test_a_flush_that_fails_is_an_error_and_nothing_is_told_of(file: SegmentFile) -> None:
    class Closed:
        fd = -1
        path = "gone"

    loop = FlushLoop(1)
    with pytest.raises(OSError, match="gone"):
        loop.run(Closed(), 0.0, AGES_S)  # type: ignore[arg-type]
    assert (loop.has_news, loop.tell()) == (False, -1)
    with pytest.raises(TypeError):
        loop.run(None, 0.0, 0.0)  # type: ignore[arg-type]


# -- with partitions ---------------------------------------------------------------------------------------


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


class Patient(PythonFlushLoop):
    def run(self, file: Any, patience_s: float, idle_s: float) -> bool:
        return super().run(file, AGES_S, idle_s)


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
    partition.environment.flusher._loop.close()
    wait_until(lambda: partition.environment.flusher._busy == 0)
    told = Told()
    send(partition, told)
    loop = partition.environment.flusher._loop
    wait_until(lambda: loop._stay is not None and loop._stay.loop.has_news)
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
    stay = partition.environment.flusher._loop._stay
    return stay is not None and stay.partition is partition


def stayed_with(store: Store, number: int = 0) -> Partition:
    partition = store.partition(number)
    append(partition, b"new")  # its directory is flushed with it, which is no matter of one file
    append(partition, b"v")
    wait_until(lambda: stays_with(partition))
    return partition


def test_another_partition_ends_it(make: Make, for_ages: None) -> None:
    store = make(partitions=2).open()
    one, other = stayed_with(store), store.partition(1)
    append(other, b"new")
    assert not stays_with(one)
    for n in range(20):
        append((one, other)[n % 2], b"v")
    assert (one.flushed_offset, other.flushed_offset) == (12, 11)


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
        def run(self, file: Any, patience_s: float, idle_s: float) -> bool:
            flushed.append(file.path)
            return super().run(file, patience_s, idle_s)

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
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush_loop, "IDLE_S", 0.2)
    partition = stayed_with(make(log=msgspec.structs.replace(QUIET, flush_linger_ms=3_600_000)).open())
    partition.append(frame(b"nobody"), None)
    assert partition.flush_state == RUNNING_LAZY
    append(partition, b"somebody")
    assert partition.flushed_offset == 4
    # Else it would linger for an hour, with nothing to flush.
    wait_until(lambda: partition.flush_state == IDLE)


def test_a_single_thread_stays_with_nobody(make: Make, for_ages: None) -> None:
    store = make(log=msgspec.structs.replace(QUIET, flush_threads=1), partitions=2).open()
    for n in range(6):
        append(store.partition(n % 2), b"v")
    wait_until(lambda: store.partition().environment.flusher._busy == 0)


def test_flushes_of_much_say_nothing_of_how_long_little_takes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(PythonFlushLoop):
        def run(self, file: Any, patience_s: float, idle_s: float) -> bool:
            time.sleep(0.2)
            return super().run(file, patience_s, idle_s)

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
