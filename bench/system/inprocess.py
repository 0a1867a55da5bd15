"""What the kernels give within a process, without any gRPC: bytes of requests in, bytes of responses out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from takhin import _segment, _wire
from takhin.server.options import KEPT_BUFFER_BYTES

from . import requests

#: Bytes after which an append begins at the segment's beginning again: the page cache is measured, not the disk.
_WRAP_BYTES = 64 << 20


def measure_in_process(directory: Path, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows: records and payload bytes a second, median of the rounds and their spread. Buffers are kept as in a
    server."""
    _wire.keep_buffers(KEPT_BUFFER_BYTES)
    rows: list[tuple[str, str, int, int, _Maker, float, float]] = [
        ("decode-append-100", "decode, frame, append: 1,000 x 100 B", 1000, 100, _append, 5e6, 0),
        ("decode-append-1k", "decode, frame, append: 256 x 1 KiB", 256, 1024, _append, 0, 1.5e9),
        ("read-encode-1k", "read and encode 1 MiB: 1 KiB records", 256, 1024, _read, 0, 2e9),
        ("read-encode-100", "read and encode 1 MiB: 100 B records", 1000, 100, _read, 0, 0),
    ]
    return [_row(directory, rounds, *row) for row in rows]


#: Gives a function that runs for some seconds and returns records handled.
_Maker = Callable[[Path, int, int], Callable[[float], int]]


def _row(
    directory: Path,
    rounds: int,
    name: str,
    title: str,
    records: int,
    size: int,
    make: _Maker,
    goal_records: float,
    goal_bytes: float,
) -> dict[str, Any]:
    run = make(directory, records, size)
    run(0.1)
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        done = run(0.3)
        rates.append(done / (time.perf_counter() - began))
    median = statistics.median(rates)
    return {
        "name": name,
        "title": title,
        "records_per_second": median,
        "bytes_per_second": median * size,
        "spread": [min(rates), max(rates)],
        "goal_records_per_second": goal_records or None,
        "goal_bytes_per_second": goal_bytes or None,
        "met": median >= goal_records and median * size >= goal_bytes,
    }


def _append(directory: Path, records: int, size: int) -> Callable[[float], int]:
    data = requests.batch("bench", 0, records, size, 1)
    path = directory / f"append-{size}.log"
    path.unlink(missing_ok=True)
    file = _segment.SegmentFile(str(path), create=True, writable=True)
    now_ms = 1_700_000_000_000

    def run(seconds: float) -> int:
        position = offset = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            batch = _wire.decode_produce_batch(data).records.frame(now_ms)
            file.append(batch, position, offset)
            offset += records
            position += batch.size
            if position > _WRAP_BYTES:
                position = 0
        return offset

    return run


def _read(directory: Path, records: int, size: int) -> Callable[[float], int]:
    data = requests.batch("bench", 0, records, size, 1)
    path = directory / f"read-{size}.log"
    path.unlink(missing_ok=True)
    file = _segment.SegmentFile(str(path), create=True, writable=True)
    position = offset = 0
    while position < 16 << 20:
        batch = _wire.decode_produce_batch(data).records.frame(1_700_000_000_000)
        file.append(batch, position, offset)
        offset += records
        position += batch.size
    limit, end = position, offset

    def run(seconds: float) -> int:
        done = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            at, expected = 0, 0
            while expected < end:
                batches, _status, at, expected = file.read(at, limit, expected, expected, end, 1 << 20)
                assert batches is not None
                while True:
                    _message, count = _wire.encode_consume_response(b"bench", 0, end, 0, batches, 1 << 20, 0)
                    if not count:
                        break
                    done += count
        return done

    return run
