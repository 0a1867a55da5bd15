"""Requests: ``_wire`` held against google.protobuf, on good bytes, bad bytes and odd bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from takhin.v1 import takhin_pb2 as pb
from tests.reference.wire import REQUESTS

QUICK = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=40)
blobs = st.binary(max_size=60)

headers = st.builds(pb.RecordHeader, key=texts, value=blobs)
records = st.builds(
    pb.Record,
    key=st.none() | blobs,
    value=st.none() | blobs | st.binary(min_size=120, max_size=300),
    headers=st.lists(headers, max_size=4),
    timestamp=int64s,
    offset=int64s,
    partition=int32s,
)
messages = {
    "ProduceMessageRequest": st.builds(
        pb.ProduceMessageRequest,
        topic=texts,
        partition=int32s,
        record=st.none() | records,
        required_acks=st.none() | int32s,
        timeout_ms=int32s,
        producer_id=int64s,
        producer_epoch=int32s,
        sequence=int32s,
    ),
    "ProduceBatchRequest": st.builds(
        pb.ProduceBatchRequest,
        topic=texts,
        partition=int32s,
        records=st.lists(records, max_size=6),
        required_acks=st.none() | int32s,
        timeout_ms=int32s,
        correlation_id=int64s,
        producer_id=int64s,
        producer_epoch=int32s,
        base_sequence=int32s,
    ),
    "ConsumeMessagesRequest": st.builds(
        pb.ConsumeMessagesRequest,
        topic=texts,
        partition=int32s,
        offset=int64s,
        max_bytes=int32s,
        min_bytes=int32s,
        max_wait_ms=int32s,
        until_end=st.booleans(),
        start_timestamp=int64s,
        group_id=texts,
        max_records=int32s,
        heartbeat_ms=int32s,
    ),
}
names = pytest.mark.parametrize("name", sorted(messages))


def varint(value: int, padding: int = 0) -> bytes:
    """``value`` as a varint that is ``padding`` bytes longer than it need be."""
    out = bytearray()
    while value >= 0x80 or padding > 0:
        if value < 0x80:
            padding -= 1
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Bytes that are fields, or nearly: every wire type, overlong varints, wrong lengths, groups with
# and without their end, bad UTF-8, and fields inside of fields where messages may be expected.
paddings = st.sampled_from([0] * 12 + [1, 2, 3, 4, 5, 9])
numbers = st.sampled_from(
    [1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 15, 16, 100, 101, 102, 103, 104, 2**29 - 1] * 3 + [0, 2**29]
)
edges = st.sampled_from([0, 1, 127, 128, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**70 - 1]) | st.integers(
    0, 2**64 - 1
)
strings = st.sampled_from(
    [
        b"",
        b"orders",
        "é€😀".encode(),
        b"\xff",
        b"\xed\xa0\x80",
        b"\xe2\x82",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"12345678\x80",
    ]
)


@st.composite
def delimited(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    content = draw(contents)
    error = draw(st.sampled_from([0] * 30 + [1, -1, 2**31, 2**32]))
    length = max(0, len(content) + error)
    return varint(draw(numbers) << 3 | 2, draw(paddings)) + varint(length, draw(paddings)) + content


@st.composite
def grouped(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    number = draw(numbers)
    depth = draw(st.sampled_from([1, 1, 1, 1, 2, 97, 98, 99, 100, 101]))
    end = draw(st.sampled_from([number] * 10 + [number + 1]))
    ends = draw(st.sampled_from([depth] * 10 + [depth - 1, depth + 1]))
    return varint(number << 3 | 3) * depth + draw(contents) + varint(end << 3 | 4, draw(paddings)) * ends


def scalar(wire_type: int, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda number, padding, rest: varint(number << 3 | wire_type, padding) + rest, numbers, paddings, contents
    )


scalars = (
    scalar(0, st.builds(varint, edges, paddings))
    | scalar(1, st.binary(min_size=8, max_size=8))
    | scalar(5, st.binary(min_size=4, max_size=4))
    | delimited(strings)
)
fields = st.recursive(
    scalars,
    lambda inner: (
        delimited(st.lists(inner, max_size=4).map(b"".join))
        | grouped(st.lists(inner, max_size=3).map(b"".join))
        | inner
    ),
    max_leaves=12,
)
oddities = st.lists(
    fields | scalar(6, st.just(b"")) | scalar(7, st.just(b"")) | scalar(4, st.just(b"")), max_size=5
).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["set", "flip", "drop", "add", "cut"])):
            case "set":
                data[at] = draw(st.integers(0, 255))
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "drop":
                del data[at]
            case "add":
                data.insert(at, draw(st.integers(0, 255)))
            case "cut":
                del data[at:]
    return bytes(data)


def check(name: str, data: bytes) -> dict[str, Any] | None:
    _, google, takhin = REQUESTS[name]
    expected = google(data)
    assert takhin(data) == expected
    return expected


@names
@given(data=st.data())
@QUICK
def test_what_google_protobuf_writes_is_read_with_the_same_meaning(name: str, data: st.DataObject) -> None:
    message = data.draw(messages[name])
    assert check(name, message.SerializeToString()) is not None


@names
@given(data=st.data())
@QUICK
def test_two_messages_in_a_row_are_merged_as_google_protobuf_merges_them(name: str, data: st.DataObject) -> None:
    parts = data.draw(st.lists(messages[name], min_size=2, max_size=3))
    assert check(name, b"".join(part.SerializeToString() for part in parts)) is not None


@names
@given(data=st.data())
@QUICK
def test_mutated_messages_are_accepted_or_refused_as_google_protobuf_does(name: str, data: st.DataObject) -> None:
    check(name, data.draw(mutated(messages[name].map(lambda message: message.SerializeToString()))))


@names
@given(data=st.data())
@QUICK
def test_odd_fields_are_accepted_or_refused_as_google_protobuf_does(name: str, data: st.DataObject) -> None:
    check(name, data.draw(oddities | mutated(oddities)))


@names
@given(data=st.binary(max_size=40))
@QUICK
def test_arbitrary_bytes_are_accepted_or_refused_as_google_protobuf_does(name: str, data: bytes) -> None:
    check(name, data)


@names
@given(data=st.data())
@settings(QUICK, max_examples=10)
def test_every_cut_of_a_message_is_accepted_or_refused_as_google_protobuf_does(name: str, data: st.DataObject) -> None:
    whole = data.draw(messages[name]).SerializeToString()
    for end in range(len(whole)):
        check(name, whole[:end])


@given(
    text=st.binary(max_size=24)
    | st.text(max_size=12).map(lambda text: text.encode()).flatmap(lambda b: mutated(st.just(b)))
)
@QUICK
def test_strings_are_utf8_exactly_when_python_says_so(text: bytes) -> None:
    _, _, takhin = REQUESTS["ConsumeMessagesRequest"]
    request = takhin(b"\x0a" + varint(len(text)) + text)
    try:
        expected = text.decode()
    except UnicodeDecodeError:
        assert request is None
    else:
        assert request is not None
        assert request["topic"] == expected
