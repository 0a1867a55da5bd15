"""Group commit: what a flush covers, who is told, and what consumers may see when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from takhin import errors
from takhin.storage import flush_goal, flusher, lingering
from takhin.storage.flush_goal import FlushGoal
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader
from takhin.storage.waiters import Placed

from .flush_loop_tools import loop_in_python  # noqa: F401 (a fixture)
from .storage_tools import QUIET, Store, append, configs, flush, frame, settle, stores, values, wait_until

Make = Callable[..., Store]

pytestmark = pytest.mark.usefixtures("loop_in_python")


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


class Gate:
    """Stands in for a segment's file: its flush waits, and may fail."""

    def __init__(self, partition: Partition) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.flushes = 0
        self.error: OSError | None = None
        self._segment = partition.active
        self._file = self._segment.file()
        self._segment.open_file = self  # type: ignore[assignment]

    def flush(self) -> None:
        self.flushes += 1
        self.entered.release()
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_one_flush_serves_all_who_wait(make: Make) -> None:
    partition = make().open().partition()
    gate = Gate(partition)
    outcomes: list[tuple[int, Any]] = []

    def sent(n: int) -> Callable[[Any], None]:
        return lambda outcome: outcomes.append((n, outcome))

    partition.append(frame(b"0"), sent(0))
    assert gate.entered.acquire(timeout=20), "the first does not wait for company"
    for n in range(1, 200):
        partition.append(frame(b"%d" % n), sent(n))
    assert (outcomes, partition.high_watermark, partition.log_end_offset) == ([], 0, 200)
    gate.open.set()
    wait_until(lambda: len(outcomes) == 200)
    assert [n for n, _ in outcomes] == list(range(200)), "told in order"
    assert [(outcome.base_offset, outcome.last_offset) for _, outcome in outcomes] == [(n, n) for n in range(200)]
    assert gate.flushes == 2
    assert (partition.high_watermark, partition.flushed_offset) == (200, 200)


def test_nobody_is_told_and_nothing_is_shown_before_the_flush_that_covers_it(make: Make) -> None:
    partition = make().open().partition()
    append(partition, b"0")
    gate = Gate(partition)
    told: list[Any] = []
    partition.append(frame(b"1"), told.append)
    assert gate.entered.acquire(timeout=20)
    partition.append(frame(b"2"), told.append)  # behind the back of the flush that runs
    assert (values(partition), told) == ([(0, b"0")], [])
    with pytest.raises(errors.OffsetOutOfRange):
        PartitionReader(partition, 2).read(100)
    gate.open.set()
    wait_until(lambda: len(told) == 2)
    assert [offset for offset, _ in values(partition)] == [0, 1, 2]


def test_records_that_nobody_waits_for_are_flushed_after_the_linger(make: Make) -> None:
    partition = make(log=msgspec.structs.replace(QUIET, flush_linger_ms=150)).open().partition()
    gate = Gate(partition)
    gate.open.set()
    begun = time.monotonic()
    for n in range(50):
        partition.append(frame(b"%d" % n), None)
    assert partition.high_watermark == 0
    settle(partition)
    assert 0.1 < time.monotonic() - begun < 5
    assert (gate.flushes, partition.high_watermark) == (1, 50)


def test_records_that_nobody_waits_for_and_that_come_during_a_flush_wait_for_the_linger_too(make: Make) -> None:
    partition = make(log=msgspec.structs.replace(QUIET, flush_linger_ms=200)).open().partition()
    gate = Gate(partition)
    partition.append(frame(b"0"), None)
    assert gate.entered.acquire(timeout=20)
    for n in range(1, 5):
        partition.append(frame(b"%d" % n), None)  # behind the back of the flush that runs
    gate.open.set()
    wait_until(lambda: partition.high_watermark == 1)
    ended = time.monotonic()
    wait_until(lambda: partition.high_watermark == 5)
    assert time.monotonic() - ended > 0.1
    assert gate.flushes == 2


def test_a_partition_that_comes_to_have_much_to_write_lingers_no_longer_than_the_linger(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "LITTLE_BYTES", 1000)
    monkeypatch.setattr(lingering, "MOST_S", 0.0)
    monkeypatch.setattr(lingering, "EARNED", 0.0)
    monkeypatch.setattr(lingering, "LATEST_S", 60.0)
    partition = make(log=msgspec.structs.replace(QUIET, flush_linger_ms=10)).open().partition()
    partition.append(frame(b"little"), None)
    time.sleep(0.2)
    assert partition.high_watermark == 0, "there is no credit, ever"
    partition.append(frame(b"much" * 300), None)
    wait_until(lambda: partition.high_watermark == 2)
    partition.append(frame(b"much" * 300), None)
    wait_until(lambda: partition.high_watermark == 3)


