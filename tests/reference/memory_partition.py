"""What ``memory_engine`` keeps of a partition, and a place in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from takhin import errors
from takhin._fastlog import Batches
from takhin.engine import base


@dataclass
class Batch:
    data: bytes
    base_offset: int
    last_offset: int


@dataclass
class Sequences:
    epoch: int
    #: (first sequence, last sequence, where it went)
    last: list[tuple[int, int, base.Appended]] = field(default_factory=list)


@dataclass
class Partition:
    log_start: int = 0
    log_end: int = 0
    high_watermark: int = 0
    batches: list[Batch] = field(default_factory=list)
    #: (timestamp, offset) of each record.
    times: list[tuple[int, int]] = field(default_factory=list)
    producers: dict[int, Sequences] = field(default_factory=dict)
    readers: set[MemoryReader] = field(default_factory=set)
    deleted: bool = False


@dataclass
class Topic:
    name: str
    configs: dict[str, str]
    partitions: list[Partition]
    next_spread: int = 0


class MemoryReader(base.Reader):
    def __init__(
        self, lock: AbstractContextManager[object], topic: str, index: int, partition: Partition, offset: int
    ) -> None:
        self._lock = lock
        self._topic = topic
        self._index = index
        self._partition = partition
        self.next_offset = offset
        self.wake: Callable[[], None] | None = None
        partition.readers.add(self)

    def _check(self) -> None:
        partition = self._partition
        if partition.deleted:
            raise errors.TopicNotFound(f"topic {self._topic!r} does not exist", topic=self._topic)
        if self.next_offset < partition.log_start:
            raise out_of_range(self._topic, self._index, self.next_offset, partition)

    def read(self, max_bytes: int, cached_only: bool = False) -> Batches | None:
        with self._lock:
            self._check()
            partition = self._partition
            if self.next_offset >= partition.high_watermark:
                return None
            data = b""
            for batch in partition.batches:
                if batch.last_offset < self.next_offset or batch.base_offset >= partition.high_watermark:
                    continue
                if data and len(data) + len(batch.data) > max_bytes:
                    break
                data += batch.data
            return Batches(data, self.next_offset, partition.high_watermark)

    def advance(self, next_offset: int) -> None:
        self.next_offset = next_offset

    def watermarks(self) -> tuple[int, int]:
        with self._lock:
            return self._partition.log_start, self._partition.high_watermark

    def available_bytes(self, limit: int) -> int:
        with self._lock:
            at, high = self.next_offset, self._partition.high_watermark
            return sum(len(b.data) for b in self._partition.batches if b.last_offset >= at and b.base_offset < high)

    def park(self, wake: Callable[[], None]) -> None:
        with self._lock:
            partition = self._partition
            parked = (
                partition.log_start <= self.next_offset and self.next_offset >= partition.high_watermark
            ) and not partition.deleted
            self.wake = wake if parked else None
        if not parked:
            wake()

    def close(self) -> None:
        with self._lock:
            self.wake = None
            self._partition.readers.discard(self)


def out_of_range(topic: str, index: int, offset: int, partition: Partition) -> errors.OffsetOutOfRange:
    return errors.OffsetOutOfRange(
        f"offset {offset} of {topic!r}-{index} is outside of {partition.log_start} to {partition.high_watermark}",
        topic=topic,
        partition=index,
        offset=offset,
        log_start_offset=partition.log_start,
        high_watermark=partition.high_watermark,
    )
