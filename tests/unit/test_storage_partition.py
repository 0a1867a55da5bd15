"""One partition: append, read, roll, and who is told of what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from takhin import errors
from takhin._fastlog import BATCH_HEADER_BYTES
from takhin.clock import ManualClock
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader
from takhin.storage.segment import Segment
from takhin.storage.waiters import Placed
from tests.reference import record_batch as reference

from .storage_tools import NOW, Store, append, configs, frame, read_all, read_around, settle, stores, values, wait_until

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def small(**changes: int) -> object:
    return configs(segment_bytes=2000, index_interval_bytes=300, **changes)


def test_records_come_back_as_they_were_appended(make: Make) -> None:
    partition = make().open().partition()
    assert append(partition, b"a", None, b"") == Placed(0, 2, NOW)
    assert append(partition, b"d", timestamp=NOW + 7) == Placed(3, 3, NOW + 7)
    assert read_all(partition) == [
        (0, NOW, None, b"a", []),
        (1, NOW, None, None, []),
        (2, NOW, None, b"", []),
        (3, NOW + 7, None, b"d", []),
    ]
    assert (partition.log_start_offset, partition.flushed_offset) == (0, 4)
    assert (partition.high_watermark, partition.log_end_offset) == (4, 4)


def test_the_file_holds_what_the_reference_writes(make: Make) -> None:
    store = make().open()
    append(store.partition(), b"a", b"b")
    append(store.partition(), b"c", producer_id=7, producer_epoch=0, base_sequence=0)
    (log,) = store.files(".log")
    assert log.name == "00000000000000000000.log"
    assert log.read_bytes() == reference.encode([(None, b"a", [], NOW), (None, b"b", [], NOW)]) + reference.encode(
        [(None, b"c", [], NOW)], 2, producer_id=7, producer_epoch=0, base_sequence=0
    )


def test_blocks_in_advance_are_given_back_by_a_roll_and_by_a_stop(make: Make) -> None:
    store = make(configs=configs(segment_bytes=12 << 20)).open()
    partition = store.partition()

    def ahead() -> list[int]:
        found = [path.stat() for path in store.files(".log")]
        return [max(stat.st_blocks * 512 - stat.st_size - 65536, 0) for stat in found]

    for _ in range(11):
        append(partition, b"v" * (1 << 20))
    assert ahead()[0] > 0
    for _ in range(11):
        append(partition, b"v" * (1 << 20))
    settle(partition)
    wait_until(lambda: ahead()[0] == 0)
    assert ahead()[1] > 0
    kept = values(partition)
    store.close()
    assert ahead() == [0, 0]
    assert values(store.open().partition()) == kept


def test_a_full_segment_gets_a_successor_and_offsets_go_on(make: Make) -> None:
    store = make(configs=small()).open()
    partition = store.partition()
    for n in range(60):
        append(partition, b"%04d" % n * 25)
    bases = [int(path.stem) for path in store.files(".log")]
    assert len(bases) > 3
    assert bases == [segment.base_offset for segment in partition.segments]
    batch_size = frame(b"0000" * 25).size
    for path in store.files(".log")[:-1]:
        assert path.stat().st_size <= 2000 < path.stat().st_size + batch_size, "full, and not too full"
        chain = reference.decode_all(path.read_bytes())
        assert chain[0].base_offset == int(path.stem)
    assert values(partition) == [(n, b"%04d" % n * 25) for n in range(60)]
    for begin in range(61):
        assert [offset for offset, _ in values(partition, begin)] == list(range(begin, 60))


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(make: Make) -> None:
    store = make(configs=small()).open()
    partition = store.partition()
    for size in (10, 5000, 10, 9000, 10):
        append(partition, bytes(size))
    assert [int(path.stem) for path in store.files(".log")] == [0, 1, 2, 3, 4]
    assert [len(value or b"") for _, value in values(partition)] == [10, 5000, 10, 9000, 10]


def test_an_old_segment_gets_a_successor_at_the_next_append(make: Make) -> None:
    clock = ManualClock(NOW)
    store = make(clock=clock, configs=configs(segment_ms=1000)).open()
    partition = store.partition()
    clock.advance(5000)
    append(partition, b"first")  # an empty segment has no age
    clock.advance(999)
    append(partition, b"young")
    clock.advance(-5000)
    append(partition, b"clock went back")
    clock.advance(5001)
    assert len(partition.segments) == 1, "only an append rolls"
    append(partition, b"old")
    clock.advance(999)
    append(partition, b"young again")
    assert [segment.base_offset for segment in partition.segments] == [0, 3]


def test_roll_makes_a_segment_only_after_a_record(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    partition.roll()
    assert len(partition.segments) == 1
    append(partition, b"a")
    partition.roll()
    partition.roll()
    assert [segment.base_offset for segment in partition.segments] == [0, 1]
    append(partition, b"b")
    assert values(partition) == [(0, b"a"), (1, b"b")]


def test_a_sealed_segment_has_index_files_and_a_seal_and_is_let_go(make: Make) -> None:
    store = make(configs=small()).open()
    partition = store.partition()
    for n in range(60):
        append(partition, b"%04d" % n * 25)
    wait_until(lambda: not any(segment.pinned for segment in partition.segments))
    for log in store.files(".log")[:-1]:
        chain = reference.decode_all(log.read_bytes())
        entries = reference.index_entries(chain, int(log.stem), 300, sealed=True)
        found = tuple(log.with_suffix(suffix).read_bytes() for suffix in (".index", ".timeindex"))
        assert found == reference.index_bytes(*entries)
        assert len(log.with_suffix(".seal").read_bytes()) == 58


def test_configs_that_change_hold_from_the_next_append_on(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, bytes(1500))
    partition.configs = small()  # type: ignore[assignment]
    append(partition, bytes(1500))
    assert [segment.base_offset for segment in partition.segments] == [0, 1]


def test_relative_offsets_never_pass_31_bits(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"a")
    # As if two thousand million records lay between.
    with partition._lock:
        partition.log_end_offset = partition.flushed_offset = partition.high_watermark = 2**31 - 2
    append(partition, b"b")
    assert [segment.base_offset for segment in partition.segments] == [0]
    append(partition, b"c")
    assert [segment.base_offset for segment in partition.segments] == [0, 2**31 - 1]


# -- reading ---------------------------------------------------------------------------------


def test_offsets_outside_the_log_are_refused_with_what_there_is(make: Make) -> None:
    partition = make().open().partition()
    append(partition, b"a", b"b", b"c")
    partition.raise_log_start(1)
    for offset in (-5, 0, 4, 2**62):
        with pytest.raises(errors.OffsetOutOfRange) as caught:
            PartitionReader(partition, offset).read(100)
        fields = caught.value.fields
        assert (fields["offset"], fields["log_start_offset"], fields["high_watermark"]) == (str(offset), "1", "3")
    assert PartitionReader(partition, 3).read(100) is None
    assert values(partition, 1) == [(1, b"b"), (2, b"c")]


def test_a_chunk_may_be_read_in_parts_and_again(make: Make) -> None:
    partition = make(configs=small()).open().partition()
    for n in range(30):
        append(partition, b"%d" % (2 * n), b"%d" % (2 * n + 1))
    reader = PartitionReader(partition, 0)
    place = 0
    for step in (0, 1, 2, 7, 0, 20, 30):
        batches = reader.read(1 << 20)
        assert batches is not None
        assert batches.records()[0][0] == place, "the place moves by advance only"
        place = min(place + step, 60)
        reader.advance(place)
    assert reader.read(100) is None
    assert reader.watermarks() == (0, 60)


def test_available_bytes_is_what_lies_behind_the_place(make: Make) -> None:
    store = make(configs=small()).open()
    partition = store.partition()
    for n in range(60):
        append(partition, b"%04d" % n * 25)
    total = partition.size_bytes()
    assert total == sum(path.stat().st_size for path in store.files(".log"))
    reader = PartitionReader(partition, 0)
    assert reader.available_bytes(1 << 40) == total
    assert reader.available_bytes(100) >= 100
    left = total
    while (batches := reader.read(700)) is not None:
        left -= batches.size_bytes
        batches.records()
        reader.advance(batches.next_offset)
        assert reader.available_bytes(1 << 40) == left
    assert left == 0


class Counted(list[Segment]):
    """Counts the segments that somebody looks at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Segment]:
        for segment in super().__iter__():
            self.looks += 1
            yield segment


