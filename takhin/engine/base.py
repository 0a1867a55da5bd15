"""The engine interface: all that the server knows of where records live.

An engine is safe to call from many threads. Its methods raise ``errors.TakhinError``
only; each docstring names the ones that belong to it. Any method may raise
``Unavailable`` while the engine starts or stops.

Record batches of Kafka's message format v2 are the common currency: produce hands over
``RecordSpans`` (records as they lie in the request), consume gives ``Batches``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .._fastlog import Batches, RecordSpans
from ..errors import TakhinError

#: ``required_acks``: answered when on stable storage, when written, when accepted.
ACKS_DURABLE = -1
ACKS_WRITTEN = 1
ACKS_NONE = 0

#: Offsets that stand for a place, in consume and list-offsets requests.
EARLIEST = -1
LATEST = -2

#: The partition that stands for "choose one".
ANY_PARTITION = -1


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    partition: int
    #: First offset that can be read.
    log_start_offset: int
    #: First offset that cannot be read yet.
    high_watermark: int
    #: Next offset to be assigned.
    log_end_offset: int
    #: Bytes of its segments on disk.
    size_bytes: int = 0
    #: Why it takes no writes; empty when it does.
    offline_reason: str = ""
    leader: int = 0
    replicas: tuple[int, ...] = (0,)
    isr: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class TopicDescription:
    name: str
    partitions: tuple[PartitionDescription, ...]
    replication_factor: int = 1


@dataclass(frozen=True, slots=True)
class TopicConfigEntry:
    name: str
    value: str
    #: ``topic``, ``server`` or ``default``.
    source: str
    documentation: str


@dataclass(frozen=True, slots=True)
class ProducerStamp:
    """Who sent a batch, for idempotent produce. ``sequence`` is the first record's."""

    producer_id: int
    epoch: int
    sequence: int


@dataclass(slots=True)
class Appended:
    """Where a batch went. Offsets are -1 when nobody knows them (acks 0)."""

    partition: int
    base_offset: int
    #: Inclusive.
    last_offset: int
    #: Largest timestamp of the batch, ms.
    timestamp: int
    high_watermark: int


#: Called exactly once, with the outcome; from the caller's thread before ``append``
#: returns, or later from a thread of the engine. It must be quick and must not raise.
AppendDone = Callable[[Appended | TakhinError], None]


@dataclass(frozen=True, slots=True)
class OffsetAtTime:
    #: -1 when no record is at or after the time.
    offset: int
    #: The record's timestamp, ms; -1 where there is none.
    timestamp: int


@dataclass(frozen=True, slots=True)
class GroupOffset:
    topic: str
    partition: int
    #: Next offset the group reads; -1 when it has committed none there.
    committed_offset: int
    log_end_offset: int = -1
    #: Readable records that the group has not committed; never negative.
    lag: int = 0


@dataclass(slots=True)
class GroupMember:
    """A consumer that is reading for a group at this moment."""

    member_id: str
    client_id: str
    client_host: str
    topic: str
    partition: int
    #: Next offset to be sent to it; its reader moves it on.
    position: int


