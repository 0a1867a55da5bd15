"""A segment's file: appended to, read, scanned, searched."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin._fastlog import BATCH_HEADER_BYTES, MAX_OFFSET, BatchInfo, RecordSpans
from takhin._segment import STATUS_TEXT, SegmentFile, SegmentIndex
from tests.reference import record_batch as reference

NOW = 1_700_000_000_000
OK, TORN, BAD_MAGIC, BAD_LENGTH, BAD_CRC, BAD_OFFSET = 0, -1, -2, -3, -4, -5

MakeFile = Callable[[bytes], SegmentFile]


@pytest.fixture
def make(tmp_path: Path) -> MakeFile:
    def make(data: bytes) -> SegmentFile:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
        path.write_bytes(data)
        return SegmentFile(str(path), writable=True)

    return make


def batch(count: int, base_offset: int, size: int = 20, **more: Any) -> bytes:
    return reference.encode(
        [(None, b"%d" % (base_offset + n) + bytes(size), [], NOW + base_offset + n) for n in range(count)],
        base_offset,
        **more,
    )


#: 3 records, 1, 2, 4: offsets 0 to 9.
PARTS = [batch(3, 0), batch(1, 3, 300), batch(2, 4), batch(4, 6)]
DATA = b"".join(PARTS)
STARTS = [0, len(PARTS[0]), len(PARTS[0] + PARTS[1]), len(DATA) - len(PARTS[3])]


def offsets_of(batches: Any) -> list[int]:
    return [record[0] for record in batches.records()]


# -- open, append, truncate ------------------------------------------------------------------


def test_a_new_file_must_not_be_there_and_an_old_one_must(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    with pytest.raises(FileNotFoundError):
        SegmentFile(str(path))
    file = SegmentFile(str(path), create=True)
    assert (file.path, file.size(), path.stat().st_mode & 0o777) == (str(path), 0, 0o640)
    with pytest.raises(FileExistsError):
        SegmentFile(str(path), create=True)
    assert not os.get_inheritable(file.fd)


def test_the_descriptor_is_closed_with_the_last_reference(make: MakeFile) -> None:
    file = make(b"")
    fd = file.fd
    del file
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF


def test_append_puts_a_batch_where_it_is_told(make: MakeFile) -> None:
    file = make(b"")
    first = RecordSpans.from_records([(None, b"a", [], NOW)]).frame(NOW)
    second = RecordSpans.from_records([(b"k", b"b" * 100_000, [], NOW)]).frame(NOW)
    file.append(first, 0, 7)
    file.append(second, first.size, 8)
    assert file.pread(0, 1 << 20) == first.tobytes(7) + second.tobytes(8)
    assert file.size() == first.size + second.size
    file.truncate(first.size)
    assert file.pread(0, 1 << 20) == first.tobytes(7)


MIB = 1 << 20


def blocks_bytes(file: SegmentFile) -> int:
    return os.fstat(file.fd).st_blocks * 512


def test_a_large_file_has_blocks_in_advance_and_gives_them_back(make: MakeFile) -> None:
    file = make(b"")
    framed = RecordSpans.from_records([(None, b"v" * MIB, [], NOW)]).frame(NOW)
    size = 0
    for n in range(40):
        file.append(framed, size, n)
        size += framed.size
        assert file.size() == size, "blocks in advance are behind the end"
        ahead = blocks_bytes(file) - size
        assert ahead <= 65536 if size < 8 * MIB else ahead <= size // 4 + 65536
    assert ahead > MIB
    before = file.pread(0, size)
    file.free_blocks()
    assert blocks_bytes(file) - size <= 65536
    assert file.size() == size
    assert file.pread(0, size) == before
    file.append(framed, size, 40)  # and goes on
    assert file.pread(size, framed.size) == framed.tobytes(40)
    assert blocks_bytes(file) - file.size() > MIB


def test_blocks_in_advance_are_bounded(make: MakeFile) -> None:
    file = make(b"")
    framed = RecordSpans.from_records([(None, b"v", [], NOW)]).frame(NOW)
    file.append(framed, 1 << 30, 0)
    assert MIB < blocks_bytes(file) <= 32 * MIB + 65536


def test_a_file_for_reading_refuses_writes(make: MakeFile) -> None:
    file = SegmentFile(make(DATA).path)
    framed = RecordSpans.from_records([(None, b"a", [], NOW)]).frame(NOW)
    with pytest.raises(OSError) as caught:
        file.append(framed, 0, 0)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == file.path
    with pytest.raises(OSError):
        file.truncate(0)
    file.flush()
    file.drop_cache()
    assert file.pread(0, 1 << 20) == DATA


# -- read ------------------------------------------------------------------------------------


def read(file: SegmentFile, **changes: Any) -> tuple[Any, int, int, int]:
    arguments: dict[str, Any] = {
        "position": 0,
        "limit": file.size(),
        "expected": 0,
        "next_offset": 0,
        "end_offset": MAX_OFFSET,
        "max_bytes": 1 << 20,
        **changes,
    }
    return file.read(**arguments)


def test_read_gives_all_batches_that_fit(make: MakeFile) -> None:
    file = make(DATA)
    batches, status, position, expected = read(file)
    assert (offsets_of(batches), status, position, expected) == (list(range(10)), OK, len(DATA), 10)
    assert batches.tobytes() == DATA
    assert read(file, position=len(DATA), expected=10) == (None, OK, len(DATA), 10)


def test_read_tells_the_size_of_the_batch_behind_when_it_has_seen_its_header(make: MakeFile) -> None:
    file = make(DATA)
    first, _, position, _ = read(file, max_bytes=1)
    [size] = {len(batch) for batch in (DATA[:position],)}
    second, _, after, _ = read(file, position=position, expected=first.records()[-1][0] + 1, max_bytes=1)
    following = after - position
    assert second is not None
    # A batch and the header behind it; then a byte less.
    assert read(file, max_bytes=size + BATCH_HEADER_BYTES)[0].following_bytes == following
    assert read(file, max_bytes=size + BATCH_HEADER_BYTES - 1)[0].following_bytes == 0
    assert read(file)[0].following_bytes == 0
    # One that is larger than what was asked for is read with the header behind it.
    assert first.following_bytes == following


@pytest.mark.parametrize("next_offset", range(10))
def test_batches_that_end_below_the_place_are_passed_over(make: MakeFile, next_offset: int) -> None:
    batches, *_ = read(make(DATA), next_offset=next_offset)
    assert batches.first_info().last_offset >= next_offset
    assert offsets_of(batches) == list(range(next_offset, 10))


@pytest.mark.parametrize("end_offset", range(11))
def test_nothing_from_the_end_on_is_given(make: MakeFile, end_offset: int) -> None:
    batches, status, position, expected = read(make(DATA), end_offset=end_offset)
    first_not_taken = [offset >= end_offset for offset in (0, 3, 4, 6, end_offset)].index(True)
    assert (status, position) == (OK, [*STARTS, len(DATA)][first_not_taken])
    assert expected == [0, 3, 4, 6, 10][first_not_taken]
    assert ([] if batches is None else offsets_of(batches)) == list(range(end_offset))


def test_at_least_one_whole_batch_is_given_and_more_only_while_they_fit(make: MakeFile) -> None:
    file = make(DATA)
    for limit in range(1, len(DATA) + 2):
        batches, status, position, expected = read(file, max_bytes=limit)
        ends = [start for start in STARTS[1:] + [len(DATA)] if start <= limit] or [STARTS[1]]
        assert (status, position, batches.tobytes()) == (OK, ends[-1], DATA[: ends[-1]]), limit
        following = [0, 3, 4, 6, 10][[*STARTS, len(DATA)].index(position)]
        assert expected == following
        rest, *_ = read(file, position=position, expected=expected, next_offset=expected)
        assert (offsets_of(rest) if rest is not None else []) == list(range(following, 10))


def test_a_batch_larger_than_asked_for_comes_whole_also_far_behind_the_place(make: MakeFile) -> None:
    large = batch(2, 10, 700_000)
    file = make(DATA + large)
    for max_bytes in (1, 100, 5000, 700_000):
        batches, status, position, expected = read(file, next_offset=11, max_bytes=max_bytes)
        assert (offsets_of(batches), status, position, expected) == ([11], OK, len(DATA + large), 12)


def test_the_limit_hides_what_lies_behind_it(make: MakeFile) -> None:
    file = make(DATA)
    batches, _, position, _ = read(file, limit=STARTS[2])
    assert (offsets_of(batches), position) == ([0, 1, 2, 3], STARTS[2])


def test_gaps_are_damage_where_offsets_are_dense_and_nothing_where_not(make: MakeFile) -> None:
    file = make(PARTS[0] + PARTS[2] + PARTS[3])
    batches, status, position, expected = read(file)
    assert (offsets_of(batches), position, expected) == ([0, 1, 2], STARTS[1], 3)
    assert read(file, position=position, expected=expected) == (None, BAD_OFFSET, STARTS[1], 3)
    batches, status, _, expected = read(file, dense=False)
    assert (offsets_of(batches), status, expected) == ([0, 1, 2, 4, 5, 6, 7, 8, 9], OK, 10)
    # Going back is damage for both.
    for dense in (True, False):
        assert read(file, position=STARTS[1], expected=5, dense=dense)[:2] == (None, BAD_OFFSET)
    # -1 takes whatever comes first.
    batches, *_ = read(file, position=STARTS[1], expected=-1)
    assert offsets_of(batches) == [4, 5, 6, 7, 8, 9]


def damaged(position: int, byte: int) -> bytes:
    data = bytearray(DATA)
    data[position] = byte
    return bytes(data)


@pytest.mark.parametrize(
    ("place", "byte", "status"),
    [
        (16, 1, BAD_MAGIC),
        (16, 3, BAD_MAGIC),
        (8, 0x80, BAD_LENGTH),  # negative
        (11, 0, None),  # shorter: the sum does not fit, or no batch is so short
        (9, 1, TORN),  # past the end of the file
        (0, 0x80, BAD_LENGTH),  # negative offset
        (7, 9, BAD_OFFSET),
        (20, 7, BAD_CRC),
        (26, 9, BAD_CRC),
        (70, 0xFF, BAD_CRC),
    ],
)
def test_damage_has_a_status_and_a_place(make: MakeFile, place: int, byte: int, status: int | None) -> None:
    file = make(damaged(STARTS[1] + place, byte))
    batches, found, position, expected = read(file)
    assert (offsets_of(batches), found, position, expected) == ([0, 1, 2], OK, STARTS[1], 3)
    batches, found, position, expected = read(file, position=position, expected=expected)
    assert (batches, position, expected) == (None, STARTS[1], 3)
    assert found == status if status is not None else found < 0
    assert found in STATUS_TEXT
    assert file.scan(0, len(DATA), 0) == (found, STARTS[1], 3)


def test_a_file_that_is_shorter_than_it_should_be_ends_in_a_torn_batch(make: MakeFile) -> None:
    file = make(DATA)
    for size in range(STARTS[2] - 1, STARTS[1], -1):
        file.truncate(size)
        for limit in (len(DATA), size):
            assert read(file, limit=limit, position=STARTS[1], expected=3) == (None, TORN, STARTS[1], 3)
            batches, *_ = read(file, limit=limit)
            assert offsets_of(batches) == [0, 1, 2]


def test_a_file_cut_between_two_batches_is_short_too(make: MakeFile) -> None:
    file = make(DATA[: STARTS[2]])
    assert read(file, limit=len(DATA), position=STARTS[2], expected=4) == (None, TORN, STARTS[2], 4)
    assert read(file, limit=STARTS[2], position=STARTS[2], expected=4) == (None, OK, STARTS[2], 4)


# -- scan, check, candidates -----------------------------------------------------------------


def test_scan_checks_everything_and_fills_the_index(make: MakeFile) -> None:
    index = SegmentIndex(0, 0)
    seen: list[int] = []
    assert make(DATA).scan(0, len(DATA), 0, index=index, progress=seen.append) == (OK, len(DATA), 10)
    assert [index.entry(i) for i in range(index.offset_count)] == [(3, STARTS[1]), (5, STARTS[2]), (9, STARTS[3])]
    assert seen[-1] == len(DATA)


def test_scan_reads_on_over_the_edges_of_its_buffer(make: MakeFile) -> None:
    chance = random.Random(5)
    parts, offset = [], 0
    for size in (10, 900_000, 140_000, 20, 3_000_000, 5, 1 << 20, 61, 100_000, 7):
        parts.append(batch(1, offset, size))
        offset += 1
    for n in range(400):
        parts.append(batch(1, offset + n, chance.randrange(8000)))
    data = b"".join(parts)
    index, expected = SegmentIndex(0, 0), []
    position = 0
    for n, part in enumerate(parts):
        expected.append((n, position))
        position += len(part)
    file = make(data)
    assert file.scan(0, len(data), 0, index=index) == (OK, len(data), len(parts))
    assert [index.entry(i) for i in range(index.offset_count)] == expected[1:]


def test_scan_ends_where_a_file_ends_that_is_shorter_than_it_should_be(make: MakeFile) -> None:
    for size in range(STARTS[1], STARTS[2]):
        file = make(DATA[:size])
        expected = (OK if size == STARTS[1] else TORN, STARTS[1], 3)
        assert file.scan(0, len(DATA), 0) == expected, size
        assert file.scan(0, size, 0) == expected, size


def test_scan_tells_of_the_batches_of_idempotent_producers(make: MakeFile) -> None:
    mine = batch(2, 10, producer_id=7, producer_epoch=3, base_sequence=40)
    found: list[BatchInfo] = []
    file = make(DATA + mine + batch(1, 12))
    assert file.scan(0, file.size(), 0, producers=found) == (OK, file.size(), 13)
    (info,) = found
    assert (info.position, info.size, info.base_offset, info.last_offset) == (len(DATA), len(mine), 10, 11)
    assert (info.producer_id, info.producer_epoch, info.base_sequence) == (7, 3, 40)


def test_scan_passes_on_what_its_progress_raises(make: MakeFile) -> None:
    def stop(position: int) -> None:
        raise RuntimeError(str(position))

    with pytest.raises(RuntimeError):
        make(DATA).scan(0, len(DATA), 0, progress=stop)


def test_check_believes_only_a_whole_batch(make: MakeFile) -> None:
    file = make(DATA)
    for start, offset in zip(STARTS, [0, 3, 4, 6], strict=True):
        info = file.check(start, len(DATA))
        assert info is not None
        assert (info.position, info.base_offset, info.crc_ok) == (start, offset, True)
    assert file.check(1, len(DATA)) is None
    assert file.check(STARTS[3], len(DATA) - 1) is None
    assert file.check(len(DATA), len(DATA)) is None
    assert make(damaged(STARTS[1] + 70, 0xFF)).check(STARTS[1], len(DATA)) is None
    head = make(damaged(STARTS[1] + 70, 0xFF)).head(STARTS[1], len(DATA))
    assert head is not None
    assert (head.base_offset, head.size, head.crc_ok) == (3, len(PARTS[1]), False)
    assert file.head(len(DATA) - 60, len(DATA)) is None


def test_candidates_are_where_a_batch_may_begin_within_the_bounds(make: MakeFile) -> None:
    file = make(DATA)
    end = len(DATA)
    found = file.candidates(0, end, end, 0, 9)
    assert set(STARTS) <= set(found)
    assert file.candidates(1, STARTS[3], end, 4, 9) == [STARTS[2]]
    assert file.candidates(STARTS[3], STARTS[3] + 1, end, 0, 9) == [STARTS[3]]
    assert file.candidates(STARTS[3] + 1, end, end, 0, 9) == []
    assert file.candidates(0, end, end, 4, 5) == [STARTS[2]]
    assert file.candidates(0, end, end - 1, 6, 9) == [], "it must end by the limit"
