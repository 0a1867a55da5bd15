"""The grid of sizes: (records, bytes of a value), from one small record to a batch of large ones."""

from __future__ import annotations

import functools

from takhin.v1 import takhin_pb2 as pb

SHAPES = [(1, 100), (1, 1024), (100, 100), (256, 1024), (2000, 100), (16, 65536), (1, 1 << 20)]
NOW_MS = 1_700_000_000_000


@functools.cache
def request_bytes(count: int, size: int) -> bytes:
    records = [pb.Record(key=b"key-%d" % n, value=b"v" * size) for n in range(count)]
    return pb.ProduceBatchRequest(topic="topic", partition=0, records=records).SerializeToString()