@pytest.mark.parametrize("offset", [0, 70, 119])
def test_a_look_for_available_bytes_does_not_go_through_all_segments(make: Make, offset: int) -> None:
    partition = make(configs=small()).open().partition()
    for n in range(120):
        append(partition, b"%04d" % n * 200)
    reader = PartitionReader(partition, offset)
    partition.segments = segments = Counted(partition.segments)
    assert len(segments) > 50
    assert reader.available_bytes(1) > 0
    assert segments.looks <= len(segments).bit_length() + 2


def test_large_batches_are_read_as_a_whole_and_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = make(configs=configs()).open().partition()
    for _ in range(12):
        append(partition, b"x" * 3000)
    each = partition.size_bytes() // 12
    asked: list[int] = []
    whole = PartitionReader._whole
    monkeypatch.setattr(PartitionReader, "_whole", lambda *args: (asked.append(whole(*args)), asked[-1])[1])
    for max_bytes, batches in ((1000, 1), (each - 1, 1), (each + 200, 1), (2 * each + 2900, 2)):
        asked.clear()
        assert [offset for offset, _ in values_read(partition, max_bytes)] == list(range(12))
        assert set(asked[1:]) <= {batches * each + BATCH_HEADER_BYTES, max_bytes}
        assert asked.count(batches * each + BATCH_HEADER_BYTES) >= 12 // batches - 2
    # Batches that are small, or that are said to be huge, leave it as it is.
    asked.clear()
    values_read(partition, 100 * each)
    values_read(partition, 10)
    assert set(asked) == {100 * each, 10}


