"""``_wire``'s decoders, a rule at a time. tests/property holds them against google.protobuf."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from takhin import _wire
from takhin.errors import MalformedMessage, TooManyRecords
from takhin.v1 import takhin_pb2 as pb


def message(hexadecimal: str) -> _wire.ProduceRequest:
    return _wire.decode_produce_message(bytes.fromhex(hexadecimal))


def test_empty_produce_message_has_one_null_record_and_defaults() -> None:
    request = _wire.decode_produce_message(b"")
    assert request.topic == ""
    assert request.partition == 0
    assert request.required_acks is None
    assert request.timeout_ms == 0
    assert request.correlation_id == 0
    assert (request.producer_id, request.producer_epoch, request.sequence) == (0, 0, 0)
    assert len(request.records) == 1
    assert request.copy_records() == [(None, None, [], 0)]


def test_every_field_of_a_produce_message_is_read() -> None:
    data = pb.ProduceMessageRequest(
        topic="ördé",
        partition=-1,
        record=pb.Record(
            key=b"k", value=b"v" * 200, headers=[pb.RecordHeader(key="h", value=b"\0"), pb.RecordHeader()], timestamp=-5
        ),
        required_acks=-1,
        timeout_ms=2**31 - 1,
        producer_id=2**63 - 1,
        producer_epoch=-7,
        sequence=12,
    ).SerializeToString()
    request = _wire.decode_produce_message(data)
    assert (request.topic, request.partition, request.required_acks) == ("ördé", -1, -1)
    assert (request.timeout_ms, request.producer_id, request.producer_epoch) == (2**31 - 1, 2**63 - 1, -7)
    assert (request.sequence, request.correlation_id) == (12, 0)
    assert request.copy_records() == [(b"k", b"v" * 200, [("h", b"\0"), ("", b"")], -5)]


def test_every_field_of_a_produce_batch_is_read() -> None:
    data = pb.ProduceBatchRequest(
        topic="t",
        partition=3,
        records=[
            pb.Record(key=b"a", headers=[pb.RecordHeader(key="x", value=b"1")]),
            pb.Record(value=b"b", timestamp=9),
        ],
        required_acks=0,
        timeout_ms=4,
        correlation_id=-6,
        producer_id=7,
        producer_epoch=8,
        base_sequence=9,
    ).SerializeToString()
    request = _wire.decode_produce_batch(data)
    assert (request.topic, request.partition, request.required_acks, request.timeout_ms) == ("t", 3, 0, 4)
    assert (request.correlation_id, request.producer_id, request.producer_epoch, request.sequence) == (-6, 7, 8, 9)
    assert request.copy_records() == [(b"a", None, [("x", b"1")], 0), (None, b"b", [], 9)]


def test_a_batch_without_records_is_empty() -> None:
    assert len(_wire.decode_produce_batch(b"").records) == 0


def test_every_field_of_a_consume_request_is_read() -> None:
    data = pb.ConsumeMessagesRequest(
        topic="t",
        partition=1,
        offset=-2,
        max_bytes=3,
        min_bytes=4,
        max_wait_ms=5,
        until_end=True,
        start_timestamp=2**62,
        group_id="gröup",
        max_records=6,
        heartbeat_ms=7,
    ).SerializeToString()
    request = _wire.decode_consume(data)
    assert (request.topic, request.partition, request.offset) == ("t", 1, -2)
    assert (request.max_bytes, request.min_bytes, request.max_wait_ms) == (3, 4, 5)
    assert (request.until_end, request.start_timestamp, request.group_id) == (True, 2**62, "gröup")
    assert (request.max_records, request.heartbeat_ms) == (6, 7)


def test_empty_key_and_value_are_present_and_absent_ones_null() -> None:
    assert message("1a 04 0a00 1200").copy_records() == [(b"", b"", [], 0)]
    assert message("1a 00").copy_records() == [(None, None, [], 0)]


def test_the_last_of_a_repeated_scalar_counts() -> None:
    request = message("0a0161 1001 0a0162 1002 2001 2000")
    assert (request.topic, request.partition, request.required_acks) == ("b", 2, 0)


def test_a_record_given_twice_is_merged() -> None:
    first = pb.Record(key=b"k", value=b"old", timestamp=1, headers=[pb.RecordHeader(key="a")])
    second = pb.Record(value=b"new", headers=[pb.RecordHeader(key="b")])
    data = b"".join(pb.ProduceMessageRequest(record=record).SerializeToString() for record in (first, second))
    assert _wire.decode_produce_message(data).copy_records() == [(b"k", b"new", [("a", b""), ("b", b"")], 1)]


def test_offset_and_partition_of_a_record_are_ignored() -> None:
    data = pb.ProduceMessageRequest(record=pb.Record(value=b"v", offset=77, partition=5)).SerializeToString()
    request = _wire.decode_produce_message(data)
    assert request.copy_records() == [(None, b"v", [], 0)]
    assert request.partition == 0


def test_int32_is_the_low_32_bits_and_bool_is_any_bit() -> None:
    assert message("10 ffffffff1f").partition == -1
    assert _wire.decode_consume(bytes.fromhex("a006 80808080808080808001")).until_end is True


@pytest.mark.parametrize(
    "unknown",
    [
        "7805",  # field 15, varint
        "79 0102030405060708",  # fixed64
        "7a 03 616263",  # bytes
        "7d 01020304",  # fixed32
        "7b 7c",  # an empty group
        "7b 0801 7b 7c 12 01 ff 7c",  # a group with fields and a group
        "f8ffffff0f 01",  # the largest number
        "12 01 05",  # field 2 as bytes
        "09 0102030405060708",  # field 1 as fixed64
        "1d 01020304",  # field 3 as fixed32
        "1b 1c",  # field 3 as a group
    ],
)
def test_unknown_fields_are_skipped(unknown: str) -> None:
    request = message(f"0a0161 {unknown} 1007 1a 03 12 01 76")
    assert (request.topic, request.partition) == ("a", 7)
    assert request.copy_records() == [(None, b"v", [], 0)]
    record = bytes.fromhex(f"12 01 76 {unknown.replace('12 01 05', '20 00')}")
    if not unknown.startswith(("09", "1b", "1d")):
        nested = _wire.decode_produce_batch(b"\x1a" + bytes([len(record)]) + record)
        assert nested.copy_records() == [(None, b"v", [], 0)]


MALFORMED = [
    ("10 80", "a varint is cut", 1),
    ("80", "a varint is cut", 0),
    ("10 ffffffffffffffffffff01", "a varint is too long", 1),
    ("90 80 80 80 80 00 05", "a varint is too long", 0),  # a tag of six bytes
    ("f8ffffff1f 05", "a varint is too long", 0),  # a field number of 30 bits
    ("0a 81 80 80 80 80 00 61", "a varint is too long", 1),  # a length of six bytes
    ("0a 80 80 80 80 08", "a varint is too long", 1),  # a length of 2 GiB
    ("00 05", "a field has the number 0", 0),
    ("1001 56 00", "a wire type that does not exist", 2),
    ("1001 57 00", "a wire type that does not exist", 2),
    ("0a 05 61", "past the end of its message", 0),
    ("15 010203", "past the end of its message", 0),
    ("11 01020304050607", "past the end of its message", 0),
    ("1a 03 12 02 76 7805", "past the end of its message", 2),  # within the request, not within the record
    ("54", "a group ends that did not begin", 0),
    ("53 5c", "a group ends that did not begin", 1),
    ("1a 01 53 54", "a group does not end", 3),
    ("53 0801", "a group does not end", 1),
    ("0a 02 61ff", "the topic is not UTF-8", 3),
    ("0a 03 eda080", "the topic is not UTF-8", 2),
    ("0a01ff 0a0161", "the topic is not UTF-8", 2),  # also when a good one follows
    ("1a 06 1a 04 0a 02 c080", "a header key is not UTF-8", 6),
]


@pytest.mark.parametrize(("data", "what", "position"), MALFORMED)
def test_malformed_messages_are_refused_with_what_and_where(data: str, what: str, position: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        message(data)
    assert what in caught.value.message
    assert caught.value.message.startswith("ProduceMessageRequest: ")
    assert caught.value.message.endswith(f"at byte {position}")
    assert caught.value.fields == {"position": str(position)}


#: Each byte where the rules of UTF-8 change, and its neighbours.
EDGES = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


def utf8_fault(text: bytes) -> int:
    """The position of the first byte that is not UTF-8; -1 when there is none."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [b"", b"seven c"])
