"""Record batches of Kafka's message format v2 (magic 2), in memory.

Framing, checking and walking, in C. Knows no protobuf and no files (``_segment`` does files).
Source of the format: https://kafka.apache.org/documentation/#messageformat
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Bytes of a batch before its first record: 61.
BATCH_HEADER_BYTES: int
#: The largest offset; as ``end_offset`` it means no bound.
MAX_OFFSET: int

class BatchInfo(NamedTuple):
    """A batch's header. Offsets are inclusive, sizes bytes, timestamps ms."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    leader_epoch: int
    magic: int
    crc: int
    #: Whether the whole batch is there and its CRC fits.
    crc_ok: bool
    #: Bits 0-2 compression, 3 log append time, 4 transactional, 5 control.
    attributes: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

def crc32c(data: bytes | bytearray | memoryview, crc: int = 0, backend: str | None = None) -> int:
    """CRC-32C (RFC 3720) of ``data``, going on from ``crc``; by the best backend, or by the one named."""

def crc32c_backends() -> tuple[str, ...]:
    """Those that this processor has of ``table``, ``sse4.2`` and ``vpclmulqdq``; the best is the last."""

def murmur2(key: bytes) -> int:
    """Kafka's partitioner hash, unsigned; the partition is ``(hash & 0x7fffffff) % partitions``."""

def batch_info(data: bytes | memoryview, position: int = 0) -> BatchInfo | None:
    """The batch at ``position``; None when not even its header is there."""

class RecordSpans:
    """Records that lie in somebody else's bytes. Filled once, then handed to one ``frame``."""

    @staticmethod
    def from_records(
        records: Iterable[tuple[bytes | None, bytes | None, Sequence[tuple[str | bytes, bytes | None]], int]],
    ) -> RecordSpans:
        """From (key, value, headers, timestamp ms; 0 = the time of the append)."""
    def __len__(self) -> int: ...
    def first_key(self) -> bytes | None:
        """The first record's key, copied; None when it is null or there is no record."""
    def frame(
        self,
        now_ms: int,
        *,
        log_append_time: bool = False,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        max_bytes: int = 2147483647,
    ) -> RecordBatch:
        """One batch of all records, without an offset. Timestamps of 0 become ``now_ms``; with
        ``log_append_time`` all do. Releases the GIL for large batches.

        Raises ``InvalidArgument`` (no record), ``InvalidTimestamp`` (negative),
        ``RecordTooLarge`` (over ``max_bytes``), ``MemoryError``.
        """

class RecordBatch:
    """A framed and summed batch that has no offset yet."""

    @property
    def size(self) -> int:
        """Bytes, header included."""
    @property
    def record_count(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def producer_id(self) -> int:
        """-1 when there is no producer."""
    @property
    def producer_epoch(self) -> int: ...
    @property
    def base_sequence(self) -> int: ...
    def tobytes(self, base_offset: int = 0) -> bytes:
        """The batch as it would be written at ``base_offset``."""
    def records_bytes(self) -> bytes:
        """What comes behind the header, to be compressed."""
    def compressed(self, codec: int, records: bytes) -> RecordBatch:
        """The same batch with its records as a block of ``codec``, the number in the attributes."""

def batch_with_records(batch: bytes, records: bytes) -> bytes:
    """An uncompressed batch with the header of ``batch`` and these records. Raises ``ValueError``."""

class Batches:
    """Whole batches in one buffer, and a reader's place in them. One reader at a time.

    Whoever makes one has checked the CRCs; the walk trusts lengths no further than the buffer.
    """

    def __init__(self, data: bytes = b"", next_offset: int = 0, end_offset: int = MAX_OFFSET) -> None: ...
    @property
    def next_offset(self) -> int:
        """Records below it are passed over."""
    @property
    def end_offset(self) -> int:
        """Records from it on are not given (exclusive)."""
    @property
    def size_bytes(self) -> int: ...
    @property
    def is_compressed(self) -> bool:
        """Whether any of the batches is: then ``storage.compression`` must have them first."""
    @property
    def following_bytes(self) -> int:
        """Size of the batch behind these, as its header says, unchecked; 0 when that is not known."""
    def tobytes(self) -> bytes: ...
    def first_info(self) -> BatchInfo:
        """The first batch's header. Raises ``IndexError`` when there is none."""
    def find_time(self, timestamp: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the next record that is at or after ``timestamp`` (ms); the place
        moves behind it, or to the end. Raises ``DataLoss``."""
    def records(self) -> list[tuple[int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]]:
        """The rest, as (offset, timestamp, key, value, headers); the place moves to the end.
        For tools and tests: one object a record. Raises ``DataLoss``."""
