"""The sparse indexes of a segment: which entries they get, how they are searched, what they refuse."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from takhin._fastlog import RecordSpans
from takhin._segment import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES, SegmentIndex
from tests.reference import record_batch as reference

BASE = 1000
NOW = 1_700_000_000_000


def build(interval: int, batches: list[tuple[int, int, int]], base: int = BASE) -> tuple[SegmentIndex, Any, int]:
    """An index of batches of (records, bytes of value, timestamp), the same as the reference sees them, and the
    log's size."""
    index = SegmentIndex(base, interval)
    seen = []
    offset, position = base, 0
    for count, size, timestamp in batches:
        batch = RecordSpans.from_records([(None, bytes(size), [], timestamp)] * count).frame(NOW)
        index.note_batch(batch, offset, position)
        seen.append(
            reference.Batch(
                position, batch.size, offset, offset + count - 1, 0, 0, timestamp, timestamp, -1, -1, -1, []
            )
        )
        offset += count
        position += batch.size
    return index, seen, position


def some(seed: int, n: int = 60) -> list[tuple[int, int, int]]:
    chance = random.Random(seed)
    return [(chance.randint(1, 4), chance.randint(0, 300), NOW + chance.randint(-50, 50)) for _ in range(n)]


def entries(index: SegmentIndex) -> list[tuple[int, int]]:
    return [index.entry(i) for i in range(index.offset_count)]


def time_entries(index: SegmentIndex) -> list[tuple[int, int]]:
    return [index.time_entry(i) for i in range(index.time_count)]


@pytest.mark.parametrize("interval", [0, 1, 200, 512, 4096, 1 << 30])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sealed", [False, True])
def test_the_entries_are_those_of_kafkas_rule(interval: int, seed: int, sealed: bool) -> None:
    index, seen, _ = build(interval, some(seed))
    if sealed:
        index.seal()
        index.seal()  # a second time adds nothing
    expected = reference.index_bytes(*reference.index_entries(seen, BASE, interval, sealed))
    assert (index.offset_bytes(), index.time_bytes()) == expected
    assert len(expected[0]) == OFFSET_ENTRY_BYTES * index.offset_count
    assert len(expected[1]) == TIME_ENTRY_BYTES * index.time_count


def test_an_entry_needs_more_than_the_interval_and_comes_before_its_batch_is_counted() -> None:
    size = RecordSpans.from_records([(None, b"v", [], NOW)]).frame(NOW).size
    for interval, expected in ((2 * size, [3, 6, 9]), (2 * size - 1, [2, 4, 6, 8]), (0, [1, 2, 3, 4, 5, 6, 7, 8, 9])):
        index, _, _ = build(interval, [(1, 1, NOW)] * 10, base=0)
        assert [offset for offset, _ in entries(index)] == expected


def test_an_offset_entry_is_the_last_offset_of_a_batch_and_the_position_of_its_start() -> None:
    index, seen, _ = build(0, [(3, 10, NOW), (5, 10, NOW)])
    assert entries(index) == [(BASE + 7, seen[1].position)]


def test_time_entries_rise_in_both_fields_and_name_the_first_batch_that_holds_the_largest() -> None:
    times = [5, 9, 9, 7, 9, 12, 3, 12]
    index, _, _ = build(0, [(2, 10, NOW + time) for time in times], base=0)
    assert time_entries(index) == [(NOW + 9, 3), (NOW + 12, 11)]
    assert (index.max_timestamp, index.offset_of_max_timestamp) == (NOW + 12, 11)
    index.seal()
    assert index.time_count == 2


def test_a_seal_adds_the_largest_timestamp_when_no_entry_has_it() -> None:
    index, _, _ = build(1 << 30, [(1, 10, NOW), (1, 10, NOW + 5), (1, 10, NOW + 1)], base=0)
    assert time_entries(index) == []
    index.seal()
    assert time_entries(index) == [(NOW + 5, 1)]


def test_an_empty_index_knows_nothing() -> None:
    index = SegmentIndex(BASE, 0)
    index.seal()
    assert (index.offset_count, index.time_count, index.max_timestamp, index.offset_of_max_timestamp) == (0, 0, -1, -1)
    assert (index.floor(BASE), index.after_position(-1), index.time_floor(NOW)) == (None, None, None)
    assert (index.offset_bytes(), index.time_bytes()) == (b"", b"")
    for method in (index.entry, index.time_entry):
        for place in (-1, 0, 1):
            with pytest.raises(IndexError):
                method(place)


@pytest.mark.parametrize("seed", range(3))
def test_searches_agree_with_looking_at_every_entry(seed: int) -> None:
    index, seen, size = build(100, some(seed))
    index.seal()
    all_entries, all_times = entries(index), time_entries(index)
    assert len(all_entries) > 10
    for offset in range(BASE - 2, seen[-1].last_offset + 3):
        expected = [entry for entry in all_entries if entry[0] <= offset]
        assert index.floor(offset) == (expected[-1] if expected else None)
    for position in {-1, 0, size, *(p + d for _, p in all_entries for d in (-1, 0, 1))}:
        behind = [entry for entry in all_entries if entry[1] > position]
        assert index.after_position(position) == (behind[0] if behind else None)
    for timestamp in range(NOW - 55, NOW + 55):
        below = [entry for entry in all_times if entry[0] < timestamp]
        assert index.time_floor(timestamp) == (below[-1] if below else None)