def test_strings_are_utf8_by_the_rules_at_every_edge(size: int, before: bytes) -> None:
    for edges in itertools.product(EDGES if size < 4 else EDGES[::2] + EDGES[1::6], repeat=size):
        text = before + bytes(edges)
        data = b"\x0a" + bytes([len(text)]) + text
        fault = utf8_fault(text)
        if fault < 0:
            assert _wire.decode_consume(data).topic == text.decode()
        else:
            with pytest.raises(MalformedMessage) as caught:
                _wire.decode_consume(data)
            assert caught.value.fields == {"position": str(2 + fault)}


def test_the_field_at_fault_is_named_where_there_is_one() -> None:
    with pytest.raises(MalformedMessage) as caught:
        _wire.decode_consume(bytes.fromhex("b206 01 ff"))
    assert caught.value.bad_field == "group_id"
    with pytest.raises(MalformedMessage) as caught:
        _wire.decode_produce_batch(bytes.fromhex("0a 01 80"))
    assert caught.value.bad_field == "topic"
    with pytest.raises(MalformedMessage) as caught:
        _wire.decode_produce_batch(bytes.fromhex("1a 05 1a 03 0a 01 80"))
    assert caught.value.bad_field == "records.headers.key"
    with pytest.raises(MalformedMessage) as caught:
        message("1a 05 1a 03 0a 01 80")
    assert caught.value.bad_field == "record.headers.key"


