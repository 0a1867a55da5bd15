"""Records on their way to one partition."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from takhin.v1 import takhin_pb2 as pb

#: What protobuf spends on one record besides key, value and headers, at most.
RECORD_OVERHEAD_BYTES: Final = 40
_HEADER_OVERHEAD_BYTES: Final = 15


@dataclass(frozen=True, slots=True)
class ProducerOptions:
    """How a ``Producer`` batches, waits and tries again."""

    #: -1 on stable storage, 1 written, 0 accepted, None as the server's default.
    acks: int | None = None
    #: A batch is sent when it has so many records, or so many bytes, or is so old.
    batch_records: int = 10_000
    batch_bytes: int = 1024 * 1024
    linger: float = 0.005
    #: So many batches are sent before the first is answered; meanwhile the others are filled.
    max_in_flight_batches: int = 64
    #: So many bytes wait to be sent or answered; ``send`` waits there.
    max_unacknowledged_bytes: int = 32 * 1024 * 1024
    #: The largest request that the server takes, bytes; 0: ask the server.
    max_request_bytes: int = 0
    #: Written once, however often it is sent: lost connections are ridden out.
    idempotent: bool = False
    #: How long a batch may go without an answer, over all attempts, seconds.
    delivery_timeout: float = 120.0
    #: A stream is ended and a new one begun so often, before the server ends old connections; seconds.
    rotate_after: float = 300.0


class Batch:
    """A request that is filled, then sent. Not safe to share: the producer's lock guards it."""

    __slots__ = ("created", "partition", "records", "request", "size_bytes")

    def __init__(self, topic: str, partition: int, acks: int | None) -> None:
        self.request = pb.ProduceBatchRequest(topic=topic, partition=partition)
        if acks is not None:
            self.request.required_acks = acks
        self.partition = partition
        self.records = 0
        #: Keys, values and headers.
        self.size_bytes = 0
        #: Monotonic seconds.
        self.created = time.monotonic()

    @property
    def encoded_bytes(self) -> int:
        """What the request takes on the wire, at most; also about what it takes in memory."""
        return self.size_bytes + self.records * RECORD_OVERHEAD_BYTES

    def add(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        timestamp: int,
        size_bytes: int,
    ) -> None:
        record = self.request.records.add()
        if key is not None:
            record.key = key
        if value is not None:
            record.value = value
        if timestamp:
            record.timestamp = timestamp
        for name, content in headers:
            record.headers.add(key=name, value=content)
        self.records += 1
        self.size_bytes += size_bytes


def record_bytes(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    """Bytes of a record's key, value and headers, with what protobuf adds to the headers."""
    size = (len(key) if key else 0) + (len(value) if value else 0)
    for name, content in headers:
        size += len(name.encode()) + len(content) + _HEADER_OVERHEAD_BYTES
    return size
