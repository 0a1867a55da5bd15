"""``_wire.ConsumeResponse``: one message of several chunks, and the quick way through plain records."""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc

import pytest

from takhin import _wire
from takhin._fastlog import Batches, RecordSpans
from takhin.errors import DataLoss
from takhin.v1 import takhin_pb2 as pb

NOW = 1_700_000_000_000
Record = tuple[bytes | None, bytes | None, list[tuple[str | bytes, bytes | None]], int]


def batch(records: list[Record], base_offset: int = 0, *, log_append_time: bool = False) -> bytes:
    return RecordSpans.from_records(records).frame(NOW, log_append_time=log_append_time).tobytes(base_offset)


def values(count: int, size: int = 10) -> list[Record]:
    return [(None, b"%d" % n * size, [], NOW) for n in range(count)]


def expected(records: list[Record], base_offset: int, partition: int = 0) -> list[pb.Record]:
    return [
        pb.Record(
            key=key,
            value=value,
            headers=[pb.RecordHeader(key=str(name), value=content or b"") for name, content in headers],
            timestamp=timestamp,
            offset=base_offset + n,
            partition=partition,
        )
        for n, (key, value, headers, timestamp) in enumerate(records)
    ]


def respond(*chunks: Batches, max_bytes: int = 1 << 20, max_records: int = 0) -> tuple[list[bool], list[int]]:
    """What each ``add`` gave, and the offsets in the message."""
    response = _wire.ConsumeResponse(b"t", 0, 99, max_bytes, max_records)
    added = [response.add(chunk) for chunk in chunks]
    message = pb.ConsumeMessagesResponse.FromString(response.finish(99, 0))
    assert response.count == len(message.records)
    return added, [record.offset for record in message.records]


@pytest.mark.parametrize("size", [1, 5000])
def test_chunks_follow_each_other_in_one_message(size: int) -> None:
    contents = [values(50, size), [(b"k", None, [("h", b"x")], NOW + 1)], values(40, size)]
    response = _wire.ConsumeResponse("tö".encode(), 3, 0, 1 << 30, 0)
    offset, records = 0, []
    for content in contents:
        assert response.add(Batches(batch(content, offset)))
        records += expected(content, offset, 3)
        offset += len(content)
    wanted = pb.ConsumeMessagesResponse(topic="tö", partition=3, high_watermark=91, log_start_offset=7, records=records)
    # The watermark takes a byte more than was thought.
    assert response.finish(91, 7) == wanted.SerializeToString(deterministic=True)


@pytest.mark.parametrize("before", [0, 1, 2**40, -1])
@pytest.mark.parametrize("at_end", [0, 1, 300, 2**62, -1])
def test_the_watermark_may_be_any_at_the_end(before: int, at_end: int) -> None:
    content = values(9)
    for with_records in (True, False):
        response = _wire.ConsumeResponse(b"t", 1, before, 1 << 20, 0)
        if with_records:
            response.add(Batches(batch(content)))
        wanted = pb.ConsumeMessagesResponse(
            topic="t", partition=1, high_watermark=at_end, records=expected(content, 0, 1) if with_records else []
        )
        assert response.finish(at_end, 0) == wanted.SerializeToString(deterministic=True)


def test_a_full_response_says_so_and_leaves_the_rest_of_the_chunk() -> None:
    content: list[Record] = [(None, b"x" * 1000, [], NOW)] * 10
    each = pb.ConsumeMessagesResponse(records=expected(content, 10)[:1]).ByteSize()
    chunks = [Batches(batch(content, base)) for base in (10, 20, 30)]
    assert respond(*chunks[:2], max_bytes=15 * each) == ([True, False], list(range(10, 25)))
    assert chunks[1].next_offset == 25
    # The last record fills it to the byte: no room is left.
    assert respond(*chunks[1:], max_bytes=15 * each) == ([True, False], list(range(25, 40)))


def test_the_number_of_records_is_bounded_over_all_chunks() -> None:
    chunks = [Batches(batch(values(10), base)) for base in (0, 10, 20)]
    assert respond(*chunks[:2], max_records=20) == ([True, False], list(range(20)))
    assert respond(chunks[2], max_records=3) == ([False], [20, 21, 22])
    assert chunks[2].next_offset == 23


