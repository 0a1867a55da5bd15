"""The wire codec's kernels: a produce request in, a consume response out.

A round does the whole work on fresh objects; the numbers in the names are records and bytes of a value.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from takhin import _fastlog, _wire
from takhin.v1 import takhin_pb2 as pb

SHAPES = [(1, 100), (100, 100), (1000, 1000)]
NOW_MS = 1_700_000_000_000


def request_bytes(count: int, size: int) -> bytes:
    records = [pb.Record(key=b"key-%d" % n, value=b"v" * size) for n in range(count)]
    return pb.ProduceBatchRequest(topic="topic", partition=0, records=records).SerializeToString()


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
