"""What the client hands out: plain values, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .errors import ClientError

#: Offsets that stand for a place.
EARLIEST: Final = -1
LATEST: Final = -2

#: A record's headers, in order; a key may repeat.
Headers = tuple[tuple[str, bytes], ...]


class ConsumedRecord(NamedTuple):
    """One record as it was read. ``key`` and ``value`` are None where Kafka has null."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since the epoch.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Produced:
    """Where one record went."""

    topic: str
    partition: int
    #: -1 with acks 0.
    offset: int
    #: Milliseconds since the epoch.
    timestamp: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome of one batch of a ``Producer``."""

    topic: str
    partition: int
    records: int
    #: Bytes of keys, values and headers.
    size_bytes: int
    #: -1 when it failed, and with acks 0.
    base_offset: int = -1
    #: Inclusive.
    last_offset: int = -1
    #: None when the batch was acknowledged.
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    partition: int
    #: The first offset that can be read.
    beginning_offset: int
    #: The high watermark: the first offset that cannot be read yet.
    end_offset: int
    leader: int = 0
    replicas: tuple[int, ...] = ()
    isr: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    replication_factor: int
    #: By number.
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class TopicConfig:
    name: str
    value: str
    #: ``topic``, ``server`` or ``default``.
    source: str
    documentation: str


@dataclass(frozen=True, slots=True)
class OffsetAtTime:
    topic: str
    partition: int
    #: -1 when no record is at or after the time.
    offset: int
    #: That record's timestamp, ms; -1 where there is none.
    timestamp: int


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    topic: str
    partition: int
    #: The next offset to read; -1 where the group has committed none.
    offset: int


@dataclass(frozen=True, slots=True)
class GroupOffset:
    topic: str
    partition: int
    committed_offset: int
    log_end_offset: int
    lag: int


@dataclass(frozen=True, slots=True)
class GroupMember:
    member_id: str
    client_id: str
    client_host: str
    #: (topic, partition, next offset to be sent to it).
    assignments: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Group:
    group_id: str
    #: ``Empty``, ``Stable``, ``PreparingRebalance``, ``CompletingRebalance`` or ``Dead``.
    state: str
    protocol_type: str
    member_count: int
    #: Filled by ``describe_group`` only, as are the offsets.
    members: tuple[GroupMember, ...] = ()
    offsets: tuple[GroupOffset, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    #: ``healthy``, ``degraded`` or ``unhealthy``.
    status: str
    version: str
    uptime_seconds: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    version: str
    engine: str
    server_id: str
    start_time_ms: int
    limits: dict[str, int] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