def test_the_first_record_is_taken_however_large_and_only_the_first() -> None:
    large, small = Batches(batch(values(1, 3_000_000))), Batches(batch(values(1), 1))
    assert respond(Batches(), large, max_bytes=100) == ([True, False], [0])
    assert respond(small, Batches(batch(values(1, 3_000_000), 2)), max_bytes=100) == ([True, False], [1])


def test_records_before_a_loss_go_out_first_whichever_chunk_they_are_in() -> None:
    broken = bytearray(batch([*values(7), (None, b"LAST", [], NOW)], 5))
    broken[broken.rindex(b"LAST") - 6] = 0x7E
    chunk = Batches(bytes(broken))
    assert respond(Batches(batch(values(5))), chunk) == ([True, False], list(range(12)))
    for _ in range(2):
        with pytest.raises(DataLoss) as caught:
            respond(Batches(), chunk)
        assert caught.value.fields == {"first_offset": "12", "last_offset": "12"}


def test_a_finished_response_takes_nothing_more() -> None:
    response = _wire.ConsumeResponse(b"t", 0, 0, 100, 0)
    response.finish(0, 0)
    with pytest.raises(ValueError, match="finished"):
        response.add(Batches())
    with pytest.raises(ValueError, match="finished"):
        response.finish(0, 0)


