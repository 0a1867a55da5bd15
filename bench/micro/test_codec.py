"""The wire codec's kernels: a produce request in, a consume response out.

A round does the whole work on fresh objects; the numbers in the names are records and bytes of a value.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from takhin import _fastlog, _wire
from takhin.v1 import takhin_pb2 as pb

from .shapes import NOW_MS, SHAPES, request_bytes


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_decode_produce_batch(benchmark: BenchmarkFixture, count: int, size: int) -> None:
    data = request_bytes(count, size)
    decoded = benchmark(_wire.decode_produce_batch, data)
    assert len(decoded.records) == count


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_encode_consume_response(benchmark: BenchmarkFixture, count: int, size: int) -> None:
    stored = _wire.decode_produce_batch(request_bytes(count, size)).records.frame(NOW_MS).tobytes(0)

    def encode() -> tuple[bytes, int]:
        return _wire.encode_consume_response(b"topic", 0, count, 0, _fastlog.Batches(stored), 1 << 30, 0)

    message, encoded = benchmark(encode)
    assert encoded == count
    assert len(pb.ConsumeMessagesResponse.FromString(message).records) == count


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_google_protobuf_decodes_the_same_request(benchmark: BenchmarkFixture, count: int, size: int) -> None:
    """What a Python object for each record would cost, for comparison."""
    data = request_bytes(count, size)
    decoded = benchmark(pb.ProduceBatchRequest.FromString, data)
    assert len(decoded.records) == count


def test_encode_produce_batch_response(benchmark: BenchmarkFixture) -> None:
    message = benchmark(_wire.encode_produce_batch_response, "topic", 3, 1_000_000, 1_000_255, NOW_MS, 7, 1_000_000)
    assert pb.ProduceBatchResponse.FromString(message).last_offset == 1_000_255


def test_decode_consume(benchmark: BenchmarkFixture) -> None:
    data = pb.ConsumeMessagesRequest(
        topic="topic", partition=3, offset=1_000_000, max_bytes=1 << 20
    ).SerializeToString()
    assert benchmark(_wire.decode_consume, data).offset == 1_000_000
