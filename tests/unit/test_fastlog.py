"""Record batches in memory: checksums, hashes, framing and walking, by example."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from takhin._fastlog import Batches, RecordSpans, batch_info, crc32c, crc32c_backends, murmur2
from takhin.errors import DataLoss, InvalidArgument, InvalidTimestamp, RecordTooLarge
from tests.reference import record_batch as reference

NOW = 1_700_000_000_000


def batch(*values: bytes | None, base_offset: int = 0, timestamp: int = NOW) -> bytes:
    return reference.encode([(None, value, [], timestamp) for value in values], base_offset)


def values(batches: Batches) -> list[tuple[int, bytes | None]]:
    return [(record[0], record[3]) for record in batches.records()]


# -- sums and hashes -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", crc32c_backends())
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the rest: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_published_sums(data: bytes, expected: int, backend: str) -> None:
    assert crc32c(data, backend=backend) == expected
    assert reference.crc32c(data) == expected


def test_crc32c_by_every_backend_and_in_python_agree_on_every_size() -> None:
    data = random.Random(1).randbytes(1601)
    running = 0
    for size in range(1601):
        assert [crc32c(data[:size], backend=backend) for backend in crc32c_backends()] == expected(running)
        running = reference.crc32c(data[size : size + 1], running)


@pytest.mark.parametrize("size", [767, 768, 769, 1279, 1280, 1281, 4096, 12287, 12288, 12289, 12288 + 768 + 9, 100_003])
def test_crc32c_agrees_on_large_blocks_and_may_be_split_anywhere(size: int) -> None:
    chance = random.Random(size)
    data = chance.randbytes(size)
    whole = reference.crc32c(data)
    assert crc32c(data) == whole
    assert [crc32c(data, backend=backend) for backend in crc32c_backends()] == expected(whole)
    for split in (0, 1, 7, size // 3, size - 1, size, *(chance.randrange(size) for _ in range(20))):
        for first, second in itertools.product(crc32c_backends(), repeat=2):
            assert crc32c(data[split:], crc32c(data[:split], backend=first), backend=second) == whole


def expected(crc: int) -> list[int]:
    return [crc] * len(crc32c_backends())


def test_crc32c_takes_any_buffer_at_any_alignment() -> None:
    data = random.Random(2).randbytes(3000)
    for shift in range(9):
        assert crc32c(memoryview(data)[shift:]) == crc32c(bytearray(data[shift:])) == reference.crc32c(data[shift:])


def test_a_backend_that_is_not_there_is_refused() -> None:
    assert crc32c_backends()[0] == "table"
    with pytest.raises(ValueError, match="not in tuple"):
        crc32c(b"", backend="guesswork")


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # Kafka's own test of its partitioner hash
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def test_murmur2_takes_every_length_of_tail() -> None:
    from kafka.partitioner.default import murmur2 as kafkas

    for size in range(40):
        key = random.Random(size).randbytes(size)
        assert murmur2(key) == kafkas(key) & 0xFFFFFFFF


# -- framing ---------------------------------------------------------------------------------


def test_a_batch_needs_a_record() -> None:
    with pytest.raises(InvalidArgument):
        RecordSpans.from_records([]).frame(NOW)


def test_a_negative_timestamp_is_refused_and_named() -> None:
    with pytest.raises(InvalidTimestamp) as caught:
        RecordSpans.from_records([(None, b"", [], NOW), (None, b"", [], -1)]).frame(NOW)
    assert caught.value.fields["timestamp"] == "-1"


def test_a_timestamp_of_zero_is_the_servers_clock() -> None:
    framed = RecordSpans.from_records([(None, b"a", [], 0), (None, b"b", [], NOW - 5)]).frame(NOW)
    assert [record[1] for record in Batches(framed.tobytes()).records()] == [NOW, NOW - 5]
    assert framed.max_timestamp == NOW


def test_log_append_time_is_the_time_of_all_records() -> None:
    framed = RecordSpans.from_records([(None, b"a", [], 5), (None, b"b", [], NOW + 9)]).frame(NOW, log_append_time=True)
    assert [record[1] for record in Batches(framed.tobytes()).records()] == [NOW, NOW]
    assert framed.max_timestamp == NOW


def test_the_limit_counts_every_byte_of_the_batch() -> None:
    records = [(b"k", b"v" * 100, [("h", b"x")], NOW)]
    size = RecordSpans.from_records(records).frame(NOW).size
    assert RecordSpans.from_records(records).frame(NOW, max_bytes=size).size == size
    with pytest.raises(RecordTooLarge) as caught:
        RecordSpans.from_records(records).frame(NOW, max_bytes=size - 1)
    assert caught.value.fields == {"size_bytes": str(size), "limit_bytes": str(size - 1)}


def test_a_large_batch_is_framed_like_a_small_one() -> None:
    content = [(b"%d" % n, random.Random(n).randbytes(n * 40), [], NOW + n) for n in range(100)]
    framed = RecordSpans.from_records(content).frame(NOW)
    assert framed.size > 100_000
    assert framed.tobytes(7) == reference.encode(content, 7)


def test_the_base_offset_is_not_part_of_the_sum() -> None:
    framed = RecordSpans.from_records([(None, b"a", [], NOW)]).frame(NOW)
    for base_offset in (0, 1, 2**40, 2**62):
        info = batch_info(framed.tobytes(base_offset))
        assert info is not None
        assert (info.base_offset, info.last_offset, info.crc_ok) == (base_offset, base_offset, True)


def test_the_first_key_is_a_copy_and_null_is_none() -> None:
    assert RecordSpans.from_records([(b"k", None, [], 0), (b"l", None, [], 0)]).first_key() == b"k"
    assert RecordSpans.from_records([(b"", None, [], 0)]).first_key() == b""
    assert RecordSpans.from_records([(None, None, [], 0)]).first_key() is None
    assert RecordSpans.from_records([]).first_key() is None


# -- walking ---------------------------------------------------------------------------------


def test_every_flip_of_a_byte_is_seen_unless_it_lies_before_the_sum() -> None:
    good = batch(b"a", b"bc")
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        info = batch_info(bytes(bad))
        assert info is not None
        spared = position < 8 or 12 <= position < 16  # base offset, leader epoch
        assert info.crc_ok == spared, position


def test_a_batch_that_is_cut_is_not_whole() -> None:
    good = batch(b"a", b"bc")
    for size in range(len(good)):
        info = batch_info(good[:size])
        assert info is None if size < reference.HEADER_BYTES else not info.crc_ok
    assert batch_info(good, -1) is None
    assert batch_info(good, len(good)) is None


def test_a_walk_begins_and_ends_at_any_offset() -> None:
    data = batch(b"0", b"1", b"2") + batch(b"3", base_offset=3) + batch(b"4", b"5", base_offset=4)
    for begin in range(8):
        for end in range(8):
            expected = [(n, b"%d" % n) for n in range(begin, min(end, 6))]
            batches = Batches(data, begin, end)
            assert values(batches) == expected
            assert values(batches) == [], "the place has moved to the end"


def test_a_walk_goes_on_where_a_search_by_time_ended() -> None:
    content = [(None, b"%d" % n, [], NOW + 10 * n) for n in range(6)]
    batches = Batches(reference.encode(content[:3]) + reference.encode(content[3:], 3))
    assert batches.find_time(NOW + 15) == (2, NOW + 20)
    assert batches.next_offset == 3
    assert batches.find_time(NOW) == (3, NOW + 30)
    assert values(batches) == [(4, b"4"), (5, b"5")]
    assert batches.find_time(NOW) is None


def test_gaps_that_compaction_left_are_passed_over() -> None:
    content = [(None, b"%d" % n, [], NOW) for n in (1, 4)]
    data = reference.encode(content, 10, offset_deltas=[1, 4], last_offset_delta=6) + batch(b"x", base_offset=17)
    for begin, expected in ((0, [11, 14, 17]), (12, [14, 17]), (15, [17]), (17, [17]), (18, [])):
        assert [offset for offset, _ in values(Batches(data, begin))] == expected


def test_an_empty_batch_that_compaction_left_is_passed_over() -> None:
    empty = bytearray(batch(b"x", base_offset=3))[: reference.HEADER_BYTES]
    struct.pack_into(">i", empty, 8, reference.HEADER_BYTES - 12)
    struct.pack_into(">i", empty, 57, 0)
    struct.pack_into(">I", empty, 17, reference.crc32c(bytes(empty[21:])))
    data = batch(b"a", base_offset=2) + bytes(empty) + batch(b"b", base_offset=4)
    assert values(Batches(data)) == [(2, b"a"), (4, b"b")]


def test_control_batches_are_not_for_consumers() -> None:
    marker = reference.encode([(b"\0\0\0\1", b"\0\0\0\0\0\0", [], NOW)], 1, attributes=reference.CONTROL | 0x10)
    data = batch(b"a") + marker + batch(b"b", base_offset=2)
    assert values(Batches(data)) == [(0, b"a"), (2, b"b")]


def test_compressed_batches_are_damage_here_and_not_garbage() -> None:
    data = reference.encode([(None, b"a", [], NOW)], attributes=1)
    with pytest.raises(DataLoss):
        Batches(data).records()


def test_records_that_do_not_add_up_are_data_loss_and_those_before_are_still_to_be_had() -> None:
    second = bytearray(batch(b"abc", base_offset=1))
    second[reference.HEADER_BYTES] = 126  # a record of 63 bytes
    batches = Batches(batch(b"a") + bytes(second))
    with pytest.raises(DataLoss) as caught:
        batches.records()
    assert caught.value.fields["first_offset"] == "1"
    assert values(Batches(batch(b"a") + bytes(second), 0, 1)) == [(0, b"a")]


def raw_batch(*records: bytes, **header: int) -> bytes:
    """A batch whose sum fits, of records as bytes (without their lengths), with fields of the header changed."""
    body = b"".join(reference.varint(len(record)) + record for record in records)
    data = bytearray(batch(*[b""] * len(records))[: reference.HEADER_BYTES] + body)
    struct.pack_into(">i", data, 8, len(data) - 12)
    for name, value in header.items():
        struct.pack_into(">i", data, {"last_offset_delta": 23, "record_count": 57}[name], value)
    struct.pack_into(">I", data, 17, reference.crc32c(bytes(data[21:])))
    return bytes(data)


def v(*numbers: int) -> bytes:
    return b"".join(map(reference.varint, numbers))


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\0",
        b"\0" + v(0),
        b"\0" + v(0, 1),
        b"\0" + v(0, 1, 3) + b"ke",  # a key that goes on past its record
        b"\0" + v(0, 1, -2, -1, 0),
        b"\0" + v(0, 1, -1, 1),
        b"\0" + v(0, 1, -1, 3) + b"va",
        b"\0" + v(0, 1, -1, -2, 0),
        b"\0" + v(0, 1, -1, -1),
        b"\0" + v(0, 1, -1, -1, -1),
        b"\0" + v(0, 1, -1, -1, 1),  # a header that is not there
        b"\0" + v(0, 1, -1, -1, 2, 1) + b"h" + v(-1),
        b"\0" + v(0, 1, -1, -1, 1, -1, -1),  # without a key
        b"\0" + v(0, 1, -1, -1, 1, 2) + b"h",
        b"\0" + v(0, 1, -1, -1, 1, 1) + b"h" + v(2) + b"x",
        b"\0" + v(0, -1, -1, -1, 0),  # an offset below the batch's
        b"\0" + b"\x80" * 11,
    ],
)
def test_a_record_never_reaches_past_its_end(record: bytes) -> None:
    data = raw_batch(b"\0" + v(0, 0, -1, 2) + b"ok" + v(0), record, b"\0" + v(0, 2, -1, 60) + b"x" * 60 + v(0))
    info = batch_info(data)
    assert info is not None
    assert info.crc_ok
    with pytest.raises(DataLoss):
        Batches(data).records()
    last = raw_batch(b"\0" + v(0, 0, -1, 2) + b"ok" + v(0), record)
    with pytest.raises(DataLoss):
        Batches(last).records()


@pytest.mark.parametrize("header", [{"last_offset_delta": -1}, {"record_count": -1}, {"record_count": -(2**31)}])
def test_a_batch_with_an_impossible_count_is_not_whole_whatever_its_sum(header: dict[str, int]) -> None:
    good = b"\0" + v(0, 0, -1, 2) + b"ok" + v(0)
    assert getattr(batch_info(raw_batch(good)), "crc_ok", None)
    info = batch_info(raw_batch(good, **header))
    assert info is not None
    assert not info.crc_ok


def test_first_info_is_the_first_batchs_header() -> None:
    data = reference.encode(
        [(b"k", b"v", [], NOW)], 5, leader_epoch=3, producer_id=9, producer_epoch=2, base_sequence=7
    )
    info = Batches(data).first_info()
    assert info == batch_info(data)
    assert (info.base_offset, info.leader_epoch, info.magic, info.size) == (5, 3, 2, len(data))
    assert (info.producer_id, info.producer_epoch, info.base_sequence, info.record_count) == (9, 2, 7, 1)
    with pytest.raises(IndexError):
        Batches().first_info()