def test_the_error_does_not_quote_the_payload() -> None:
    with pytest.raises(MalformedMessage) as caught:
        _wire.decode_produce_batch(b"\x0a\x07secret\xff")
    assert "secret" not in repr(caught.value) + repr(caught.value.fields)


@pytest.mark.parametrize(("wrap", "deepest"), [(0, 100), (1, 99), (2, 98)])
def test_groups_nest_as_deep_as_google_protobuf_lets_them(wrap: int, deepest: int) -> None:
    def nested(depth: int) -> bytes:
        data = b"\x53" * depth + b"\x54" * depth
        for _ in range(wrap):
            data = b"\x1a" + (bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, 1])) + data
        return data

    pb.ProduceMessageRequest.FromString(nested(deepest))
    _wire.decode_produce_message(nested(deepest))
    with pytest.raises(MalformedMessage, match="nested too deeply"):
        _wire.decode_produce_message(nested(deepest + 1))
    with pytest.raises(MalformedMessage, match="nested too deeply"):
        _wire.decode_produce_message(b"\x53" * 1_000_000)


def test_as_many_records_as_the_bound_and_no_more() -> None:
    assert _wire.MAX_RECORDS == 100_000
    assert len(_wire.decode_produce_batch(b"\x1a\x00" * 100_000).records) == 100_000
    with pytest.raises(TooManyRecords) as caught:
        _wire.decode_produce_batch(b"\x1a\x00" * 100_001)
    assert caught.value.fields == {"limit": "100000"}


def test_as_many_headers_as_the_bound_and_no_more_in_all_records_together() -> None:
    record = pb.ProduceBatchRequest(records=[pb.Record(headers=[pb.RecordHeader()] * 50_000)]).SerializeToString()
    assert len(_wire.decode_produce_batch(record * 2).records) == 2
    with pytest.raises(TooManyRecords, match="headers"):
        _wire.decode_produce_batch(record * 2 + b"\x1a\x02\x1a\x00")
    with pytest.raises(TooManyRecords, match="headers"):
        _wire.decode_produce_message(record * 2 + b"\x1a\x02\x1a\x00")


def test_records_keep_the_request_bytes_alive() -> None:
    data = bytes(bytearray(b"\x1a\x06\x12\x04" + b"keep"))
    records = _wire.decode_produce_batch(data).records
    before = data[4:]
    del data
    bytearray(1 << 16)
    assert before in records.frame(1).tobytes()


def test_threads_decode_large_batches_side_by_side() -> None:
    data = pb.ProduceBatchRequest(
        topic="t", records=[pb.Record(key=b"%d" % i, value=b"v" * 100) for i in range(2000)]
    ).SerializeToString()
    expected = _wire.decode_produce_batch(data).copy_records()
    with ThreadPoolExecutor(4) as pool:
        for request in pool.map(_wire.decode_produce_batch, [data] * 40):
            assert request.copy_records() == expected


@pytest.mark.parametrize("decode", [_wire.decode_produce_message, _wire.decode_produce_batch, _wire.decode_consume])
@pytest.mark.parametrize("data", [None, "text", bytearray(b""), memoryview(b"")])
def test_only_bytes_are_taken(decode: object, data: object) -> None:
    with pytest.raises(TypeError):
        decode(data)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [_wire.ProduceRequest, _wire.ConsumeRequest])
def test_requests_are_made_by_the_decoders_only(kind: type) -> None:
    with pytest.raises(TypeError, match="comes from decode"):
        kind()


def test_requests_are_immutable() -> None:
    with pytest.raises(AttributeError):
        message("").topic = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        _wire.decode_consume(b"").offset = 1  # type: ignore[misc]


OUT_OF_MEMORY = """
import resource
from takhin import _wire
data = b"\\x1a\\x00" * 100_000
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), -1))
try:
    _wire.decode_produce_batch(data)
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs its own address space")
def test_memory_out_is_a_memory_error() -> None:
    ran = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "MemoryError\n", ran.stderr
