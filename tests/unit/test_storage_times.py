"""The earliest record at or after a time, against looking at every record."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from takhin._fastlog import RecordSpans
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader, find_time
from takhin.storage.segment import Segment
from tests.reference import record_batch as reference

from .storage_tools import (
    NOW,
    Store,
    append,
    append_batch,
    configs,
    flush,
    killed,
    read_all,
    settle,
    stores,
    wait_until,
)

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def unordered(partition: Partition, seed: int, batches: int = 60) -> None:
    chance = random.Random(seed)
    drift = 0
    for n in range(batches):
        drift += chance.randint(-5, 10)
        records = [(None, bytes(chance.randint(0, 60)), [], NOW + drift + chance.randint(-40, 40)) for _ in range(3)]
        append_time = n % 7 == 6
        append_batch(partition, RecordSpans.from_records(records).frame(NOW + drift, log_append_time=append_time))
    wait_until(lambda: not any(segment.pinned for segment in partition.segments))


def check_all_times(partition: Partition) -> None:
    records = [(record[0], record[1]) for record in read_all(partition)]
    times = sorted({time for _, time in records})
    last = -1
    for time in [0, times[0] - 1, *times, *(time + 1 for time in times), times[-1] + 10**6]:
        expected = next(((offset, found) for offset, found in records if found >= time), None)
        assert find_time(partition, time) == expected, time
    for time in times:
        found = find_time(partition, time)
        assert found is not None
        assert found[0] >= last, "it rises with the time"
        last = found[0]


@pytest.mark.parametrize("interval", [0, 300, 1 << 20])
@pytest.mark.parametrize("segment_bytes", [1500, 1 << 20])
def test_unordered_timestamps_are_found_by_any_index(make: Make, interval: int, segment_bytes: int) -> None:
    store = make(configs=configs(segment_bytes=segment_bytes, index_interval_bytes=interval)).open()
    unordered(store.partition(), interval + segment_bytes)
    check_all_times(store.partition())
    store.reopen()
    check_all_times(store.partition())
    again = killed(make, store)
    for path in again.files():
        if path.suffix != ".log":
            path.unlink()
    (again.path / "checkpoint").unlink(missing_ok=True)
    check_all_times(again.open().partition())


def test_only_readable_records_are_found(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1500, index_interval_bytes=0)).open()
    partition = store.partition()
    unordered(partition, 5)
    end = partition.log_end_offset
    partition.raise_log_start(end // 2)
    check_all_times(partition)
    late = RecordSpans.from_records([(None, b"late", [], NOW + 10**9)])
    partition.flush_state = 99  # as if no flush ever came
    partition.append(late.frame(NOW), None)
    assert find_time(partition, NOW + 10**9) is None
    partition.flush_state = 0
    flush(partition)
    assert find_time(partition, NOW + 10**9) == (end, NOW + 10**9)


def test_an_empty_log_has_no_times(make: Make) -> None:
    store = make().open()
    assert find_time(store.partition(), 0) is None


def test_equal_timestamps_give_the_first_record(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1024, index_interval_bytes=0)).open()
    partition = store.partition()
    for _ in range(50):
        append_batch(partition, RecordSpans.from_records([(None, bytes(50), [], NOW)]).frame(NOW))
    assert find_time(partition, NOW) == (0, NOW)
    assert find_time(partition, NOW + 1) is None
    partition.raise_log_start(17)
    assert find_time(partition, NOW) == (17, NOW)


def test_records_without_a_timestamp_are_before_all_times(make: Make) -> None:
    store = make(configs=configs(index_interval_bytes=0)).open()
    store.close()
    log = store.files(".log")[0]
    parts = [reference.encode([(None, bytes(40), [], -1)], n) for n in range(6)]
    parts += [reference.encode([(None, b"", [], NOW + n)], n) for n in range(6, 12)]
    log.write_bytes(b"".join(parts))
    store.open()
    partition = store.partition()
    settle(partition)
    assert find_time(partition, 0) == (6, NOW + 6)
    assert find_time(partition, NOW + 9) == (9, NOW + 9)
    partition.roll()
    store.reopen()
    assert find_time(store.partition(), NOW + 9) == (9, NOW + 9)


def test_a_search_reads_little(make: Make) -> None:
    store = make(configs=configs(segment_bytes=60_000, index_interval_bytes=1000)).open()
    partition = store.partition()
    for n in range(400):
        append_batch(partition, RecordSpans.from_records([(None, bytes(800), [], NOW + n)]).frame(NOW))
    before = partition.environment.counters.bytes_read
    assert find_time(partition, NOW + 210) == (210, NOW + 210)
    assert partition.environment.counters.bytes_read - before < 100_000


def test_a_search_goes_on_when_retention_takes_its_place(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(configs=configs(index_interval_bytes=0)).open()
    partition = store.partition()
    for n in range(6):
        append(partition, b"v", timestamp=NOW + n)
    monkeypatch.setattr(
        PartitionReader, "advance", _slow(PartitionReader.advance, lambda: partition.raise_log_start(5))
    )
    assert find_time(partition, NOW + 1) == (5, NOW + 5)


def test_a_search_takes_no_notice_of_what_is_appended_meanwhile(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"v", timestamp=NOW)

    def append_more() -> None:
        partition.roll()
        append(partition, b"later", timestamp=NOW - 1)

    monkeypatch.setattr(Segment, "largest_timestamp", _slow(Segment.largest_timestamp, append_more))
    assert find_time(partition, NOW + 1) is None


def _slow(method: Callable[..., Any], meanwhile: Callable[[], object]) -> Callable[..., Any]:
    """The method; something else happens once, just before it returns."""
    pending = [meanwhile]

    def slow(*arguments: Any) -> Any:
        result = method(*arguments)
        if pending:
            pending.pop()()
        return result

    return slow