def test_a_response_is_opened_once() -> None:
    with pytest.raises(ValueError, match="open"):
        _wire.ConsumeResponse(b"t", 0, 0, 100, 0).__init__(b"u", 0, 0, 100, 0)  # type: ignore[misc]
    unopened = _wire.ConsumeResponse.__new__(_wire.ConsumeResponse)
    with pytest.raises(ValueError, match="finished"):
        unopened.finish(0, 0)
    with pytest.raises(TypeError):
        _wire.ConsumeResponse("t", 0, 0, 100, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _wire.ConsumeResponse(b"t", 0, 0, 100, 0).add(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("spare", [0, 1, 100, 5000, 60_000])
def test_a_message_that_has_memory_to_spare_is_as_any_other(spare: int) -> None:
    content: list[Record] = [(None, b"x" * 50_000, [], NOW)]
    response = _wire.ConsumeResponse(b"t", 0, 1, 50_100 + spare, 0)
    response.add(Batches(batch(content)))
    message = response.finish(1, 0)
    wanted = pb.ConsumeMessagesResponse(topic="t", high_watermark=1, records=expected(content, 0))
    assert message == wanted.SerializeToString(deterministic=True)
    assert hash(message) == hash(bytes(bytearray(message)))
    assert message + b"." == b"".join([message, b"."])
    assert sys.getsizeof(message) == sys.getsizeof(b"") + len(message)


@pytest.mark.parametrize(("spare", "kept"), [(5000, True), (60_000, False)])
def test_memory_behind_a_message_is_kept_up_to_an_eighth_of_it(spare: int, kept: bool) -> None:
    tracemalloc.start()
    try:
        response = _wire.ConsumeResponse(b"t", 0, 1, 50_100 + spare, 0)
        response.add(Batches(batch([(None, b"x" * 50_000, [], NOW)])))
        before = tracemalloc.get_traced_memory()[0]
        message = response.finish(1, 0)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert before > len(message) + min(spare, 50_000)
    # Some small objects come and go besides.
    assert after > before - 1000 if kept else after < len(message) + 1000


# -- plain records ------------------------------------------------------------------------------

SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 126, 127, 128, 255, 256, 257, 8191, 8192, 16383, 16384, 70_000]


@pytest.mark.parametrize("partition", [0, 1, 127, 128, 2**31 - 1, -1])
def test_lengths_of_every_kind_are_written_as_google_protobuf_does(partition: int) -> None:
    blobs: list[bytes | None] = [None, *(bytes([size % 251]) * size for size in SIZES)]
    content: list[Record] = [(key, value, [], NOW) for value in blobs for key in blobs[:12]]
    response = _wire.ConsumeResponse(b"", partition, 0, 1 << 30, 0)
    response.add(Batches(batch(content, 3)))
    wanted = pb.ConsumeMessagesResponse(partition=partition, records=expected(content, 3, partition))
    assert response.finish(0, 0) == wanted.SerializeToString(deterministic=True)


@pytest.mark.parametrize("bits", range(1, 63))
def test_offsets_and_timestamps_of_every_size(bits: int) -> None:
    for base in (max(2**bits - 3, 0), 2**bits - 1, 2**bits):
        content: list[Record] = [(None, b"v%d" % n, [], max(base - 8 + n // 2, 1)) for n in range(16)]
        response = _wire.ConsumeResponse(b"", 5, 0, 1 << 20, 0)
        response.add(Batches(batch(content, base)))
        wanted = pb.ConsumeMessagesResponse(partition=5, records=expected(content, base, 5))
        assert response.finish(0, 0) == wanted.SerializeToString(deterministic=True)


@pytest.mark.parametrize("timestamp", [0, -1, -(2**62), 5])
@pytest.mark.parametrize("append_time", [False, True])
def test_base_timestamps_that_are_not_positive(timestamp: int, append_time: bool) -> None:
    data = bytearray(batch([(None, b"v", [], NOW + n) for n in range(12)], 0, log_append_time=append_time))
    data[27:35] = struct.pack(">q", timestamp)
    response = _wire.ConsumeResponse(b"", 0, 0, 1 << 20, 0)
    response.add(Batches(bytes(data)))
    found = pb.ConsumeMessagesResponse.FromString(response.finish(0, 0)).records
    assert [record.timestamp for record in found] == [NOW if append_time else timestamp + n for n in range(12)]


@pytest.mark.parametrize("max_bytes", [*range(0, 400, 7), 1000, 1001, 1002, 1003])
def test_records_end_at_the_bound_to_the_byte(max_bytes: int) -> None:
    content = [(None, b"x" * (n % 40), [], NOW) for n in range(60)]
    sizes = [pb.ConsumeMessagesResponse(records=[record]).ByteSize() for record in expected(content, 0)]
    fitting = max(1, sum(sum(sizes[: n + 1]) <= max_bytes for n in range(60)))
    assert respond(Batches(batch(content)), max_bytes=max_bytes)[1] == list(range(fitting))


def test_bytes_that_are_damaged_give_the_records_before_or_a_loss() -> None:
    chance = random.Random(5)
    content: list[Record] = [(b"k" if n % 5 == 0 else None, b"v" * (n % 50), [], NOW + n % 3) for n in range(40)]
    content[20] = (None, b"w", [("h", b"x")], NOW)
    original = batch(content, 100)
    for _ in range(4000):
        data = bytearray(original)
        for _ in range(chance.choice([1, 1, 2])):
            data[chance.randrange(61, len(data))] = chance.choice([0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        # Record by record, which never goes the quick way.
        slow, quick = Batches(bytes(data)), Batches(bytes(data))
        assert read_through(quick, 0) == read_through(slow, 1)
        assert quick.next_offset == slow.next_offset


# -- records that are alike ---------------------------------------------------------------------

BYTES = bytes(range(256)) * 40


def alike(count: int, key: int | None, size: int, timestamp: int = NOW) -> list[Record]:
    """Of the same lengths, each with its own bytes."""
    return [
        (None if key is None else BYTES[-n % 256 :][:key], BYTES[n % 256 :][:size], [], timestamp) for n in range(count)
    ]


def in_one_message(content: list[Record], base_offset: int, partition: int = 0) -> None:
    response = _wire.ConsumeResponse(b"", partition, 0, 1 << 30, 0)
    assert response.add(Batches(batch(content, base_offset)))
    wanted = pb.ConsumeMessagesResponse(partition=partition, records=expected(content, base_offset, partition))
    assert response.finish(0, 0) == wanted.SerializeToString(deterministic=True)


@pytest.mark.parametrize("key", [None, 0, 1, 8, 127, 128])
@pytest.mark.parametrize("size", [0, 1, 31, 100, 127, 128, 256, 257, 9000])
def test_records_that_are_alike_are_written_as_google_protobuf_does(key: int | None, size: int) -> None:
    content = alike(150, key, size)
    for base_offset in (0, 1, 100, 2**14 - 70, 2**21 - 3, 2**31, 2**49 - 75):
        in_one_message(content, base_offset, base_offset & 1)


def test_records_that_are_alike_in_a_batch_with_numbers_of_each_size() -> None:
    in_one_message([*alike(1, None, 3, NOW - 20_000), *alike(20_000, None, 3)], 16_000, 300)


KINDS: list[Record] = [
    (b"kkkk", b"v" * 10, [], NOW),
    (None, b"v" * 14, [], NOW),
    (b"", b"v" * 14, [], NOW),
    (b"k" * 14, None, [], NOW),
    (b"k" * 5, b"v" * 9, [], NOW),
    (b"k" * 14, b"", [], NOW),
    (b"kkkk", b"v" * 6, [("h", b"x")], NOW),
    (None, b"v" * 10, [("h", b"x")], NOW),
    (None, b"v" * 14, [], NOW + 1),
    (None, b"v" * 14, [], NOW - 1),
    (None, b"v" * 13, [], NOW + 64),
    (None, b"v" * 15, [], NOW),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_differs_among_others_that_are_as_long(kind: Record) -> None:
    for others in KINDS:
        for place in (1, 2, 3, 4, 5, 9, 62, 63, 64, 65, 66, 69):
            content = [others] * 70
            content[place : place + place % 3 + 1] = [kind] * (place % 3 + 1)
            in_one_message(content, 0)


def test_a_bound_among_records_that_are_alike_holds_to_the_byte() -> None:
    content = alike(140, 2, 5)
    size = pb.ConsumeMessagesResponse(records=expected(content[:1], 200)).ByteSize()
    data = batch(content, 200) + batch(content, 340)
    for max_bytes in range(size, 280 * size + 10, 5):
        assert respond(Batches(data), max_bytes=max_bytes)[1] == list(range(200, 200 + min(max_bytes // size, 280)))
    for max_records in range(1, 290):
        found = respond(Batches(data), max_records=max_records)[1]
        assert found == list(range(200, 200 + min(max_records, 280)))


@pytest.mark.parametrize("content", [alike(30, None, 9), alike(30, 3, 7), alike(150, None, 70, NOW + 20_000)])
def test_damage_among_records_that_are_alike_gives_the_records_before_or_a_loss(content: list[Record]) -> None:
    original = batch([(b"k", b"v", [], NOW), *content], 100)
    for place in range(61, len(original), len(original) // 700 + 1):
        for change in (1, 2, 4, 8, 0x80, original[place]):
            data = bytearray(original)
            data[place] ^= change
            slow, quick = Batches(bytes(data)), Batches(bytes(data))
            assert read_through(quick, 0) == read_through(slow, 1)
            assert quick.next_offset == slow.next_offset


@pytest.mark.parametrize("key", [None, 4])
def test_records_that_are_alike_end_with_their_batch(key: int | None) -> None:
    original = batch(alike(50, key, 20))
    stored = (len(original) - 61) // 50
    for missing in range(stored, 20 * stored):
        data = bytearray(original)
        # The batch says that it ends before its last records.
        data[8:12] = struct.pack(">i", len(original) - 12 - missing)
        slow, quick = Batches(bytes(data)), Batches(bytes(data))
        assert read_through(quick, 0) == read_through(slow, 1)


def test_an_offset_that_outgrows_its_bytes_is_read_as_it_stands() -> None:
    content = alike(70, None, 20)
    content[64] = (None, b"v" * 19, [], NOW)
    data = bytearray(batch(content))
    stored = 1 + data[61] // 2
    at = 61 + 64 * stored
    # One more than the 126 that is twice 63, in a single byte: the bit says that another byte follows.
    data[at : at + stored] = data[at - stored : at]
    assert data[at + 3] == 126
    data[at + 3] = 128
    slow, quick = Batches(bytes(data)), Batches(bytes(data))
    assert read_through(quick, 0) == read_through(slow, 1)


def read_through(batches: Batches, max_records: int) -> tuple[bytes, dict[str, str] | None]:
    """All records, as a message has them, and the loss at the end."""
    found = b""
    while True:
        try:
            message, count = _wire.encode_consume_response(b"", 0, 0, 0, batches, 1 << 20, max_records)
        except DataLoss as loss:
            return found, loss.fields
        if not count:
            return found, None
        found += message