def test_a_parked_reader_makes_the_flush_come_at_once(make: Make) -> None:
    partition = make(log=msgspec.structs.replace(QUIET, flush_linger_ms=60_000)).open().partition()
    woken = threading.Event()
    reader = PartitionReader(partition, 0)
    partition.append(frame(b"before"), None)
    reader.park(woken.set)
    assert woken.wait(5)
    reader.advance(1)
    woken.clear()
    reader.park(woken.set)
    partition.append(frame(b"after"), None)
    assert woken.wait(5)
    assert values(partition) == [(0, b"before"), (1, b"after")]


def test_in_interval_mode_consumers_see_records_at_once_and_flushes_come_by_time(make: Make) -> None:
    log = msgspec.structs.replace(QUIET, flush="interval", flush_interval_ms=200)
    partition = make(log=log).open().partition()
    woken = threading.Event()
    PartitionReader(partition, 0).park(woken.set)
    partition.append(frame(b"0"), None)
    assert woken.is_set(), "woken by the append itself"
    assert (partition.high_watermark, partition.flushed_offset) == (1, 0)
    assert values(partition) == [(0, b"0")]
    settle(partition)
    assert append(partition, b"1") == Placed(1, 1, 1_700_000_000_000)
    assert partition.flushed_offset == 2, "whoever asks for durability gets it at once"


@pytest.mark.parametrize("mode", ["commit", "interval"])
def test_a_stop_does_not_wait_for_the_interval_and_loses_nothing(make: Make, mode: str) -> None:
    log = msgspec.structs.replace(QUIET, flush=mode, flush_interval_ms=3_600_000, flush_linger_ms=60_000)
    store = make(log=log).open()
    store.partition().append(frame(b"0"), None)
    time.sleep(0.05)  # the timer sleeps now
    begun = time.monotonic()
    store.reopen()
    assert time.monotonic() - begun < 5
    assert values(store.partition()) == [(0, b"0")]


