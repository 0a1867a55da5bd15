"""One partition's log: appending, flushing, and who waits for either.

Locking: ``_lock`` guards appends, rolls and the lists of those who wait. It is never held across a
flush, and (but for one case, which says so) nobody is called back while it is held. Readers take it only to park.
Offsets are plain attributes that only grow: always ``log_start_offset <= high_watermark <= log_end_offset`` and
``flushed_offset <= log_end_offset``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_right

from .._fastlog import RecordBatch
from ..config import TopicConfigs
from ..errors import DurabilityUnknown, LogOffline, OffsetOutOfRange, TakhinError, TopicNotFound, Unavailable
from . import fs
from .checkpoint import PartitionCheckpoint
from .environment import NO_DESCRIPTORS, Environment
from .flush_goal import FlushGoal
from .flush_loop import PartitionLoop
from .flusher import IDLE, LAZY, QUEUED, RUNNING, RUNNING_AGAIN, RUNNING_LAZY
from .producers import Producers, ProducerState
from .segment import UNKNOWN_TIMESTAMP, IndexSummary, Segment
from .waiters import DurableDone, Placed, Waiters, Wake

log = logging.getLogger(__name__)

#: Index files hold relative offsets and positions in 31 bits.
_MAX_RELATIVE = (1 << 31) - 1


class Partition:
    """Thread-safe."""

    def __init__(
        self,
        topic: str,
        topic_id: str,
        partition: int,
        directory: str,
        configs: TopicConfigs,
        environment: Environment,
        segments: list[Segment],
        log_start_offset: int,
        log_end_offset: int,
        producers: Producers,
        new: bool = False,
    ) -> None:
        """``segments`` are on stable storage up to ``log_end_offset``; at least one, the last is active.
        The files of a ``new`` one may not be in their directory yet, after a power cut."""
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.directory = directory
        self.configs = configs
        self.environment = environment
        #: By base offset. Replaced, never changed in place: readers look at it without the lock.
        self.segments = segments
        self.log_start_offset = log_start_offset
        self.log_end_offset = log_end_offset
        self.flushed_offset = log_end_offset
        self.high_watermark = log_end_offset
        self.deleted = False
        self._stopping = False
        self.flush_state = IDLE
        self.asked_offset = -1
        self._producers = producers
        self._lock = threading.Lock()
        self._flushed_position = segments[-1].size
        self._rolled: list[Segment] = []
        self._directory_dirty = new
        self._waiters = Waiters()

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    def size_bytes(self) -> int:
        return sum(segment.size for segment in self.segments)

    # -- appending ------------------------------------------------------------------------------

    def append(self, batch: RecordBatch, durable_done: DurableDone | None, may_flush: bool = False) -> Placed:
        """Write the batch at the end. ``durable_done`` is called later, once, when it is on stable
        storage, or will never surely be (an error); not called when this raises. With ``may_flush`` that may be before
        this returns: the flush is then made here, if that is sooner done than by another thread.

        Raises ``LogOffline``, ``DiskFull``, ``DescriptorsExhausted``, ``ProducerFenced``,
        ``OutOfOrderSequence``, ``TopicNotFound``. After any of them, nothing of the batch is there.
        """
        environment = self.environment
        count = batch.record_count
        wakes: list[Wake] = []
        flush_here = False
        environment.flusher.look()
        with self._lock:
            self._check_writable()
            if batch.producer_id >= 0:
                first = self._producers.check(
                    batch.producer_id, batch.producer_epoch, batch.base_sequence, count, self.log_start_offset == 0
                )
                if first >= 0:
                    return self._repeat(first, count, batch.max_timestamp, durable_done)
            environment.space.check(environment.counters.bytes_appended)
            segment = self._segment_for(batch)
            base_offset = self.log_end_offset
            try:
                index = segment.index()
                segment.file().append(batch, segment.size, base_offset)
            except OSError as problem:
                raise self._undo(segment, problem) from problem
            index.note_batch(batch, base_offset, segment.size)
            segment.size += batch.size
            segment.pinned = True
            if segment.first_append_ms < 0:
                segment.first_append_ms = environment.clock.now_ms()
            next_offset = segment.next_offset = self.log_end_offset = base_offset + count
            if batch.producer_id >= 0:
                self._producers.written(batch.producer_id, batch.producer_epoch, batch.base_sequence, count,
                    base_offset, batch.max_timestamp)  # fmt: skip
            counters = environment.counters
            counters.records_appended += count
            counters.bytes_appended += batch.size
            counters.batches_appended += 1
            placed = Placed(base_offset, next_offset - 1, batch.max_timestamp)
            if durable_done is not None:
                self._waiters.add_sender(placed, durable_done)
                flush_here = may_flush and self.flush_is_plain and environment.flusher.begin_here(self)
            if not environment.flush_on_commit:
                self.high_watermark = next_offset
                wakes = self._waiters.all_parked()
            if not flush_here:
                environment.flusher.request(self, urgent=durable_done is not None or self._waiters.anyone_parked)
        for wake in wakes:
            wake()
        if flush_here:
            environment.flusher.flush_here(self)
        return placed

    def _check_writable(self) -> None:
        if self.deleted:
            raise TopicNotFound(f"topic {self.topic} was deleted", topic=self.topic)
        if self._stopping:
            raise Unavailable("the server is stopping")
        if self.environment.fault.reason:
            raise LogOffline(
                f"the log takes no writes until the server is restarted: {self.environment.fault.reason}",
                topic=self.topic,
                partition=self.partition,
            )

    def _repeat(self, base_offset: int, count: int, timestamp: int, durable_done: DurableDone | None) -> Placed:
        """The first answer again; it too waits for stable storage."""
        stored = self.segment_of(base_offset).timestamp_of_batch(base_offset)
        placed = Placed(base_offset, base_offset + count - 1, timestamp if stored is None else stored)
        if durable_done is not None:
            if placed.last_offset < self.flushed_offset:
                # Called with the lock held, the one exception: it is quick and takes no lock of ours.
                durable_done(placed)
            else:
                self._waiters.add_sender(placed, durable_done)
                self.environment.flusher.request(self, urgent=True)
        return placed

    def _segment_for(self, batch: RecordBatch) -> Segment:
        segment, configs = self.segments[-1], self.configs
        if segment.size == 0:
            return segment
        full = segment.size + batch.size > configs.segment_bytes
        far = self.log_end_offset + batch.record_count - segment.base_offset > _MAX_RELATIVE
        old = (
            segment.first_append_ms >= 0
            and self.environment.clock.now_ms() - segment.first_append_ms >= configs.segment_ms
        )
        if full or far or old:
            try:
                return self._roll()
            except OSError as problem:
                raise self.environment.write_failed(problem, self.directory) from problem
        return segment

    def _roll(self) -> Segment:
        old = self.segments[-1]
        index = old.index()
        segment = Segment.create(
            self.directory, self.log_end_offset, self.environment.files, self.configs.index_interval_bytes
        )
        index.seal()
        old.sealed = True
        old.max_timestamp = index.max_timestamp
        self._rolled.append(old)
        self._directory_dirty = True
        self._flushed_position = 0
        segment.pinned = True
        self.segments = [*self.segments, segment]
        log.debug(
            "segment rolled",
            extra={"fields": {"topic": self.topic, "partition": self.partition, "base_offset": segment.base_offset}},
        )
        return segment

    def roll(self) -> None:
        """Begin a new segment now, if the active one holds anything. Raises ``TakhinError``."""
        with self._lock:
            self._check_writable()
            if self.segments[-1].size:
                try:
                    self._roll()
                except OSError as problem:
                    raise self.environment.write_failed(problem, self.directory) from problem
                self.environment.flusher.request(self, urgent=True)

    def _undo(self, segment: Segment, problem: OSError) -> TakhinError:
        """Cut a failed write back to the batch's start."""
        error = self.environment.write_failed(problem, segment.path(fs.LOG_SUFFIX))
        try:
            if segment.open_file is not None:
                segment.open_file.truncate(segment.size)
        except OSError as worse:
            # What is behind the last batch is unknown now: nothing may be written there.
            self.environment.fault.report(worse, segment.path(fs.LOG_SUFFIX))
            return LogOffline(f"the log takes no writes: {self.environment.fault.reason}")
        return error

    # -- flushing -------------------------------------------------------------------------------

    def flush_begins(self) -> bool:
        with self._lock:
            if self.flush_state in (LAZY, QUEUED):
                self.flush_state = RUNNING
                return True
            if self.flush_state in (RUNNING, RUNNING_LAZY):
                self.flush_state = RUNNING_AGAIN
            return False

    def flush_ended(self) -> bool:
        with self._lock:
            return self._flush_ended()

    def _flush_ended(self) -> bool:
        """Caller holds the lock."""
        ended, self.flush_state = self.flush_state, IDLE
        if ended == RUNNING_AGAIN:
            self.flush_state = QUEUED
        elif ended == RUNNING_LAZY:
            self.environment.flusher.request(self, urgent=False)
        return ended == RUNNING_AGAIN

    def join(self, loop: PartitionLoop) -> bool:
        with self._lock:
            clean = self.log_end_offset == self.flushed_offset and self.flush_is_plain
            over = clean or self.deleted or self.environment.fault.reason
            if not over and not loop.ask(self):
                self.flush_state = RUNNING_AGAIN
            return self.asked_offset >= 0

    def flush_told(self, goal: FlushGoal) -> bool:
        with self._lock:
            if self.asked_offset != goal.next_offset:
                return False
            self.asked_offset = -1
            return self._flush_ended()

    def flush_to(self, goal: FlushGoal) -> None:
        """Put all of it on stable storage, and tell those who wait. One thread at a time."""
        environment = self.environment
        started = time.perf_counter()
        path = self.directory
        try:
            for path, flush in goal.steps(lambda segment: segment in self.segments):  # noqa: B007
                flush()
        except OSError as problem:
            if problem.errno in NO_DESCRIPTORS:
                self._flush_later(goal)
            elif not self.deleted:
                environment.fault.report(problem, path)
            return
        environment.counters.flushes += 1
        environment.counters.flush_seconds += time.perf_counter() - started
        if environment.note_flushed(self.hint(goal)):
            self.goal_reached(goal)

    def flush_goal(self) -> FlushGoal | None:
        """What a flush that begins now has to cover; the caller is the one who flushes. None when that is
        nothing, or nothing may be flushed any more."""
        if self.environment.fault.reason or self.deleted:
            return None
        with self._lock:
            goal = self.goal_of_now()
            self._rolled, self._directory_dirty = [], False
        clean = goal.next_offset == self.flushed_offset and not goal.rolled and not goal.new_names
        return None if clean else goal

    def goal_of_now(self) -> FlushGoal:
        """For who holds the lock. Rolled segments and new names stay on the account of the next ``flush_goal``."""
        active = self.segments[-1]
        return FlushGoal(self.directory, self.log_end_offset, active, active.size, self._flushed_position,
            [*self._rolled], self._directory_dirty)  # fmt: skip

    def hint(self, goal: FlushGoal) -> list[tuple[str, int, int]]:
        """What is to be noted once all of it is on stable storage."""
        return [] if self.deleted else [(self.topic_id, self.partition, goal.next_offset)]

    def goal_reached(self, goal: FlushGoal) -> None:
        """All of it is on stable storage, and noted: tell those who wait."""
        self._flushed(goal)
        for segment in goal.rolled:
            self._seal(segment)
            segment.pinned = False

    @property
    def flush_is_plain(self) -> bool:
        """Whether it is that of one file."""
        return not self._rolled and not self._directory_dirty

    @property
    def is_awaited(self) -> bool:
        return self._waiters.anyone

    @property
    def unflushed_bytes(self) -> int:
        """About; takes no lock."""
        active = self.segments[-1].size - self._flushed_position
        return active + sum(segment.size for segment in self._rolled) if self._rolled else active

    def _flush_later(self, goal: FlushGoal) -> None:
        """It did not come to a flush, for want of descriptors: the disk is not to blame."""
        time.sleep(0.05)
        with self._lock:
            self._rolled = [*goal.rolled, *self._rolled]
            self._directory_dirty = self._directory_dirty or goal.new_names
            self.environment.flusher.request(self, urgent=True)

    def _seal(self, segment: Segment) -> None:
        try:
            if segment in self.segments and segment.write_seal(segment.index(), segment.next_offset):
                segment.forget_index()
        except OSError as problem:  # all of it can be had again from the log
            fields = {"segment": segment.path(fs.LOG_SUFFIX), "error": os.strerror(problem.errno or 0)}
            log.warning("segment not sealed", extra={"fields": fields})

    def _flushed(self, goal: FlushGoal) -> None:
        wakes: list[Wake] = []
        with self._lock:
            self.flushed_offset = goal.next_offset
            if self.segments[-1] is goal.active:
                self._flushed_position = goal.position
                goal.active.pinned = goal.active.size > goal.position
            ready = self._waiters.senders_below(goal.next_offset)
            if self.environment.flush_on_commit and goal.next_offset > self.high_watermark:
                self.high_watermark = goal.next_offset
                wakes = self._waiters.all_parked()
        for placed, done in ready:
            done(placed)
        for wake in wakes:
            wake()

    def fail_waiting(self) -> None:
        """A flush failed somewhere on this filesystem: nobody who waits will learn more."""
        with self._lock:
            waiting = self._waiters.all_senders()
        error = DurabilityUnknown(
            "a flush failed while this call waited, the records may or may not be kept: "
            + self.environment.fault.reason,
            topic=self.topic,
            partition=self.partition,
        )
        for done in waiting:
            done(error)

    # -- reading --------------------------------------------------------------------------------

    def segment_of(self, offset: int) -> Segment:
        """The segment that holds ``offset``, or would."""
        segments = self.segments
        return segments[max(bisect_right(segments, offset, key=base_offset_of) - 1, 0)]

    def check_offset(self, offset: int) -> None:
        """Raises ``OffsetOutOfRange``, ``TopicNotFound``."""
        if self.deleted:
            raise TopicNotFound(f"topic {self.topic} was deleted", topic=self.topic)
        start, end = self.log_start_offset, self.high_watermark
        if not start <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {offset} of {self.topic}-{self.partition} is outside the log: {start} to {end}",
                topic=self.topic,
                partition=self.partition,
                offset=offset,
                log_start_offset=start,
                high_watermark=end,
            )

    def park(self, owner: object, next_offset: int, wake: Wake) -> None:
        """Call ``wake`` when something at ``next_offset`` can be read, or the reading would fail."""
        with self._lock:
            waits = self.log_start_offset <= next_offset == self.high_watermark and not self.deleted
            if waits:
                self._waiters.park(owner, wake)
                if self.log_end_offset > self.high_watermark:
                    self.environment.flusher.request(self, urgent=True)
        if not waits:
            wake()

    def unpark(self, owner: object) -> None:
        with self._lock:
            self._waiters.unpark(owner)

    # -- beginning and end ------------------------------------------------------------------------

    def raise_log_start(self, offset: int) -> int:
        """Forget what lies below ``offset``, durably; gives the log start offset then. Files go later.

        Raises ``OffsetOutOfRange`` (above the high watermark), and what ``save_log_start`` raises.
        """
        if offset > self.high_watermark:
            self.check_offset(offset)
        if offset > self.log_start_offset:
            self.environment.save_log_start(self.topic_id, self.partition, offset)
            with self._lock:
                self.log_start_offset = max(offset, self.log_start_offset)
                wakes = self._waiters.all_parked() if offset > self.high_watermark else []
            for wake in wakes:
                wake()
        return self.log_start_offset

    def drop_segments_below(self, offset: int) -> list[Segment]:
        """Take sealed segments that end at or below ``offset`` off the list; the caller removes files."""
        with self._lock:
            keep = 0
            while keep < len(self.segments) - 1 and self.segments[keep + 1].base_offset <= min(
                offset, self.flushed_offset
            ):
                keep += 1
            gone, self.segments = self.segments[:keep], self.segments[keep:]
            self._rolled = [segment for segment in self._rolled if segment not in gone]
        return gone

    def ask_for_flush(self) -> None:
        """Of what is not flushed yet; it comes soon."""
        if self.log_end_offset > self.flushed_offset:
            with self._lock:
                self.environment.flusher.request(self, urgent=True)

    def checkpoint(self, durable_done: DurableDone) -> PartitionCheckpoint:
        """The state of now, which holds once ``flushed_offset`` is at its ``next_offset``: that is asked for, and
        ``durable_done`` called when it may be so, unless it is so already. Raises ``OSError``."""
        with self._lock:
            active = self.segments[-1]
            segments = [(segment.base_offset, segment.size) for segment in self.segments]
            next_offset = self.log_end_offset
            producers: list[ProducerState] = self._producers.states()
            # An index that nobody has loaded since the start has not changed since either.
            if active.has_index():
                summary = active.save_index(active.index(), active.summary)
            else:
                summary = active.summary or IndexSummary(0, 0, -1, -1, 0, 0)
            active.summary = summary
            if next_offset > self.flushed_offset:
                self._waiters.add_sender(Placed(next_offset - 1, next_offset - 1, 0), durable_done)
                self.environment.flusher.request(self, urgent=True)
        if active.blind:
            summary = summary._replace(max_timestamp=UNKNOWN_TIMESTAMP)
        return PartitionCheckpoint(self.topic_id, self.partition, segments, next_offset, summary, producers)

    def mark_deleted(self) -> None:
        """Readers and those who wait are told; files are the caller's."""
        error = TopicNotFound(f"topic {self.topic} was deleted", topic=self.topic)
        with self._lock:
            self.deleted = True
            waiting = self._waiters.all_senders()
            wakes = self._waiters.all_parked()
        for done in waiting:
            done(error)
        for wake in wakes:
            wake()

    def stop_writes(self) -> None:
        """No append that begins after this writes anything: it raises ``Unavailable``."""
        with self._lock:
            self._stopping = True

    def close(self) -> None:
        """Let go of the files, and tell whoever is parked or waits. Nothing is flushed here."""
        with self._lock:
            self._stopping = True
            waiting, wakes = self._waiters.all_senders(), self._waiters.all_parked()
        for done in waiting:
            done(DurabilityUnknown("the server stopped before the records were flushed", topic=self.topic))
        for wake in wakes:
            wake()
        for segment in self.segments:
            segment.close()


def base_offset_of(segment: Segment) -> int:
    return segment.base_offset
