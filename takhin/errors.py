"""The taxonomy of failures: what went wrong, as a gRPC code name, a reason and fields.

A leaf: it imports nothing of the project and knows no gRPC. ``server.status`` turns an
error into a status, one way for all of them.
"""

from __future__ import annotations

from typing import ClassVar


class TakhinError(Exception):
    """Base of everything that this project raises on purpose.

    ``code`` is the name of a gRPC status code, ``reason`` the ErrorInfo reason,
    ``retriable`` says that the same call may succeed later without a change, and
    ``fields`` are facts (topic, partition, offset, limit ...) for the ErrorInfo metadata.
    ``bad_field`` names the request field at fault, in the words of the proto.
    """

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"
    retriable: ClassVar[bool] = False
    #: How long a caller should wait before it tries again, when ``retriable``; milliseconds.
    retry_delay_ms: ClassVar[int] = 0

    def __init__(self, message: str, *, bad_field: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.bad_field = bad_field
        self.fields: dict[str, str] = {name: str(value) for name, value in fields.items()}


class InvalidArgument(TakhinError):
    """A request that can never succeed as it is."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class MalformedMessage(InvalidArgument):
    """Bytes that are not the protobuf message they should be."""

    reason = "MALFORMED_MESSAGE"


class InvalidTopicName(InvalidArgument):
    reason = "INVALID_TOPIC_NAME"


class InvalidPartitionCount(InvalidArgument):
    reason = "INVALID_PARTITION_COUNT"


class InvalidReplicationFactor(InvalidArgument):
    reason = "INVALID_REPLICATION_FACTOR"


class InvalidTopicConfig(InvalidArgument):
    reason = "INVALID_TOPIC_CONFIG"


class InvalidGroupId(InvalidArgument):
    reason = "INVALID_GROUP_ID"


class InvalidRequiredAcks(InvalidArgument):
    reason = "INVALID_REQUIRED_ACKS"


class InvalidOffset(InvalidArgument):
    reason = "INVALID_OFFSET"


class InvalidTimestamp(InvalidArgument):
    reason = "INVALID_TIMESTAMP"


class NotFound(TakhinError):
    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class TopicNotFound(NotFound):
    reason = "TOPIC_NOT_FOUND"


class PartitionNotFound(NotFound):
    reason = "PARTITION_NOT_FOUND"


class GroupNotFound(NotFound):
    reason = "GROUP_NOT_FOUND"


class TopicAlreadyExists(TakhinError):
    code = "ALREADY_EXISTS"
    reason = "TOPIC_ALREADY_EXISTS"


class OffsetOutOfRange(TakhinError):
    """Fields: ``offset``, ``log_start_offset``, ``high_watermark``: the valid range, inclusive."""

    code = "OUT_OF_RANGE"
    reason = "OFFSET_OUT_OF_RANGE"


class FailedPrecondition(TakhinError):
    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class GroupNotEmpty(FailedPrecondition):
    reason = "GROUP_NOT_EMPTY"


class LogOffline(FailedPrecondition):
    """A partition that takes no writes until the server is restarted, after a disk fault."""

    reason = "LOG_OFFLINE"


class OutOfOrderSequence(FailedPrecondition):
    """A gap in a producer's sequence numbers: something it sent earlier is missing."""

    reason = "OUT_OF_ORDER_SEQUENCE"


class UnknownProducer(FailedPrecondition):
    reason = "UNKNOWN_PRODUCER_ID"


class ProducerFenced(FailedPrecondition):
    """A newer epoch of this producer is in use."""

    reason = "PRODUCER_FENCED"


class ResourceExhausted(TakhinError):
    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class RecordTooLarge(ResourceExhausted):
    reason = "RECORD_TOO_LARGE"


class MessageTooLarge(ResourceExhausted):
    """A request message above ``grpc.max_message_size``. Far larger ones are refused by gRPC itself,
    without details."""

    reason = "MESSAGE_TOO_LARGE"


class TooManyRecords(ResourceExhausted):
    reason = "TOO_MANY_RECORDS"


class TooManyBytesInFlight(ResourceExhausted):
    reason = "TOO_MANY_BYTES_IN_FLIGHT"
    retriable = True
    retry_delay_ms = 100


class TooManyStreams(ResourceExhausted):
    reason = "TOO_MANY_STREAMS"
    retriable = True
    retry_delay_ms = 1000


class TooManyCalls(ResourceExhausted):
    """More calls at once than the server takes."""

    reason = "TOO_MANY_CALLS"
    retriable = True
    retry_delay_ms = 200


class LimitReached(ResourceExhausted):
    """A configured bound (topics, partitions, groups ...) would be passed."""

    reason = "LIMIT_REACHED"


class DiskFull(ResourceExhausted):
    reason = "DISK_FULL"
    retriable = True
    retry_delay_ms = 1000


class DescriptorsExhausted(ResourceExhausted):
    """The process has no file descriptor left; it goes on when there are some again."""

    reason = "NO_FILE_DESCRIPTORS"
    retriable = True
    retry_delay_ms = 1000


class DataLoss(TakhinError):
    """Stored bytes fail their checks. Fields: ``first_offset``, ``last_offset``, inclusive."""

    code = "DATA_LOSS"
    reason = "CORRUPT_RECORDS"


class DurabilityUnknown(TakhinError):
    """A flush failed while this call waited: the records may or may not be kept."""

    code = "UNKNOWN"
    reason = "DURABILITY_UNKNOWN"


class Timeout(TakhinError):
    """The wait ended first: the record may or may not be in the log."""

    code = "DEADLINE_EXCEEDED"
    reason = "REQUEST_TIMED_OUT"
    retriable = True


class Unavailable(TakhinError):
    """The server is starting or stopping."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"
    retriable = True
    retry_delay_ms = 1000


class Unimplemented(TakhinError):
    code = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class Internal(TakhinError):
    """A defect. The message that a caller sees is generic; the log has the cause."""


class ConfigError(TakhinError):
    """A configuration that cannot be used. Never crosses the network."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_CONFIGURATION"


class NewerFormat(TakhinError):
    """The data directory was written by a newer version. Never crosses the network: the server does not start."""

    code = "FAILED_PRECONDITION"
    reason = "NEWER_FORMAT"


class DataDirLocked(TakhinError):
    """Another process owns the data directory. Never crosses the network."""

    code = "FAILED_PRECONDITION"
    reason = "DATA_DIR_LOCKED"


class MetadataDamaged(TakhinError):
    """The metadata database cannot be believed. Never crosses the network: the server does not start."""

    code = "DATA_LOSS"
    reason = "METADATA_DAMAGED"


class AddressInUse(TakhinError):
    """An address that cannot be listened on. Never crosses the network: the server does not start."""

    code = "FAILED_PRECONDITION"
    reason = "ADDRESS_IN_USE"
