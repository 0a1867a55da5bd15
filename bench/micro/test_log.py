"""The log's kernels: framing, checksums, append to and read from a segment in the page cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from takhin import _fastlog, _segment

from .shapes import NOW_MS, SHAPES


def spans(count: int, size: int) -> _fastlog.RecordSpans:
    return _fastlog.RecordSpans.from_records([(b"key-%d" % n, b"v" * size, [], 0) for n in range(count)])


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_frame_a_batch(benchmark: BenchmarkFixture, count: int, size: int) -> None:
    records = spans(count, size)
    assert benchmark(records.frame, NOW_MS).record_count == count


@pytest.mark.parametrize("backend", _fastlog.crc32c_backends())
@pytest.mark.parametrize("size", [64, 1024, 65536, 1 << 20])
def test_crc32c(benchmark: BenchmarkFixture, size: int, backend: str) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert benchmark(_fastlog.crc32c, data, 0, backend) == _fastlog.crc32c(data, 0, "table")


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_append_a_batch_without_a_flush(benchmark: BenchmarkFixture, tmp_path: Path, count: int, size: int) -> None:
    batch = spans(count, size).frame(NOW_MS)
    segment = _segment.SegmentFile(str(tmp_path / "0.log"), create=True, writable=True)
    # Always at the beginning: the page cache is measured, not how the file grows.
    benchmark(segment.append, batch, 0, 0)
    assert segment.pread(0, batch.size) == batch.tobytes(0)


@pytest.mark.parametrize(("count", "size"), SHAPES)
def test_read_checked_batches(benchmark: BenchmarkFixture, tmp_path: Path, count: int, size: int) -> None:
    batch = spans(count, size).frame(NOW_MS)
    segment = _segment.SegmentFile(str(tmp_path / "0.log"), create=True, writable=True)
    batches = max(1, (1 << 20) // batch.size)
    for n in range(batches):
        segment.append(batch, n * batch.size, n * count)
    limit, end = batches * batch.size, batches * count
    found, *_ = benchmark(segment.read, 0, limit, 0, 0, end, limit)
    assert found.size_bytes == limit


def test_floor_of_an_offset_in_a_large_index(benchmark: BenchmarkFixture) -> None:
    index = _segment.SegmentIndex(0, 0)
    batch = spans(1, 100).frame(NOW_MS)
    for n in range(100_000):
        index.note_batch(batch, n, n * batch.size)
    assert benchmark(index.floor, 77_777) == (77_777, 77_777 * batch.size)
