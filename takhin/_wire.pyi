"""Protobuf's wire format, straight between request bytes, record spans and batch bytes.

Held to ``google.protobuf`` by property tests: the same bytes are accepted, with the same
meaning. Decoders raise ``errors.MalformedMessage`` for bytes that google.protobuf refuses
too (field ``position``: the byte at fault, counted from 0), and ``MemoryError``. The one
difference: more than ``MAX_RECORDS`` records, or headers in all, are ``errors.TooManyRecords``,
as soon as the one too many is met and whatever comes after it.
Source of the format: https://protobuf.dev/programming-guides/encoding/
"""

from ._fastlog import Batches, RecordSpans

#: Bound on the records of one message, and on their headers together.
MAX_RECORDS: int

class ProduceRequest:
    """ProduceMessageRequest or ProduceBatchRequest. Immutable."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def records(self) -> RecordSpans:
        """Views into the request's bytes, which they keep alive."""
    @property
    def required_acks(self) -> int | None:
        """None when the field is absent."""
    @property
    def timeout_ms(self) -> int: ...
    @property
    def correlation_id(self) -> int: ...
    @property
    def producer_id(self) -> int:
        """0 when there is no producer."""
    @property
    def producer_epoch(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    def copy_records(self) -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]]:
        """(key, value, headers, timestamp) of each. For tools and tests: one object a record."""

class ConsumeRequest:
    """ConsumeMessagesRequest. Immutable."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def min_bytes(self) -> int: ...
    @property
    def max_wait_ms(self) -> int: ...
    @property
    def until_end(self) -> bool: ...
    @property
    def start_timestamp(self) -> int: ...
    @property
    def group_id(self) -> str: ...
    @property
    def max_records(self) -> int: ...
    @property
    def heartbeat_ms(self) -> int: ...

def decode_produce_message(data: bytes) -> ProduceRequest:
    """A ProduceMessageRequest; ``records`` holds one record (an absent ``record`` is an empty one:
    null key and null value), ``sequence`` is field 102, ``correlation_id`` is 0."""

def decode_produce_batch(data: bytes) -> ProduceRequest:
    """A ProduceBatchRequest; ``sequence`` is ``base_sequence``. ``records`` may be empty."""

def decode_consume(data: bytes) -> ConsumeRequest: ...
def encode_produce_message_response(
    topic: str, partition: int, offset: int, timestamp: int, error: str = "", error_code: int = 0
) -> bytes: ...
def encode_produce_batch_response(
    topic: str,
    partition: int,
    base_offset: int,
    last_offset: int,
    timestamp: int,
    correlation_id: int,
    high_watermark: int,
    error: str = "",
    error_code: int = 0,
) -> bytes: ...

class ConsumeResponse:
    """A ConsumeMessagesResponse that is made of several chunks. One thread at a time."""

    def __init__(self, topic: bytes, partition: int, high_watermark: int, max_bytes: int, max_records: int) -> None:
        """``topic`` is UTF-8. ``high_watermark`` as it will be at the end, or about: there, another one may cost a copy
        of the records. The encoded records, with their tags and lengths, fit in ``max_bytes`` (there
        may be one that does not) and are at most ``max_records`` (0: no bound)."""
    @property
    def count(self) -> int:
        """Records so far."""
    def add(self, batches: Batches) -> bool:
        """Takes records off ``batches`` while there is room for them, and moves ``batches.next_offset`` on. Whether
        the batches are at their end and there may be room for more. Releases the GIL for large chunks.

        A header value that is null in the log is empty here: the message cannot tell. In a header key
        that is not UTF-8 (segments from elsewhere may hold such), each bad piece becomes U+FFFD, or clients could
        not read the message.

        Raises ``errors.DataLoss`` (``first_offset``, ``last_offset``, inclusive) when the records of the
        next batch do not add up; records before them are given first: then it is False, and the next
        response, which has no records yet, raises. ``ValueError`` after ``finish``.
        """
    def finish(self, high_watermark: int, log_start_offset: int) -> bytes:
        """The message. Raises ``ValueError`` the second time."""

def encode_consume_response(
    topic: bytes,
    partition: int,
    high_watermark: int,
    log_start_offset: int,
    batches: Batches | None,
    max_bytes: int,
    max_records: int,
) -> tuple[bytes, int]:
    """(message, records in it), of one chunk at most: a ``ConsumeResponse`` in one call. ``batches`` None or at its end
    gives a message without records."""

def keep_buffers(size: int) -> bool:
    """Keep freed memory of up to ``size`` bytes a buffer for the next one, rather than map and unmap each. Of the
    whole process. False where the C library has no such switch."""
