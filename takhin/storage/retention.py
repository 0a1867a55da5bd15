"""What is old enough, or too much, and may go: always whole sealed segments, from the front."""

from __future__ import annotations

import logging
import os

from .._os import sync_dir
from ..errors import TakhinError
from . import fs
from .partition import Partition
from .segment import Segment

log = logging.getLogger(__name__)


def retain(partition: Partition) -> int:
    """Remove what ``retention.ms``, ``retention.bytes`` and the log start offset let go; gives the
    number of segments removed. Raises ``OSError``, ``TakhinError``."""
    expired = _expired_until(partition)
    if expired is not None and expired > partition.log_start_offset:
        partition.raise_log_start(expired)
    return remove_unused(partition)


def remove_unused(partition: Partition) -> int:
    """Remove the files of segments below the log start offset. Raises ``OSError``."""
    gone = partition.drop_segments_below(partition.log_start_offset)
    for segment in gone:
        for suffix in (fs.LOG_SUFFIX, fs.INDEX_SUFFIX, fs.TIME_INDEX_SUFFIX, fs.SEAL_SUFFIX):
            fs.remove_if_there(segment.path(suffix))
        segment.close()
    if gone:
        sync_dir(partition.directory)
        partition.environment.counters.segments_deleted += len(gone)
        log.info(
            "segments removed",
            extra={
                "fields": {
                    "topic": partition.topic,
                    "partition": partition.partition,
                    "segments": len(gone),
                    "bytes": sum(segment.size for segment in gone),
                    "log_start_offset": partition.log_start_offset,
                }
            },
        )
    return len(gone)


def _expired_until(partition: Partition) -> int | None:
    """The offset below which everything has expired by age or size; None when nothing has.

    A segment goes by its largest timestamp, so it goes only when all its records are old; a clock
    that jumps back makes segments live longer, never shorter.
    """
    configs, clock = partition.configs, partition.environment.clock
    until: int | None = None
    if configs.retention_ms >= 0:
        oldest = clock.now_ms() - configs.retention_ms
        for segment in partition.segments:
            if segment.size == 0 or _newest_ms(segment) >= oldest:
                break
            if not segment.sealed:
                _roll(partition)
            until = _end(partition, segment.base_offset)
    if configs.retention_bytes >= 0:
        excess = partition.size_bytes() - configs.retention_bytes
        for segment in partition.segments[:-1]:
            excess -= segment.size
            if excess < 0:
                break
            until = max(until or 0, _end(partition, segment.base_offset))
    return until if until is None else min(until, partition.high_watermark)


def _newest_ms(segment: Segment) -> int:
    """Its largest timestamp; where it has none, or none that can be read, when it was written last."""
    largest = segment.largest_timestamp()
    return largest if largest >= 0 else os.stat(segment.path(fs.LOG_SUFFIX)).st_mtime_ns // 1_000_000


def _roll(partition: Partition) -> None:
    try:
        partition.roll()
    except TakhinError as problem:
        log.warning(
            "expired segment cannot be rolled",
            extra={"fields": {"topic": partition.topic, "partition": partition.partition, "error": problem.message}},
        )


def _end(partition: Partition, base_offset: int) -> int:
    """The base offset of the segment that follows; its own when none does."""
    segments = partition.segments
    following = next((segment for segment in segments if segment.base_offset > base_offset), None)
    return following.base_offset if following is not None else base_offset
