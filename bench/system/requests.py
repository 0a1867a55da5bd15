"""Prepared messages: what clients send, made once, before anything is measured."""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path

from takhin.v1 import takhin_pb2 as pb

SERVICE = "/takhin.v1.TakhinService/"
#: Messages in one server stream.
STREAM_MESSAGES = 512


def write_messages(path: Path, messages: list[bytes]) -> Path:
    """As the client reads them: each after its length, 4 bytes, big endian."""
    path.write_bytes(b"".join(struct.pack(">I", len(message)) + message for message in messages))
    return path


def read_messages(path: Path) -> list[bytes]:
    data, messages, at = path.read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        messages.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return messages


@cache
def value(size: int) -> bytes:
    """Bytes that do not compress, in case a disk does."""
    return os.urandom(size)


def batch(topic: str, partition: int, records: int, size: int, acks: int) -> bytes:
    return pb.ProduceBatchRequest(
        topic=topic,
        partition=partition,
        records=[pb.Record(value=value(size))] * records,
        required_acks=acks,
        correlation_id=1,
    ).SerializeToString()


def message(topic: str, partition: int, size: int, acks: int) -> bytes:
    return pb.ProduceMessageRequest(
        topic=topic, partition=partition, record=pb.Record(value=value(size)), required_acks=acks
    ).SerializeToString()


def marked_message(topic: str, partition: int, size: int, acks: int) -> bytes:
    """The client puts the time of sending behind the mark."""
    mark = b"takhin-bench-time" + bytes(8)
    record = pb.Record(value=mark + value(size - len(mark)))
    return pb.ProduceMessageRequest(
        topic=topic, partition=partition, record=record, required_acks=acks
    ).SerializeToString()


def consume(topic: str, partition: int, max_bytes: int) -> bytes:
    """From the beginning to the end."""
    return pb.ConsumeMessagesRequest(
        topic=topic, partition=partition, offset=-1, max_bytes=max_bytes, until_end=True
    ).SerializeToString()


def follow(topic: str, partition: int) -> bytes:
    """What comes from now on; heartbeats, so that the client looks up when nothing comes any more."""
    return pb.ConsumeMessagesRequest(topic=topic, partition=partition, offset=-2, heartbeat_ms=100).SerializeToString()


def consumed_record_bytes(size: int) -> int:
    """What a record with a value of ``size`` takes in a response, at offsets of three bytes."""
    record = pb.Record(value=bytes(size), timestamp=1_700_000_000_000, offset=1_000_000)
    return len(pb.ConsumeMessagesResponse(records=[record]).SerializeToString())


#: What bare servers answer a produce request with: as long as Takhin's answers are.
ANSWER = pb.ProduceBatchResponse(
    topic="bench",
    partition=0,
    base_offset=1_000_000,
    last_offset=1_000_255,
    timestamp=1_700_000_000_000,
    correlation_id=1,
    high_watermark=1_000_000,
).SerializeToString()
