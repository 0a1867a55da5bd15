"""A place in a partition, from which batches are read."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable

from .._fastlog import BATCH_HEADER_BYTES, MAX_OFFSET, Batches
from ..errors import DataLoss, DescriptorsExhausted, OffsetOutOfRange, TakhinError
from .compression import DecompressionFailed, decompress
from .partition import Partition, base_offset_of
from .segment import Segment

#: Batches of which fewer than these fit in a read are read whole: what is read of one more would be in vain.
FEW_BATCHES = 8


class PartitionReader:
    """Used by one thread at a time, but for ``close``. Satisfies the engine's ``Reader``.

    Reading on from where the last read ended needs no index: the place in the segment is kept.
    """

    __slots__ = (
        "_expected",
        "_expensive",
        "_following_bytes",
        "_partition",
        "_position",
        "_read_end",
        "_segment",
        "next_offset",
    )

    def __init__(self, partition: Partition, next_offset: int) -> None:
        self._partition = partition
        self.next_offset = next_offset
        #: Where the batch with offset ``_read_end`` begins, once something was read.
        self._segment: Segment | None = None
        self._position = 0
        self._expected = -1
        self._read_end = -1
        #: Size of the batch there, as its header says; 0: not known.
        self._following_bytes = 0
        #: What was read last had to be expanded.
        self._expensive = False

    def read(self, max_bytes: int, cached_only: bool = False) -> Batches | None:
        partition = self._partition
        partition.check_offset(self.next_offset)
        end_offset = partition.high_watermark
        if self.next_offset >= end_offset:
            return None
        try:
            return self._read(max(max_bytes, 1), end_offset, cached_only)
        except BlockingIOError:
            raise
        except FileNotFoundError as problem:
            # Retention or a deletion was faster: say which.
            gone, self._segment = self._segment, None
            partition.check_offset(self.next_offset)
            if gone is not None and gone not in partition.segments:
                return self.read(max_bytes, cached_only)  # only the segment before the place went
            raise self._read_failed(problem, end_offset) from None
        except OSError as problem:
            self._segment = None
            raise self._read_failed(problem, end_offset) from problem

    def _read(self, max_bytes: int, end_offset: int, cached_only: bool) -> Batches | None:
        segment = self._segment
        place_known = segment is not None and self._read_end == self.next_offset
        if cached_only and (not place_known or self._expensive):
            raise BlockingIOError
        if segment is None or not place_known:
            segment = self._seek(self.next_offset)
        while True:
            if cached_only and segment.open_file is None:
                raise BlockingIOError
            # The size first: a segment that is sealed after this look is simply read to here.
            limit = segment.size
            batches, status, position, expected = segment.file().read(
                self._position,
                limit,
                self._expected,
                self.next_offset,
                end_offset,
                self._whole(max_bytes),
                cached_only=cached_only,
            )
            if cached_only and (status < 0 or (batches is not None and batches.is_compressed)):
                self._expensive = True
                raise BlockingIOError
            self._position, self._expected = position, expected
            if batches is not None:
                self._following_bytes = batches.following_bytes
                self._segment, self._read_end = segment, expected
                self._partition.environment.counters.bytes_read += batches.size_bytes
                self._expensive = batches.is_compressed
                return self._expanded(batches) if self._expensive else batches
            if status < 0:
                damage = segment.look_behind(position, expected, status, segment.index())
                self._partition.environment.counters.damages += 1
                if damage.end_offset != MAX_OFFSET and self.next_offset >= damage.end_offset:
                    self._position, self._expected = damage.resume_position, damage.end_offset
                    continue
                behind = damage.end_offset
                if behind == MAX_OFFSET:
                    following = self._following(segment)
                    if following is not None and self.next_offset >= following.base_offset:
                        segment = self._enter(following)
                        continue
                    behind = following.base_offset if following is not None else end_offset
                raise self._loss(max(damage.first_offset, 0), min(behind, end_offset), damage.reason)
            following = self._following(segment)
            if following is None or expected >= end_offset:
                return None
            if self.next_offset < following.base_offset and expected < following.base_offset:
                partition = self._partition
                partition.check_offset(self.next_offset)  # retention may have been faster
                raise self._loss(
                    max(expected, self.next_offset), following.base_offset, "its segment is missing or cut"
                )
            segment = self._enter(following)

    def _whole(self, max_bytes: int) -> int:
        """Bytes to read for as many whole batches as ``max_bytes`` hold, at least one, if all are as large as the next
        one; and for the header behind them, which tells the same the next time."""
        each = self._following_bytes
        if not max_bytes < each * FEW_BATCHES <= max_bytes * FEW_BATCHES**2:
            return max_bytes
        return max(max_bytes // each, 1) * each + BATCH_HEADER_BYTES

    def _expanded(self, batches: Batches) -> Batches:
        try:
            return decompress(batches)
        except DecompressionFailed as problem:
            info = batches.first_info()
            raise self._loss(info.base_offset, info.last_offset + 1, f"decompression: {problem}") from None

    def _seek(self, offset: int) -> Segment:
        segment = self._segment = self._partition.segment_of(offset)
        if offset < segment.base_offset:
            self._segment = None
            self._partition.check_offset(offset)  # retention may have been faster
            raise self._loss(offset, segment.base_offset, "its segment is missing")
        self._position, self._expected = segment.locate(offset)
        self._following_bytes = 0
        return segment

    def _enter(self, segment: Segment) -> Segment:
        self._segment = segment
        self._position, self._expected = 0, segment.base_offset
        self._following_bytes = 0
        return segment

    def _following(self, segment: Segment) -> Segment | None:
        # By offset, not by place: retention may have replaced the list.
        segments = self._partition.segments
        at = bisect_right(segments, segment.base_offset, key=base_offset_of)
        return segments[at] if at < len(segments) else None

    def _loss(self, first_offset: int, end_offset: int, reason: str) -> DataLoss:
        partition = self._partition
        return DataLoss(
            f"records {first_offset} to {end_offset - 1} of {partition.topic}-{partition.partition} cannot be read: "
            + reason,
            topic=partition.topic,
            partition=partition.partition,
            first_offset=first_offset,
            last_offset=end_offset - 1,
        )

    def _read_failed(self, problem: OSError, end_offset: int) -> TakhinError:
        if problem.errno in (errno.EMFILE, errno.ENFILE):
            return DescriptorsExhausted("the server has no file descriptor left")
        following = self._following(self._partition.segment_of(self.next_offset))
        behind = min(following.base_offset, end_offset) if following is not None else end_offset
        return self._loss(self.next_offset, behind, os.strerror(problem.errno or errno.EIO))

    def advance(self, next_offset: int) -> None:
        self.next_offset = next_offset

    def watermarks(self) -> tuple[int, int]:
        partition = self._partition
        return partition.log_start_offset, partition.high_watermark

    def available_bytes(self, limit: int) -> int:
        """An estimate: bytes of the segments behind the place, not looking into batches."""
        partition = self._partition
        if self.next_offset >= partition.high_watermark:
            return 0
        segments = partition.segments
        behind = bisect_right(segments, self.next_offset, key=base_offset_of)
        total = self._left_in(segments[behind - 1]) if behind else 0
        while total < limit and behind < len(segments):
            total += segments[behind].size
            behind += 1
        return total

    def _left_in(self, segment: Segment) -> int:
        """Bytes from the place on, about, in the last segment that begins at or before it."""
        if segment is self._segment and self._read_end == self.next_offset:
            return segment.size - self._position
        if segment.next_offset >= 0 and self.next_offset >= segment.next_offset:
            return 0
        position, _expected = segment.locate(self.next_offset)
        return segment.size - position

    def park(self, wake: Callable[[], None]) -> None:
        self._partition.park(self, self.next_offset, wake)

    def close(self) -> None:
        self._partition.unpark(self)


def find_time(partition: Partition, timestamp: int) -> tuple[int, int] | None:
    """(offset, timestamp) of the earliest readable record at or after ``timestamp`` (ms), or None.

    Raises ``DataLoss`` (the record may be one of those that cannot be read), ``DescriptorsExhausted``,
    ``TopicNotFound``.
    """
    while True:
        try:
            return _find_time(partition, timestamp)
        except OffsetOutOfRange:
            pass  # retention was faster: what it took is no answer any more


def _find_time(partition: Partition, timestamp: int) -> tuple[int, int] | None:
    # The end first: what is appended from now on need not be looked for, and is no loss.
    end_offset = partition.high_watermark
    expected = partition.log_start_offset
    for segment in partition.segments:
        reader = PartitionReader(partition, partition.log_start_offset)
        if segment.base_offset > max(expected, partition.log_start_offset):
            raise reader._loss(expected, segment.base_offset, "its segment is missing or cut")
        try:
            passed_over = segment.largest_timestamp() < timestamp and not segment.blind
            start = 0 if passed_over or segment.blind else segment.locate_time(timestamp)
        except FileNotFoundError:
            if segment in partition.segments:
                raise reader._loss(segment.base_offset, partition.high_watermark, "its file is missing") from None
            continue  # retention was faster
        except OSError as problem:
            raise reader._read_failed(problem, partition.high_watermark) from problem
        expected = max(segment.next_offset, segment.base_offset, expected)
        if passed_over:
            continue
        reader.advance(max(start, segment.base_offset, partition.log_start_offset))
        while reader.next_offset < end_offset:
            batches = reader.read(1 << 20)
            if batches is None:
                break
            found = batches.find_time(timestamp)
            if found is not None:
                return found
            reader.advance(max(batches.next_offset, reader.next_offset + 1))
    if expected < end_offset:
        raise PartitionReader(partition, expected)._loss(expected, end_offset, "its segment is missing or cut")
    return None