def values_read(partition: Partition, max_bytes: int) -> list[tuple[int, bytes | None]]:
    reader = PartitionReader(partition, 0)
    found = []
    while (batches := reader.read(max_bytes)) is not None:
        found += [(record[0], record[3]) for record in batches.records()]
        reader.advance(batches.next_offset)
    return found


def test_many_threads_append_and_read_one_dense_log_in_each_ones_order(make: Make) -> None:
    store = make(configs=configs(segment_bytes=8000, index_interval_bytes=500)).open()
    partition = store.partition()
    writers, batches_each, per_batch = 4, 60, 5
    total = writers * batches_each * per_batch
    problems: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for n in range(batches_each):
                names = [b"%d %d" % (number, n * per_batch + i) for i in range(per_batch)]
                if n % 10 == 9:
                    append(partition, *names)
                else:
                    partition.append(frame(*names), None)
        except BaseException as problem:
            problems.append(problem)

    results: list[list[bytes | None]] = []

    def read(max_bytes: int) -> None:
        try:
            reader = PartitionReader(partition, 0)
            found: list[bytes | None] = []
            while len(found) < total:
                batches = reader.read(max_bytes)
                if batches is None:
                    woken = threading.Event()
                    reader.park(woken.set)
                    assert woken.wait(20)
                    continue
                for record in batches.records():
                    assert record[0] == len(found)
                    found.append(record[3])
                reader.advance(batches.next_offset)
                assert reader.next_offset <= partition.flushed_offset, "nothing is shown before it is flushed"
            results.append(found)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    threads += [threading.Thread(target=read, args=(size,)) for size in (1, 3000, 1 << 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    by_writer: dict[int, list[int]] = {n: [] for n in range(writers)}
    for value in results[0]:
        number, n = (value or b"").split()
        by_writer[int(number)].append(int(n))
    assert all(numbers == list(range(batches_each * per_batch)) for numbers in by_writer.values())
    settle(partition)
    assert len(partition.segments) > 2


def test_a_deleted_partition_tells_everybody(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"a")
    woken = threading.Event()
    reader = PartitionReader(partition, 1)
    reader.park(woken.set)
    assert store.manager is not None
    store.manager.remove(store.specs())
    assert woken.is_set()
    with pytest.raises(errors.TopicNotFound):
        reader.read(100)
    with pytest.raises(errors.TopicNotFound):
        partition.append(frame(b"b"), None)
    assert not store.directory().exists()
    wait_until(lambda: list((store.path / "deleted").iterdir()) == [])


def test_a_closed_partition_keeps_its_files_and_can_be_opened_again(make: Make) -> None:
    store = make(configs=small()).open()
    for n in range(40):
        append(store.partition(), b"%04d" % n * 25)
    before = values(store.partition())
    for _ in range(3):
        store.reopen()
        assert values(store.partition()) == before
    append(store.partition(), b"more")
    assert values(store.partition()) == [*before, (40, b"more")]


def test_a_batch_that_cannot_be_decompressed_is_lost_alone(make: Make) -> None:
    store = make().open()
    store.close()
    good = [reference.encode([(None, b"%d" % n, [], NOW)], n) for n in range(5)]
    # Codec 4 by its attributes, and not a zstd frame; the CRC fits.
    good[2] = reference.encode([(None, b"2", [], NOW)], 2, attributes=4)
    store.files(".log")[0].write_bytes(b"".join(good))
    store.open()
    assert read_around(store.partition()) == ([0, 1, 3, 4], [(2, 2)])
