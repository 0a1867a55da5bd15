"""Kafka's record batch of magic 2, slowly and in plain Python: an encoder and a decoder to hold the C code to.

Written from the format's description alone. Nothing here knows ``takhin``.
Source: https://kafka.apache.org/documentation/#messageformat
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Header = tuple[bytes, bytes | None]
#: (key, value, headers, timestamp in ms)
Content = tuple[bytes | None, bytes | None, Sequence[Header], int]

#: Everything up to the checksum, and what the checksum covers of the rest of the header.
_FRONT = struct.Struct(">qiibI")
_BACK = struct.Struct(">hiqqqhii")
HEADER_BYTES = _FRONT.size + _BACK.size
_POLYNOMIAL = 0x82F63B78  # Castagnoli's 0x1EDC6F41, bits reversed

COMPRESSION = 0x07
LOG_APPEND_TIME = 0x08
CONTROL = 0x20


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """RFC 3720's checksum of ``data``, going on from ``crc``."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(number: int) -> bytes:
    """Zigzag, then 7 bits a byte, low bits first."""
    number = (number << 1 ^ number >> 63) & 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _blob(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def encode_record(content: Content, timestamp_delta: int, offset_delta: int, attributes: int = 0) -> bytes:
    key, value, headers, _ = content
    body = bytes([attributes]) + varint(timestamp_delta) + varint(offset_delta) + _blob(key) + _blob(value)
    body += varint(len(headers)) + b"".join(_blob(name) + _blob(what) for name, what in headers)
    return varint(len(body)) + body


def encode(
    records: Sequence[Content],
    base_offset: int = 0,
    *,
    leader_epoch: int = 0,
    attributes: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    offset_deltas: Iterable[int] | None = None,
    last_offset_delta: int | None = None,
    append_time: int | None = None,
) -> bytes:
    """One batch. ``offset_deltas`` and ``last_offset_delta`` leave gaps, as compaction does;
    ``append_time`` makes it a batch of log append time."""
    deltas = list(range(len(records)) if offset_deltas is None else offset_deltas)
    last = deltas[-1] if last_offset_delta is None else last_offset_delta
    base_timestamp, max_timestamp = records[0][3], max(content[3] for content in records)
    if append_time is not None:
        attributes |= LOG_APPEND_TIME
        base_timestamp = max_timestamp = append_time
    body = b"".join(
        encode_record(content, 0 if append_time is not None else content[3] - base_timestamp, delta)
        for content, delta in zip(records, deltas, strict=True)
    )
    summed = (
        _BACK.pack(
            attributes, last, base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, len(records)
        )
        + body
    )
    length = HEADER_BYTES - 12 + len(body)
    return _FRONT.pack(base_offset, length, leader_epoch, 2, crc32c(summed)) + summed


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header] = field(default_factory=list)

    def plain(self) -> tuple[int, int, bytes | None, bytes | None, list[Header]]:
        return (self.offset, self.timestamp, self.key, self.value, self.headers)


@dataclass(frozen=True)
class Batch:
    position: int
    size: int
    base_offset: int
    last_offset: int
    leader_epoch: int
    attributes: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: list[Record]


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise ValueError("cut")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise ValueError("varint too long")
        return number >> 1 ^ -(number & 1)

    def blob(self) -> bytes | None:
        n = self.varint()
        return None if n == -1 else self.take(n)


def _record(data: bytes, base_offset: int, base_timestamp: int, append_time: int | None) -> Record:
    cursor = _Cursor(data)
    cursor.take(1)
    timestamp = base_timestamp + cursor.varint()
    offset = base_offset + cursor.varint()
    key, value = cursor.blob(), cursor.blob()
    headers = []
    for _ in range(cursor.varint()):
        name = cursor.blob()
        if name is None:
            raise ValueError("header without a key")
        headers.append((name, cursor.blob()))
    return Record(offset, timestamp if append_time is None else append_time, key, value, headers)


def decode(data: bytes, position: int = 0) -> Batch:
    """The batch at ``position``. Raises ``ValueError`` when its bytes are wrong."""
    if len(data) - position < HEADER_BYTES:
        raise ValueError("cut")
    base_offset, length, leader_epoch, magic, crc = _FRONT.unpack_from(data, position)
    size = length + 12
    if magic != 2 or size < HEADER_BYTES or size > len(data) - position:
        raise ValueError("not a batch")
    summed = data[position + _FRONT.size : position + size]
    if crc32c(summed) != crc:
        raise ValueError("checksum")
    attributes, last, base_timestamp, max_timestamp, producer_id, epoch, sequence, count = _BACK.unpack_from(summed)
    if attributes & COMPRESSION:
        raise ValueError("compressed")
    cursor = _Cursor(summed[_BACK.size :])
    append_time = max_timestamp if attributes & LOG_APPEND_TIME else None
    records = [_record(cursor.take(cursor.varint()), base_offset, base_timestamp, append_time) for _ in range(count)]
    return Batch(
        position,
        size,
        base_offset,
        base_offset + last,
        leader_epoch,
        attributes,
        base_timestamp,
        max_timestamp,
        producer_id,
        epoch,
        sequence,
        records,
    )


def decode_all(data: bytes) -> list[Batch]:
    """Batches one after the other, to the end. Raises ``ValueError``."""
    batches = []
    position = 0
    while position < len(data):
        batches.append(decode(data, position))
        position += batches[-1].size
    return batches


def index_entries(
    batches: Iterable[Batch], base_offset: int, interval_bytes: int, sealed: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(offset index, time index) that Kafka's rule makes of a segment's batches: an entry at the first batch
    after more than ``interval_bytes`` since the last. (relative last offset, position), (timestamp, relative one)."""
    offsets: list[tuple[int, int]] = []
    times: list[tuple[int, int]] = []
    largest, where, since = -1, -1, 0
    for batch in batches:
        if batch.max_timestamp > largest:
            largest, where = batch.max_timestamp, batch.last_offset
        if since > interval_bytes:
            offsets.append((batch.last_offset - base_offset, batch.position))
            if largest > (times[-1][0] if times else -1):
                times.append((largest, where - base_offset))
            since = 0
        since += batch.size
    if sealed and largest > (times[-1][0] if times else -1):
        times.append((largest, where - base_offset))
    return offsets, times


def index_bytes(offsets: Iterable[tuple[int, int]], times: Iterable[tuple[int, int]]) -> tuple[bytes, bytes]:
    """The two index files."""
    return (
        b"".join(struct.pack(">ii", *entry) for entry in offsets),
        b"".join(struct.pack(">qi", *entry) for entry in times),
    )
