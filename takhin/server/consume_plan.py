"""What a ConsumeMessagesRequest asks for, checked and with its defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

from .._wire import ConsumeRequest
from ..engine.base import LATEST
from ..errors import InvalidArgument, InvalidOffset, InvalidTimestamp

#: Bytes of records in one response when the request does not say.
DEFAULT_MAX_BYTES = 1024 * 1024
#: A wait for more bytes is a matter of seconds; an hour is a mistake in the unit.
MAX_WAIT_MS = 3_600_000
#: Heartbeats that come faster would be the load itself.
MIN_HEARTBEAT_MS = 10


@dataclass(frozen=True, slots=True)
class ConsumePlan:
    topic: str
    partition: int
    #: An offset, ``EARLIEST`` or ``LATEST``.
    offset: int
    #: Of records in one response.
    max_bytes: int
    #: Worth waiting for; never more than ``max_bytes``.
    min_bytes: int
    max_wait_seconds: float
    until_end: bool
    #: ms; None when not asked for.
    start_timestamp: int | None
    #: Empty when the reader is in no group.
    group_id: str
    #: In all; 0: no bound.
    max_records: int
    #: 0: none.
    heartbeat_seconds: float


def plan_of(request: ConsumeRequest, max_message_bytes: int) -> ConsumePlan:
    """Raises ``InvalidArgument`` naming the field. Whether the place exists is for the engine to say."""
    for field in ("max_bytes", "min_bytes", "max_wait_ms", "max_records", "heartbeat_ms"):
        value = getattr(request, field)
        if value < 0:
            raise InvalidArgument(f"{field} is {value}: must not be negative", bad_field=field)
    if request.max_wait_ms > MAX_WAIT_MS:
        raise InvalidArgument(
            f"max_wait_ms is {request.max_wait_ms}: must be at most {MAX_WAIT_MS}",
            bad_field="max_wait_ms",
            limit=MAX_WAIT_MS,
        )
    if 0 < request.heartbeat_ms < MIN_HEARTBEAT_MS:
        raise InvalidArgument(
            f"heartbeat_ms is {request.heartbeat_ms}: must be 0 or at least {MIN_HEARTBEAT_MS}",
            bad_field="heartbeat_ms",
            limit=MIN_HEARTBEAT_MS,
        )
    if request.start_timestamp < 0:
        raise InvalidTimestamp(
            f"start_timestamp is {request.start_timestamp}: must not be negative", bad_field="start_timestamp"
        )
    if request.offset < LATEST:
        raise InvalidOffset(
            f"offset is {request.offset}: must be an offset, -1 (earliest) or -2 (latest)",
            bad_field="offset",
            offset=request.offset,
        )
    max_bytes = min(request.max_bytes or DEFAULT_MAX_BYTES, max_message_bytes)
    return ConsumePlan(
        topic=request.topic,
        partition=request.partition,
        offset=request.offset,
        max_bytes=max_bytes,
        min_bytes=min(request.min_bytes, max_bytes),
        max_wait_seconds=request.max_wait_ms / 1000,
        until_end=request.until_end,
        start_timestamp=request.start_timestamp or None,
        group_id=request.group_id,
        max_records=request.max_records,
        heartbeat_seconds=request.heartbeat_ms / 1000,
    )