def test_a_stop_takes_no_more_records_and_answers_all_that_were_taken(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    gate = Gate(partition)
    told: list[Any] = []
    partition.append(frame(b"taken"), told.append)
    assert gate.entered.acquire(timeout=20)
    stop = threading.Thread(target=store.close)
    stop.start()

    def refused() -> bool:
        try:
            partition.append(frame(b"late"), told.append)
        except errors.Unavailable:
            return True
        return False

    wait_until(refused)
    gate.open.set()
    stop.join(20)
    assert not stop.is_alive()
    assert told
    assert all(isinstance(outcome, Placed) for outcome in told)
    with pytest.raises(errors.Unavailable):
        partition.append(frame(b"later still"), None)
    assert (store.path / "clean-shutdown").exists()
    store.open()
    assert len(values(store.partition())) == len(told)


def test_partitions_flush_side_by_side(make: Make) -> None:
    store = make(partitions=3).open()
    gates = [Gate(store.partition(n)) for n in range(3)]
    told: list[Any] = []
    for n in range(3):
        store.partition(n).append(frame(b"v"), told.append)
    for gate in gates:
        assert gate.entered.acquire(timeout=20), "none waits for another"
    for gate in gates:
        gate.open.set()
    wait_until(lambda: len(told) == 3)


def test_segments_that_were_rolled_are_flushed_with_the_new_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(configs=configs(segment_bytes=1024)).open()
    partition = store.partition()
    synced: list[str] = []
    real = flush_goal.sync_dir
    monkeypatch.setattr(flush_goal, "sync_dir", lambda path: (synced.append(str(path)), real(path))[1])
    gate = Gate(partition)
    told: list[Any] = []
    partition.append(frame(bytes(10)), told.append)
    assert gate.entered.acquire(timeout=20)
    for size in (700, 900, 900):
        partition.append(frame(bytes(size)), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == 4)
    assert len(partition.segments) == 3
    assert gate.flushes == 2, "what was appended to it after the flush began is flushed too"
    # Once for the partition, once for its new segments.
    assert synced == [str(store.directory())] * 2


def test_a_new_segment_is_flushed_however_little_is_in_it(make: Make) -> None:
    partition = make().open().partition()
    append(partition, bytes(5000))
    partition.roll()
    settle(partition)
    gate = Gate(partition)
    gate.open.set()
    append(partition, b"little")
    assert gate.flushes == 1


# -- a flush that fails ----------------------------------------------------------------------


def test_after_a_failed_flush_nothing_is_believed_again(make: Make) -> None:
    store = make(partitions=2).open()
    partition, other = store.partition(0), store.partition(1)
    append(partition, b"0")
    append(other, b"0")
    gate = Gate(partition)
    gate.error = OSError(5, "Input/output error")
    told: list[Any] = []
    partition.append(frame(b"1"), told.append)
    assert gate.entered.acquire(timeout=20)
    partition.append(frame(b"2"), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == 2)
    assert [type(outcome) for outcome in told] == [errors.DurabilityUnknown] * 2
    for one in (partition, other):
        with pytest.raises(errors.LogOffline):
            one.append(frame(b"x"), None)
        with pytest.raises(errors.LogOffline):
            one.roll()
    assert values(partition) == [(0, b"0")], "reads below what was flushed go on"
    assert values(other) == [(0, b"0")]
    gate.error = None
    flush(partition)
    assert (gate.flushes, partition.flushed_offset) == (1, 1), "not tried again"
    store.close()
    assert not (store.path / "clean-shutdown").exists()
    assert store.manager is None


def test_who_waits_elsewhere_is_told_too_when_a_flush_fails(make: Make) -> None:
    store = make(partitions=2).open()
    gates = [Gate(store.partition(n)) for n in range(2)]
    told: list[Any] = []
    store.partition(1).append(frame(b"1"), told.append)
    assert gates[1].entered.acquire(timeout=20)
    store.partition(1).append(frame(b"2"), told.append)
    gates[0].error = OSError(5, "Input/output error")
    store.partition(0).append(frame(b"0"), lambda outcome: None)
    gates[0].open.set()
    wait_until(lambda: told)
    gates[1].open.set()
    wait_until(lambda: len(told) == 2)
    assert all(isinstance(outcome, errors.DurabilityUnknown) for outcome in told)


# -- parking ---------------------------------------------------------------------------------


def test_park_wakes_at_once_when_there_is_something_to_read_or_to_fail(make: Make) -> None:
    partition = make().open().partition()
    append(partition, b"0")
    for offset in (0, -3, 9):
        wakes: list[int] = []
        PartitionReader(partition, offset).park(lambda wakes=wakes: wakes.append(1))  # type: ignore[misc]
        assert wakes == [1]


def test_park_wakes_once_and_a_second_park_takes_the_place_of_the_first(make: Make) -> None:
    partition = make().open().partition()
    reader = PartitionReader(partition, 0)
    wakes: list[str] = []
    reader.park(lambda: wakes.append("first"))
    reader.park(lambda: wakes.append("second"))
    append(partition, b"0")
    append(partition, b"1")
    assert wakes == ["second"]


def test_a_closed_reader_is_not_woken(make: Make) -> None:
    partition = make().open().partition()
    reader = PartitionReader(partition, 0)
    wakes: list[int] = []
    reader.park(lambda: wakes.append(1))
    reader.close()
    reader.close()
    append(partition, b"0")
    assert wakes == []


def test_whoever_is_parked_is_woken_when_the_log_closes(make: Make) -> None:
    store = make().open()
    woken = threading.Event()
    PartitionReader(store.partition(), 0).park(woken.set)
    store.close()
    assert woken.is_set()


@pytest.mark.parametrize("mode", ["commit", "interval"])
def test_no_wake_is_lost_whatever_the_timing(make: Make, mode: str) -> None:
    partition = make(log=msgspec.structs.replace(QUIET, flush=mode)).open().partition()
    rounds = 300
    stopped = threading.Event()

    def write() -> None:
        for n in range(rounds):
            partition.append(frame(b"%d" % n), (lambda outcome: None) if n % 3 == 0 else None)
            if n % 7 == 0:
                time.sleep(0.0005)
        stopped.set()

    def read() -> None:
        reader = PartitionReader(partition, 0)
        while reader.next_offset < rounds:
            batches = reader.read(1 << 20)
            if batches is not None:
                batches.records()
                reader.advance(batches.next_offset)
                continue
            woken = threading.Event()
            reader.park(woken.set)
            if not woken.wait(10):
                lost.append(reader.next_offset)
                return

    lost: list[int] = []
    threads = [threading.Thread(target=read) for _ in range(4)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert lost == []
    assert stopped.is_set()


def test_many_senders_share_flushes(make: Make) -> None:
    partition = make().open().partition()
    flushes: list[int] = []
    real = partition.flush_to
    slow = threading.Event()

    def flush_to(goal: FlushGoal) -> None:
        flushes.append(partition.log_end_offset)
        slow.wait(0.005)  # a disk that takes its time
        real(goal)

    partition.flush_to = flush_to  # type: ignore[method-assign]
    senders, each = 32, 10

    def send() -> None:
        for _ in range(each):
            append(partition, b"v")

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert partition.high_watermark == senders * each
    assert len(flushes) < senders * each / 4