def test_searches_far_outside_the_segment_do_not_overflow() -> None:
    index, _, _ = build(0, [(1, 10, NOW)] * 5)
    last = index.entry(index.offset_count - 1)
    assert index.floor(2**62) == last
    assert index.floor(0) is None
    assert index.after_position(2**40) is None
    assert index.time_floor(2**63 - 1) == index.time_entry(index.time_count - 1)


@pytest.mark.parametrize("seed", range(3))
def test_loaded_entries_are_those_that_were_saved_and_go_on_as_if_never_away(seed: int) -> None:
    batches = some(seed)
    whole, _, _ = build(300, batches)
    for kept in (0, 1, 7, 30, 59):
        half, seen, size = build(300, batches[:kept])
        again = SegmentIndex(BASE, 300)
        assert again.load(
            half.offset_bytes(), half.time_bytes(), size, half.max_timestamp, half.offset_of_max_timestamp
        )
        assert (entries(again), time_entries(again)) == (entries(half), time_entries(half))
        offset, position = (seen[-1].last_offset + 1 if seen else BASE), size
        for count, value_size, timestamp in batches[kept:]:
            batch = RecordSpans.from_records([(None, bytes(value_size), [], timestamp)] * count).frame(NOW)
            again.note_batch(batch, offset, position)
            offset, position = offset + count, position + batch.size
        assert (again.offset_bytes(), again.time_bytes()) == (whole.offset_bytes(), whole.time_bytes())


def test_bytes_from_an_entry_on_are_the_rest() -> None:
    index, _, _ = build(100, some(1))
    for first in (0, 1, index.offset_count - 1, index.offset_count, index.offset_count + 5):
        assert index.offset_bytes(first) == index.offset_bytes()[first * OFFSET_ENTRY_BYTES :]
    for first in (0, 1, index.time_count, index.time_count + 5):
        assert index.time_bytes(first) == index.time_bytes()[first * TIME_ENTRY_BYTES :]
    assert index.offset_bytes(-3) == index.offset_bytes()


def offsets_file(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">ii", *pair) for pair in pairs)


def times_file(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">qi", *pair) for pair in pairs)


@pytest.mark.parametrize(
    ("offsets", "times"),
    [
        (offsets_file((5, 100))[:-1], b""),
        (offsets_file((5, 100)) + b"\0", b""),
        (b"", times_file((NOW, 5))[:-4]),
        (b"", times_file((NOW, 5)) + bytes(8)),
        (offsets_file((5, 100), (5, 200)), b""),
        (offsets_file((5, 100), (4, 200)), b""),
        (offsets_file((5, 100), (6, 100)), b""),
        (offsets_file((5, 100), (6, 99)), b""),
        (offsets_file((5, 1000)), b""),  # at the end of the log: no batch can begin there
        (offsets_file((5, 5000)), b""),
        (offsets_file((5, -1)), b""),
        (offsets_file((-1, 5)), b""),
        (offsets_file((5, 100), (0, 0)), b""),  # zero-filled at the end
        (b"", times_file((NOW, 5), (NOW, 6))),
        (b"", times_file((NOW, 5), (NOW - 1, 6))),
        (b"", times_file((NOW, 5), (NOW + 1, 5))),
        (b"", times_file((NOW, 5), (NOW + 1, 4))),
        (b"", times_file((-1, 5))),
        (b"", times_file((NOW, -1))),
        (b"", times_file((NOW, 5), (0, 0))),
    ],
)
def test_files_that_cannot_be_right_are_refused(offsets: bytes, times: bytes) -> None:
    assert not SegmentIndex(BASE, 0).load(offsets, times, 1000)


def test_files_that_can_be_right_are_taken() -> None:
    index = SegmentIndex(BASE, 0)
    assert index.load(offsets_file((0, 0), (7, 999)), times_file((0, 0), (NOW, 7)), 1000)
    assert entries(index) == [(BASE, 0), (BASE + 7, 999)]
    assert time_entries(index) == [(0, BASE), (NOW, BASE + 7)]
    assert index.load(b"", b"", 0), "a second load takes the place of the first"
    assert (index.offset_count, index.time_count) == (0, 0)


def test_a_batch_without_a_timestamp_gets_no_time_entry() -> None:
    # Kafka's tools write -1 when they have none; the entries would not be believed when they are loaded.
    index = SegmentIndex(BASE, 0)
    files = [reference.encode([(None, b"v", [], -1)], BASE + n) for n in range(3)]
    assert time_entries(index_of(index, files)) == []


def index_of(index: SegmentIndex, files: list[bytes]) -> SegmentIndex:
    """Scan bytes as a segment into the index."""
    import tempfile
    from pathlib import Path

    from takhin._segment import SegmentFile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "0.log"
        path.write_bytes(b"".join(files))
        size = path.stat().st_size
        assert SegmentFile(str(path)).scan(0, size, index.base_offset, index=index)[:2] == (0, size)
    return index