@dataclass(frozen=True, slots=True)
class GroupDescription:
    group_id: str
    #: ``Empty``, ``Stable`` or ``Dead``; Kafka's words.
    state: str
    protocol_type: str
    members: tuple[GroupMember, ...] = ()
    offsets: tuple[GroupOffset, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineHealth:
    #: ``healthy``, ``degraded`` (some partition takes no writes) or ``unhealthy`` (none does).
    status: str
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    name: str
    server_id: str
    limits: Mapping[str, int] = field(default_factory=dict)
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """What was done since the start, and the disk."""

    records_appended: int = 0
    bytes_appended: int = 0
    bytes_read: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0
    #: 0 where there is no disk to speak of.
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0


class Reader(ABC):
    """One consumer's place in one partition. Used by one thread at a time."""

    #: The next offset to be read.
    next_offset: int

    @abstractmethod
    def read(self, max_bytes: int, cached_only: bool = False) -> Batches | None:
        """The readable batches from ``next_offset`` on, about ``max_bytes`` of them; None when
        ``next_offset`` is the high watermark.

        At least one whole batch is given, however large. The place moves on only by
        ``advance``, so that a chunk can be read in parts. With ``cached_only``, there is no wait for a disk: raises
        ``BlockingIOError`` where there might be one, and then nothing has changed.

        Raises ``OffsetOutOfRange`` (retention passed the place), ``DataLoss`` (the bytes at the
        place fail their checks; the fields give the range to skip), ``TopicNotFound`` (deleted).
        """

    @abstractmethod
    def advance(self, next_offset: int) -> None:
        """The consumer has everything below ``next_offset``."""

    @abstractmethod
    def watermarks(self) -> tuple[int, int]:
        """(log_start_offset, high_watermark) now."""

    @abstractmethod
    def available_bytes(self, limit: int) -> int:
        """About how many bytes can be read from the place on; counting may stop at ``limit``."""

    @abstractmethod
    def park(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once as soon as ``read`` would give something, or raise: at once when it
        would now. ``wake`` may come from any thread, must be quick and must not raise. A second
        ``park`` before the wake takes the place of the first."""

    @abstractmethod
    def close(self) -> None:
        """Forget the place and any parked wake. Idempotent; callable from any thread."""


class Engine(ABC):
    # -- life ---------------------------------------------------------------------------------

    def claim(self) -> None:  # noqa: B027 (not every engine has something to own)
        """Own the data and change nothing yet; quick. ``start`` does it where nobody has; ``stop`` gives it back.
        Raises ``DataDirLocked``."""

    @abstractmethod
    def start(self) -> None:
        """Recover, then be ready. Raises ``DataDirLocked``, ``MetadataDamaged``, ``ConfigError``."""

    @abstractmethod
    def stop(self) -> None:
        """Refuse new work, flush everything, leave the clean marker. Idempotent; also before ``start`` and after
        one that failed, when it changes nothing."""

    @abstractmethod
    def health(self) -> EngineHealth: ...

    @abstractmethod
    def info(self) -> EngineInfo: ...

    def totals(self) -> Totals:
        """Cheap: read every few seconds."""
        return Totals()

    def progress(self) -> str:
        """How far ``start`` is, for people; empty when nothing is known yet. Callable from any thread."""
        return ""

    # -- topics -------------------------------------------------------------------------------

    @abstractmethod
    def create_topic(
        self, name: str, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> TopicDescription:
        """Zeros mean the defaults. When it returns, the topic survives a power cut.

        Raises ``InvalidTopicName``, ``InvalidPartitionCount``, ``InvalidReplicationFactor``,
        ``InvalidTopicConfig``, ``TopicAlreadyExists``, ``LimitReached``, ``DiskFull``.
        """

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Raises ``TopicNotFound``. Readers of the topic are woken and get ``TopicNotFound``."""

    @abstractmethod
    def topic_names(self) -> list[str]:
        """Sorted."""

    @abstractmethod
    def describe_topic(self, name: str) -> TopicDescription:
        """Raises ``TopicNotFound``."""

    @abstractmethod
    def create_partitions(self, topic: str, num_partitions: int) -> int:
        """Grow to a total. Raises ``TopicNotFound``, ``InvalidPartitionCount``, ``LimitReached``."""

    @abstractmethod
    def alter_topic_configs(self, topic: str, changes: Mapping[str, str], unset: Sequence[str]) -> None:
        """All or none, in force when it returns. Raises ``TopicNotFound``, ``InvalidTopicConfig``."""

    @abstractmethod
    def describe_topic_configs(self, topic: str) -> list[TopicConfigEntry]:
        """The effective configs, by name. Raises ``TopicNotFound``."""

    @abstractmethod
    def delete_records(self, offsets: Sequence[tuple[str, int, int]]) -> list[int]:
        """For each (topic, partition, offset), forget what lies below; -1 means the high watermark.
        Gives the new log start offsets, which survive a power cut. An offset below the present
        log start changes nothing. Nothing is done unless all can be.

        Raises ``TopicNotFound``, ``PartitionNotFound``, ``OffsetOutOfRange``.
        """

    # -- records ------------------------------------------------------------------------------

    @abstractmethod
    def append(
        self,
        topic: str,
        partition: int,
        records: RecordSpans,
        acks: int,
        producer: ProducerStamp | None,
        done: AppendDone,
        alone: bool = False,
    ) -> None:
        """Append the records as one batch; ``ANY_PARTITION`` chooses by the first record's key. The caller that is
        ``alone``, as far as it knows, may be made to wait for stable storage here, where that is quick.

        Every outcome goes to ``done``, failures too; nothing is raised. ``acks`` says when:
        ``ACKS_DURABLE`` once the batch is on stable storage, ``ACKS_WRITTEN`` once it is written,
        ``ACKS_NONE`` once it is accepted. Batches of one caller and partition keep their order.

        Outcomes: ``TopicNotFound``, ``PartitionNotFound``, ``RecordTooLarge``, ``InvalidArgument``
        (no records), ``InvalidTimestamp``, ``OutOfOrderSequence``, ``ProducerFenced``,
        ``UnknownProducer``, ``LogOffline``, ``DurabilityUnknown``, ``DiskFull``, ``Unavailable``.
        """

    @abstractmethod
    def open_reader(self, topic: str, partition: int, offset: int) -> Reader:
        """A reader at an offset, ``EARLIEST`` or ``LATEST``.

        Raises ``TopicNotFound``, ``PartitionNotFound``, ``OffsetOutOfRange``.
        """

    @abstractmethod
    def describe_partition(self, topic: str, partition: int) -> PartitionDescription:
        """Raises ``TopicNotFound``, ``PartitionNotFound``."""

    @abstractmethod
    def offset_at_time(self, topic: str, partition: int, timestamp: int) -> OffsetAtTime:
        """The earliest readable record whose timestamp is at or after ``timestamp`` (ms, >= 0).

        Raises ``TopicNotFound``, ``PartitionNotFound``, ``DataLoss``.
        """

    @abstractmethod
    def init_producer_id(self, producer_id: int, epoch: int) -> tuple[int, int]:
        """(id, epoch). 0 makes a new producer; else the next epoch of that one, if ``epoch`` is its
        present one. Raises ``UnknownProducer``, ``ProducerFenced``."""

    # -- groups -------------------------------------------------------------------------------

    @abstractmethod
    def commit_offsets(self, group_id: str, offsets: Sequence[tuple[str, int, int]]) -> None:
        """All or none; on stable storage when it returns.

        Raises ``InvalidGroupId``, ``InvalidOffset``, ``TopicNotFound``, ``PartitionNotFound``.
        """

    @abstractmethod
    def committed_offsets(
        self, group_id: str, partitions: Sequence[tuple[str, int]] | None
    ) -> list[tuple[str, int, int]]:
        """(topic, partition, committed offset); -1 where one was asked for and there is none.
        None asks for all, sorted. An unknown group has committed nothing. Raises ``InvalidGroupId``."""

    @abstractmethod
    def groups(self) -> list[GroupDescription]:
        """All, by id, without members' and offsets' details."""

    @abstractmethod
    def describe_group(self, group_id: str) -> GroupDescription:
        """Raises ``GroupNotFound``."""

    @abstractmethod
    def delete_group(self, group_id: str) -> None:
        """Raises ``GroupNotFound``, ``GroupNotEmpty``."""

    @abstractmethod
    def join_group(self, group_id: str, member: GroupMember) -> Callable[[], None]:
        """Count a reader as a member until the callable that it gives is called (idempotent).

        Raises ``InvalidGroupId``.
        """
