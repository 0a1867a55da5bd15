"""Partitions that are flushed all the time: what each flush covers, who tells of it, and when the thread leaves."""

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
from takhin.storage.flusher import IDLE, LAZY, RUNNING
from takhin.storage.partition import Partition
from tests.reference.flush_loop import PythonFlushLoop

from .storage_tools import QUIET, Store, append, configs, frame, stores, values, wait_until

Make = Callable[..., Store]
Loop = Any
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


def asked(kind: Any, file: SegmentFile) -> Any:
    loop = kind()
    assert loop.ask("who", file, 1)
    return loop


def test_what_was_asked_for_is_flushed_and_told_of_once(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    assert (loop.has_news, loop.tell(), loop.is_done) == (False, {}, False)
    assert loop.run(0.0, AGES_S)
    assert (loop.has_news, loop.tell()) == (True, {"who": 1})
    assert (loop.has_news, loop.tell()) == (False, {})
    flushes, seconds = loop.take_times()
    assert (flushes, loop.take_times()) == (1, (0, 0.0))
    assert seconds > 0


def test_there_is_one_flush_for_all_that_was_asked_for_meanwhile(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    assert all(loop.ask("who", file, n) for n in range(2, 10))
    assert loop.run(0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 9}, 1)
    loop.ask("who", file, 10)
    assert loop.run(0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 10}, 1)


def test_files_are_flushed_side_by_side_and_each_once(kind: Any, tmp_path: Path) -> None:
    files = [SegmentFile(str(tmp_path / f"{n}.log"), create=True) for n in range(100)]
    loop: Loop = kind()
    for goal in range(3):
        assert all(loop.ask(n, file, goal) for n, file in enumerate(files))
    told: dict[int, int] = {}
    while len(told) < 100 or loop.take_times()[0]:
        loop.close()
        assert loop.run(0.0, AGES_S) or loop.is_done
        told |= loop.tell()
    assert told == dict.fromkeys(range(100), 2)
    assert loop.is_done


def test_no_more_wait_than_there_is_room_for(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind()
    assert all(loop.ask("who", file, n) for n in range(4096))
    assert not loop.ask("who", file, 4096)
    assert loop.run(0.0, AGES_S)
    assert not loop.ask("who", file, 4096), "what is not told of takes its place"
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 4095}, 1)
    assert loop.ask("who", file, 4096)


def test_after_a_flush_of_several_the_next_waits_for_company(kind: Any, tmp_path: Path) -> None:
    files = [SegmentFile(str(tmp_path / f"{n}.log"), create=True) for n in range(20)]
    loop: Loop = kind()
    assert all(loop.ask(n, file, 0) for n, file in enumerate(files[:5]))
    told: dict[int, int] = {}
    thread = threading.Thread(target=lambda: [loop.run(0.0, 0.1) and told.update(loop.tell()) for _ in range(50)])
    thread.start()
    wait_until(lambda: len(told) == 5)
    # Whether they come before the quiet is over or after it, nothing is lost or waits on.
    for n, file in enumerate(files):
        assert loop.ask(n, file, 1)
        time.sleep(0.0001 * (n % 4))
    wait_until(lambda: told == dict.fromkeys(range(20), 1))
    loop.close()
    thread.join(20)


def test_it_waits_for_somebody_to_tell_before_it_comes_back_for_that(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    began = time.monotonic()
    assert loop.run(0.1, AGES_S)
    assert 0.1 <= time.monotonic() - began < 5
    # The next flush does not wait for that.
    loop.ask("who", file, 2)
    came_back = threading.Thread(target=loop.run, args=(0.3, 0.2), daemon=True)
    came_back.start()
    wait_until(lambda: loop.tell() == {"who": 2})
    came_back.join(20)
    assert not came_back.is_alive(), "told of, and idle"
    assert not loop.has_news


def test_it_goes_on_while_something_is_asked_for_and_comes_back_when_nothing_was(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(loop.run(1.0, 0.3)), daemon=True)
    thread.start()
    for n in range(2, 6):
        wait_until(lambda n=n: loop.tell() == {"who": n - 1})
        assert loop.ask("who", file, n)
    wait_until(lambda: loop.tell() == {"who": 5})
    assert not results
    thread.join(20)
    assert results == [False]
    assert not loop.is_done, "it may be asked for more until it is closed"


def test_closed_it_flushes_what_was_asked_for_and_takes_no_more(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    loop.close()
    assert not loop.ask("who", file, 2)
    assert loop.run(AGES_S, AGES_S), "nobody is waited for"
    assert not loop.is_done
    assert loop.tell() == {"who": 1}
    assert loop.is_done
    assert not loop.run(AGES_S, AGES_S)


@pytest.mark.parametrize("news", ["ask", "close", "idle"])
def test_a_thread_that_has_nothing_to_do_hears_of_news(kind: Any, file: SegmentFile, news: str) -> None:
    loop: Loop = asked(kind, file)
    assert loop.run(0.0, AGES_S)
    loop.tell()
    results: list[bool] = []
    idle_s = 0.05 if news == "idle" else AGES_S
    thread = threading.Thread(target=lambda: results.append(loop.run(0.0, idle_s)), daemon=True)
    thread.start()
    time.sleep(0.02)
    if news == "ask":
        loop.ask("who", file, 2)
    elif news == "close":
        loop.close()
    thread.join(20)
    assert results == [news == "ask"]


@pytest.mark.parametrize("others", [0, 3])
def test_a_flush_that_fails_is_an_error_and_nothing_is_told_of(tmp_path: Path, others: int) -> None:
    class Closed:
        fd = -1
        path = "gone"

    loop: FlushLoop[int, int] = FlushLoop()
    for n in range(others):
        loop.ask(n, SegmentFile(str(tmp_path / f"{n}.log"), create=True), 1)
    loop.ask(-1, Closed(), 1)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="gone"):
        loop.run(0.0, AGES_S)
    assert (loop.has_news, loop.tell()) == (False, {})
    with pytest.raises(TypeError):
        loop.ask(0, None, 1)  # type: ignore[arg-type]


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
    one.environment.flusher._loop.close()
    wait_until(lambda: one.environment.flusher._busy == 0)
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
    partition.environment.flusher._loop.close()
    wait_until(lambda: partition.environment.flusher._busy == 0)
    told = Told()
    send(partition, told)
    loop = partition.environment.flusher._loop
    wait_until(lambda: loop._stay is not None and loop._stay.loop.has_news)
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
    loop, told = partition.environment.flusher._loop, Told()
    loop.close()
    wait_until(lambda: partition.environment.flusher._busy == 0)
    send(partition, told)
    wait_until(lambda: loop._stay is not None and loop._stay.loop.has_news)
    partition.append(frame(b"nobody"), None)  # it tells of the one before
    assert (len(told.outcomes), partition.flush_state) == (1, LAZY)
    send(partition, told)
    assert partition.flush_state == RUNNING
    partition.append(frame(b"nobody"), None)
    wait_until(lambda: (loop._stay is not None and loop._stay.loop.has_news) or len(told.outcomes) == 2)
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
