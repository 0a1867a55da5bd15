"""The beginning of a log: deleted records, and retention by age and by size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import msgspec
import pytest

from takhin import errors
from takhin.clock import ManualClock
from takhin.storage import retention
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader

from .storage_tools import NOW, QUIET, Store, append, configs, flush, frame, settle, stores, values, wait_until

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def fill(partition: Partition, n: int = 10, timestamp: int = NOW, step: int = 0) -> None:
    """n segments of one record each, and an empty one behind."""
    for _ in range(n):
        append(partition, b"v" * 100, timestamp=timestamp)
        timestamp += step
        partition.roll()
    settle(partition)
    wait_until(lambda: not any(segment.pinned for segment in partition.segments[:-1]))


def bases(store: Store) -> list[int]:
    return [int(path.stem) for path in store.files(".log")]


def test_deleted_records_are_gone_at_once_and_their_segments_with_them(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    for _ in range(5):
        append(partition, b"a", b"b")
        partition.roll()
    settle(partition)
    assert partition.raise_log_start(5) == 5
    assert store.starts == {0: 5}, "durable first"
    assert retention.remove_unused(partition) == 2
    assert bases(store) == [4, 6, 8, 10], "the segment that holds 5 stays"
    assert {path.stem for path in store.files()} == {f"{n:020d}" for n in (4, 6, 8, 10)}, "indexes and seals go too"
    with pytest.raises(errors.OffsetOutOfRange):
        PartitionReader(partition, 4).read(10)
    assert [offset for offset, _ in values(partition)] == [5, 6, 7, 8, 9]


def test_the_log_start_never_goes_back_and_never_above_the_high_watermark(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"a", b"b", b"c")
    assert partition.raise_log_start(2) == 2
    assert partition.raise_log_start(1) == 2
    with pytest.raises(errors.OffsetOutOfRange):
        partition.raise_log_start(4)
    assert partition.raise_log_start(3) == 3
    assert values(partition) == []
    assert append(partition, b"d").base_offset == 3
    store.reopen()
    assert (store.partition().log_start_offset, values(store.partition())) == (3, [(3, b"d")])


def test_a_log_start_that_cannot_be_saved_is_not_raised(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"a", b"b")

    def fail(topic_id: str, number: int, offset: int) -> None:
        raise errors.DiskFull("no room")

    partition.environment.save_log_start = fail
    with pytest.raises(errors.DiskFull):
        partition.raise_log_start(1)
    assert [offset for offset, _ in values(partition)] == [0, 1]


def test_segments_go_when_their_youngest_record_is_too_old(make: Make) -> None:
    clock = ManualClock(NOW)
    store = make(clock=clock, configs=configs(retention_ms=1000)).open()
    partition = store.partition()
    fill(partition, 5, NOW, step=100)
    assert retention.retain(partition) == 0
    clock.set_wall(NOW + 1000)
    assert retention.retain(partition) == 0, "just old enough to stay"
    clock.set_wall(NOW + 1201)
    assert retention.retain(partition) == 3
    assert (partition.log_start_offset, bases(store)) == (3, [3, 4, 5])
    clock.set_wall(NOW + 10**9)
    assert retention.retain(partition) == 2
    assert (partition.log_start_offset, partition.high_watermark, bases(store)) == (5, 5, [5])
    assert append(partition, b"next").base_offset == 5


def test_an_old_segment_behind_a_young_one_waits_for_it(make: Make) -> None:
    clock = ManualClock(NOW + 5000)
    store = make(clock=clock, configs=configs(retention_ms=1000)).open()
    partition = store.partition()
    fill(partition, 1, NOW)
    fill(partition, 1, NOW + 5000)
    fill(partition, 3, NOW)
    assert retention.retain(partition) == 1
    assert bases(store) == [1, 2, 3, 4, 5]


def test_the_active_segment_is_rolled_when_all_of_it_is_too_old(make: Make) -> None:
    clock = ManualClock(NOW + 5000)
    store = make(clock=clock, configs=configs(retention_ms=1000)).open()
    partition = store.partition()
    append(partition, b"old", timestamp=NOW)
    append(partition, b"older", timestamp=NOW - 5)
    assert retention.retain(partition) + retention.retain(partition) <= 1
    settle(partition)
    wait_until(lambda: retention.retain(partition) >= 0 and bases(store) == [2])
    assert (partition.log_start_offset, partition.log_end_offset) == (2, 2)
    store.reopen()
    assert (store.partition().log_start_offset, store.partition().log_end_offset) == (2, 2)
    assert append(store.partition(), b"young", timestamp=NOW + 5000).base_offset == 2


def test_a_clock_that_jumps_back_expires_nothing(make: Make) -> None:
    clock = ManualClock(NOW)
    store = make(clock=clock, configs=configs(retention_ms=1000)).open()
    fill(store.partition(), 3, NOW)
    clock.set_wall(NOW - 10**9)
    assert retention.retain(store.partition()) == 0


def test_minus_one_keeps_for_ever(make: Make) -> None:
    clock = ManualClock(NOW)
    store = make(clock=clock).open()
    fill(store.partition(), 3, 1)
    clock.set_wall(NOW * 100)
    assert retention.retain(store.partition()) == 0


def test_size_keeps_at_least_what_it_says_and_never_the_active_segment(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    fill(partition, 6)
    size = partition.segments[0].size
    for limit, kept in ((6 * size, 6), (6 * size - 1, 6), (5 * size + 1, 6), (5 * size, 5), (2 * size + 5, 3), (0, 0)):
        partition.configs = configs(retention_bytes=limit)
        retention.retain(partition)
        assert len(partition.segments) == kept + 1
        assert partition.size_bytes() == kept * size
    append(partition, b"v" * 100)
    retention.retain(partition)
    assert partition.size_bytes() == size
    assert values(partition) == [(6, b"v" * 100)]


def test_a_segment_that_is_not_flushed_keeps_its_file_although_consumers_may_see_it(make: Make) -> None:
    log = msgspec.structs.replace(QUIET, flush="interval", flush_interval_ms=60_000)
    store = make(configs=configs(retention_bytes=0), log=log).open()
    partition = store.partition()
    partition.append(frame(b"a"), None)
    with partition._lock:
        partition._roll()
    partition.append(frame(b"b"), None)
    assert retention.retain(partition) == 0
    assert (partition.log_start_offset, bases(store)) == (1, [0, 1])
    flush(partition)
    assert retention.retain(partition) == 1


def test_what_is_not_flushed_is_not_removed(make: Make) -> None:
    store = make(configs=configs(retention_bytes=0)).open()
    partition = store.partition()
    partition.flush_state = 99  # as if no flush ever came
    partition.append(frame(b"a"), None)
    with partition._lock:
        partition._roll()
    partition.append(frame(b"b"), None)
    assert retention.retain(partition) == 0
    assert (partition.log_start_offset, bases(store)) == (0, [0, 1])
    partition.flush_state = 0
    flush(partition)
    assert retention.retain(partition) == 1


def test_a_segment_whose_timestamps_cannot_be_read_goes_by_when_it_was_written(make: Make) -> None:
    clock = ManualClock(NOW)
    store = make(clock=clock, configs=configs(retention_ms=1000)).open()
    fill(store.partition(), 2, NOW)
    store.close()
    for suffix in (".index", ".timeindex", ".seal"):
        for path in store.files(suffix):
            path.unlink()
    first = store.files(".log")[0]
    first.write_bytes(b"\xff" * first.stat().st_size)
    os.utime(first, (NOW / 1000, NOW / 1000))
    store.open()
    assert retention.retain(store.partition()) == 0, "damaged is not old"
    clock.set_wall(NOW + 5000)
    assert retention.retain(store.partition()) == 2


def test_readers_in_a_removed_segment_are_told_that_they_are_out_of_range(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    fill(partition, 6)
    readers = [PartitionReader(partition, n) for n in range(6)]
    first = [reader.read(1) for reader in readers]
    assert all(first)
    for reader in readers:
        reader.advance(reader.next_offset + 1)
    partition.raise_log_start(4)
    retention.remove_unused(partition)
    for reader in readers:
        if reader.next_offset < 4:
            with pytest.raises(errors.OffsetOutOfRange):
                reader.read(1)
        elif reader.next_offset < 6:
            batches = reader.read(1)
            assert batches is not None
            assert batches.records()[0][0] == reader.next_offset
    # What was read before is still there to be looked at.
    assert [batches.records()[0][0] for batches in first if batches is not None] == list(range(6))


def test_retention_runs_by_itself_over_all_partitions(make: Make) -> None:
    clock = ManualClock(NOW + 5000)
    store = make(clock=clock, partitions=3, configs=configs(retention_ms=1000)).open()
    for number in range(3):
        fill(store.partition(number), 2 + number, NOW)
    assert store.manager is not None
    store.manager.retain()
    assert [store.partition(n).log_start_offset for n in range(3)] == [2, 3, 4]
    assert store.starts == {0: 2, 1: 3, 2: 4}
