"""``_wire``'s encoders: the bytes of google.protobuf, and which records a response takes."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from takhin import _wire
from takhin._fastlog import Batches, RecordSpans
from takhin.errors import DataLoss
from takhin.v1 import takhin_pb2 as pb

NOW = 1_700_000_000_000
#: (key, value, headers, timestamp)
Record = tuple[bytes | None, bytes | None, list[tuple[str | bytes, bytes | None]], int]


def batch(records: list[Record], base_offset: int = 0) -> bytes:
    return RecordSpans.from_records(records).frame(NOW).tobytes(base_offset)


def values(*contents: bytes) -> list[Record]:
    return [(None, content, [], NOW) for content in contents]


def encode(batches: Batches | None, **changes: Any) -> tuple[pb.ConsumeMessagesResponse, int]:
    arguments = {
        "topic": b"t",
        "partition": 1,
        "high_watermark": 2,
        "log_start_offset": 3,
        "max_bytes": 1 << 20,
        "max_records": 0,
    } | changes
    data, count = _wire.encode_consume_response(batches=batches, **arguments)
    message = pb.ConsumeMessagesResponse.FromString(data)
    assert message.SerializeToString(deterministic=True) == data
    assert len(message.records) == count
    return message, count


def offsets(batches: Batches | None, **changes: Any) -> list[int]:
    return [record.offset for record in encode(batches, **changes)[0].records]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"topic": "orders", "partition": 3, "offset": 2**63 - 1, "timestamp": NOW},
        {"topic": "ördé" * 100, "partition": -1, "offset": -1, "timestamp": -1, "error": "né", "error_code": 3},
        {"error_code": -(2**31), "error": "e" * 300},
    ],
)
def test_produce_message_response_is_what_google_protobuf_writes(fields: dict[str, Any]) -> None:
    full = {"topic": "", "partition": 0, "offset": 0, "timestamp": 0, **fields}
    assert _wire.encode_produce_message_response(**full) == pb.ProduceMessageResponse(**fields).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"topic": "t", "partition": 1, "base_offset": 2, "last_offset": 3, "timestamp": NOW, "high_watermark": 9},
        {"correlation_id": -(2**63), "error": "né", "error_code": 8, "partition": -1, "base_offset": -1},
    ],
)
def test_produce_batch_response_is_what_google_protobuf_writes(fields: dict[str, Any]) -> None:
    zeros = dict.fromkeys(
        ("partition", "base_offset", "last_offset", "timestamp", "correlation_id", "high_watermark"), 0
    )
    assert _wire.encode_produce_batch_response(**{"topic": "", **zeros, **fields}) == pb.ProduceBatchResponse(
        **fields
    ).SerializeToString(deterministic=True)


def test_numbers_that_do_not_fit_are_overflow_errors() -> None:
    with pytest.raises(OverflowError):
        _wire.encode_produce_message_response("t", 2**31, 0, 0)
    with pytest.raises(OverflowError):
        _wire.encode_produce_message_response("t", 0, 2**63, 0)


def test_an_error_text_that_is_not_unicode_is_sent_all_the_same() -> None:
    data = _wire.encode_produce_message_response("t", 0, -1, 0, "no file \udcff", 13)
    assert pb.ProduceMessageResponse.FromString(data).error == "no file ?"


def test_a_response_without_batches_has_no_records() -> None:
    message, count = encode(None)
    assert (message.topic, message.partition, message.high_watermark, message.log_start_offset) == ("t", 1, 2, 3)
    assert count == 0
    assert encode(Batches())[1] == 0
    assert _wire.encode_consume_response(b"", 0, 0, 0, None, 0, 0) == (b"", 0)


def test_records_come_with_everything_they_have() -> None:
    records: list[Record] = [
        (b"k", b"v" * 300, [("trace", b"1"), ("", b""), ("null", None)], NOW + 1),
        (b"", b"", [], NOW),
        (None, None, [], NOW - 1),
    ]
    message, _ = encode(Batches(batch(records, base_offset=0)), partition=7)
    assert [
        (
            record.key if record.HasField("key") else None,
            record.value if record.HasField("value") else None,
            [(header.key, header.value) for header in record.headers],
            record.timestamp,
            record.offset,
            record.partition,
        )
        for record in message.records
    ] == [
        (b"k", b"v" * 300, [("trace", b"1"), ("", b""), ("null", b"")], NOW + 1, 0, 7),
        (b"", b"", [], NOW, 1, 7),
        (None, None, [], NOW - 1, 2, 7),
    ]


def test_a_response_takes_what_fits_and_goes_on_there() -> None:
    batches = Batches(batch(values(*[b"x" * 100] * 5), 10) + batch(values(*[b"x" * 100] * 5), 15))
    one, _ = encode(batches, max_records=1)
    each = one.ByteSize() - encode(None)[0].ByteSize()
    assert offsets(batches, max_bytes=2 * each) == [11, 12]
    assert offsets(batches, max_bytes=3 * each - 1) == [13, 14]
    assert batches.next_offset == 15
    assert offsets(batches, max_records=2) == [15, 16]
    assert offsets(batches) == [17, 18, 19]
    assert batches.next_offset == 20
    assert offsets(batches) == []


@pytest.mark.parametrize("max_bytes", [-5, 0, 1])
def test_at_least_one_record_is_sent(max_bytes: int) -> None:
    batches = Batches(batch(values(b"a" * 1000, b"b")))
    assert offsets(batches, max_bytes=max_bytes) == [0]
    assert offsets(batches, max_bytes=max_bytes) == [1]


def test_only_records_between_next_offset_and_end_offset_are_sent() -> None:
    data = batch(values(*[b"x"] * 5), 10) + batch(values(*[b"x"] * 5), 15)
    assert offsets(Batches(data, next_offset=13, end_offset=17)) == [13, 14, 15, 16]
    assert offsets(Batches(data, next_offset=16), max_records=1) == [16]
    assert offsets(Batches(data, next_offset=20)) == []


def test_large_responses_are_right_too() -> None:
    records: list[Record] = [(b"%d" % i, b"v" * 500, [("h", b"x")], NOW + i) for i in range(2000)]
    message, count = encode(Batches(batch(records, 2**40)), max_bytes=1 << 30)
    assert count == 2000
    assert [(record.key, record.offset, record.timestamp) for record in message.records] == [
        (b"%d" % i, 2**40 + i, NOW + i) for i in range(2000)
    ]


@pytest.mark.parametrize("records", [1, 3000])
@pytest.mark.parametrize(
    "key",
    [
        b"\xff",
        b"ok\xc3",
        b"\xe2\x82",
        b"\xf0\x90\x80x",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        "é😀".encode() + b"\x80" + "é".encode(),
        b"12345678\xfe12345678",
    ],
)
def test_header_keys_that_are_not_utf8_are_sent_with_replacement_characters(key: bytes, records: int) -> None:
    content: list[Record] = [(None, b"v" * 50, [("good", b"1"), (key, b"2"), ("é", b"3")], NOW)] * records
    message, count = encode(Batches(batch(content)))
    assert count == records
    expected = [("good", b"1"), (key.decode(errors="replace"), b"2"), ("é", b"3")]
    assert [(header.key, header.value) for header in message.records[-1].headers] == expected


def test_replacement_characters_come_where_python_puts_them() -> None:
    edges = bytes.fromhex("41 80 8f 90 9f a0 bf c1 c2 e0 e1 ed f0 f1 f4 f5")
    keys = [bytes(key) for size in (1, 2, 3, 4) for key in itertools.product(edges, repeat=size)]
    message, _ = encode(Batches(batch([(None, None, [(key, None) for key in keys], NOW)])))
    assert [header.key for header in message.records[0].headers] == [key.decode(errors="replace") for key in keys]


def test_offset_partition_and_timestamp_at_zero_are_not_written() -> None:
    data = bytearray(batch(values(b"")))
    data[27:43] = bytes(16)  # the base timestamp and the largest one
    message, count = encode(Batches(bytes(data)), partition=0, topic=b"", high_watermark=0, log_start_offset=0)
    assert count == 1
    assert message.SerializeToString() == bytes.fromhex("22 02 1200")


def test_a_timestamp_of_minus_one_is_sent_as_it_is() -> None:
    data = bytearray(batch(values(b"v")))
    data[27:35] = struct.pack(">q", -1)
    assert encode(Batches(bytes(data)))[0].records[0].timestamp == -1


def test_control_batches_are_passed_over() -> None:
    control = bytearray(batch(values(b"marker"), 2))
    control[22] |= 0x20
    batches = Batches(batch(values(b"a", b"b")) + bytes(control) + batch(values(b"c"), 3))
    assert offsets(batches) == [0, 1, 3]


def broken(records: list[Record], base_offset: int) -> bytes:
    """A batch whose last record says that it is longer than it is."""
    data = bytearray(batch(records, base_offset))
    data[data.rindex(b"LAST") - 6] = 0x7E
    return bytes(data)


def test_records_before_a_loss_are_sent_and_then_the_loss_is_told() -> None:
    batches = Batches(batch(values(b"a", b"b"), 5) + broken(values(b"c", b"LAST"), 7))
    assert offsets(batches) == [5, 6, 7]
    for _ in range(2):
        with pytest.raises(DataLoss) as caught:
            encode(batches)
        assert caught.value.fields == {"first_offset": "8", "last_offset": "8"}
    assert batches.next_offset == 8


def test_a_loss_names_the_offsets_of_its_batch() -> None:
    data = bytearray(batch(values(*[b"x"] * 4), 20))
    data[22] |= 1  # compressed, which a walk cannot read
    with pytest.raises(DataLoss) as caught:
        encode(Batches(bytes(data), next_offset=21))
    assert caught.value.fields == {"first_offset": "21", "last_offset": "23"}


@pytest.mark.parametrize("count", [1, 3])
def test_headers_that_do_not_add_up_are_a_loss(count: int) -> None:
    data = bytearray(batch([(None, b"a", [], NOW), (None, b"b", [("key", b"val"), ("2", b"2")], NOW)], 4))
    data[data.index(b"key") - 2] = count * 2
    batches = Batches(bytes(data))
    assert offsets(batches) == [4]
    with pytest.raises(DataLoss) as caught:
        encode(batches)
    assert caught.value.fields == {"first_offset": "5", "last_offset": "5"}


def test_wrong_types_are_type_errors() -> None:
    with pytest.raises(TypeError):
        _wire.encode_consume_response("t", 0, 0, 0, None, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _wire.encode_consume_response(b"t", 0, 0, 0, b"", 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _wire.encode_produce_message_response(None, 0, 0, 0)  # type: ignore[arg-type]
