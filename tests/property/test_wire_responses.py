"""Responses: what ``_wire`` writes is what google.protobuf reads, and writes."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from takhin import _wire
from takhin._fastlog import Batches, RecordSpans
from takhin.v1 import takhin_pb2 as pb

QUICK = settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
offsets = st.integers(0, 2**62)
texts = st.text(max_size=40)
blobs = st.binary(max_size=40) | st.binary(min_size=120, max_size=200)
keys = st.text(max_size=10).map(lambda text: text.encode()) | st.binary(max_size=10)
records = st.tuples(
    st.none() | blobs,
    st.none() | blobs,
    st.lists(st.tuples(keys, st.none() | blobs), max_size=3),
    st.integers(1, 2**62),
)


@given(topic=texts, partition=int32s, offset=int64s, timestamp=int64s, error=texts, error_code=int32s)
@QUICK
def test_produce_message_responses_are_byte_for_byte_google_protobufs(
    topic: str, partition: int, offset: int, timestamp: int, error: str, error_code: int
) -> None:
    data = _wire.encode_produce_message_response(topic, partition, offset, timestamp, error, error_code)
    assert data == pb.ProduceMessageResponse(
        topic=topic, partition=partition, offset=offset, timestamp=timestamp, error=error, error_code=error_code
    ).SerializeToString(deterministic=True)


@given(topic=texts, partition=int32s, numbers=st.lists(int64s, min_size=5, max_size=5), error=texts, error_code=int32s)
@QUICK
def test_produce_batch_responses_are_byte_for_byte_google_protobufs(
    topic: str, partition: int, numbers: list[int], error: str, error_code: int
) -> None:
    base_offset, last_offset, timestamp, correlation_id, high_watermark = numbers
    data = _wire.encode_produce_batch_response(
        topic, partition, base_offset, last_offset, timestamp, correlation_id, high_watermark, error, error_code
    )
    assert data == pb.ProduceBatchResponse(
        topic=topic,
        partition=partition,
        base_offset=base_offset,
        last_offset=last_offset,
        timestamp=timestamp,
        correlation_id=correlation_id,
        high_watermark=high_watermark,
        error=error,
        error_code=error_code,
    ).SerializeToString(deterministic=True)


#: Most are as most records are; some are not, among the others.
plain_records = st.tuples(
    st.none() | st.binary(max_size=9), st.binary(max_size=70), st.just([]), st.integers(1000, 1003)
)
batches_of_records = st.lists(records, min_size=1, max_size=4) | st.lists(
    plain_records | plain_records | plain_records | records, min_size=10, max_size=30
)


def segment_of(
    contents: list[list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]], int]]],
    base_offset: int,
    partition: int,
) -> tuple[list[bytes], list[pb.Record]]:
    """The batches, and what a response has of their records."""
    batches, messages = [], []
    offset = base_offset
    for content in contents:
        batches.append(RecordSpans.from_records(content).frame(1).tobytes(offset))
        for key, value, headers, timestamp in content:
            messages.append(
                pb.Record(
                    key=key,
                    value=value,
                    headers=[
                        pb.RecordHeader(key=name.decode(errors="replace"), value=content or b"")
                        for name, content in headers
                    ],
                    timestamp=timestamp,
                    offset=offset,
                    partition=partition,
                )
            )
            offset += 1
    return batches, messages


@given(
    topic=texts,
    partition=int32s,
    high_watermark=int64s,
    log_start_offset=int64s,
    contents=st.lists(batches_of_records, max_size=4),
    base_offset=offsets,
    skipped=st.integers(0, 5),
    bounds=st.lists(st.tuples(st.integers(0, 600) | st.integers(0, 3000), st.integers(0, 25)), min_size=1, max_size=6),
)
@QUICK
def test_consume_responses_hold_the_records_in_order_each_once_within_the_bounds(
    topic: str,
    partition: int,
    high_watermark: int,
    log_start_offset: int,
    contents: list[list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]], int]]],
    base_offset: int,
    skipped: int,
    bounds: list[tuple[int, int]],
) -> None:
    segment, messages = segment_of(contents, base_offset, partition)
    expected = messages[skipped:]
    batches = Batches(b"".join(segment), next_offset=base_offset + skipped)
    for max_bytes, max_records in [*bounds, (1 << 30, 0)]:
        data, count = _wire.encode_consume_response(
            topic.encode(), partition, high_watermark, log_start_offset, batches, max_bytes, max_records
        )
        wanted = pb.ConsumeMessagesResponse(
            topic=topic,
            partition=partition,
            high_watermark=high_watermark,
            log_start_offset=log_start_offset,
            records=expected[:count],
        )
        assert data == wanted.SerializeToString(deterministic=True)
        # As many as fit, at least one, and no more.
        sizes = [pb.ConsumeMessagesResponse(records=[record]).ByteSize() for record in expected]
        fitting = max(1, sum(sum(sizes[: i + 1]) <= max_bytes for i in range(len(sizes))))
        assert count == min(len(expected), fitting, max_records or fitting)
        expected = expected[count:]
        if expected:
            assert batches.next_offset == expected[0].offset
    assert expected == []


@given(
    partition=int32s,
    high_watermark=int64s,
    at_end=int64s,
    contents=st.lists(batches_of_records, min_size=1, max_size=4),
    base_offset=offsets,
    max_bytes=st.integers(0, 5000),
    max_records=st.integers(0, 60),
)
@QUICK
def test_chunks_give_what_one_read_gives(
    partition: int,
    high_watermark: int,
    at_end: int,
    contents: list[list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]], int]]],
    base_offset: int,
    max_bytes: int,
    max_records: int,
) -> None:
    segment, messages = segment_of(contents, base_offset, partition)
    whole = Batches(b"".join(segment))
    starts = itertools.accumulate((len(content) for content in contents), initial=base_offset)
    chunks = [Batches(data, start) for data, start in zip(segment, starts, strict=False)]
    taken = 0
    while chunks:
        response = _wire.ConsumeResponse(b"t", partition, high_watermark, max_bytes, max_records)
        while chunks and response.add(chunks[0]):
            del chunks[0]
        expected = _wire.encode_consume_response(b"t", partition, at_end, 5, whole, max_bytes, max_records)
        assert (response.finish(at_end, 5), response.count) == expected
        taken += response.count
        if chunks:
            assert chunks[0].next_offset == base_offset + taken
        if not response.count:
            break
    assert taken == len(messages)
