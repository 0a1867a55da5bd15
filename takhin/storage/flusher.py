"""Group commit: who flushes which partition, and when.

A partition asks once; the flush that follows serves everything appended until it begins. While it
runs, later appends gather for the next one. So under load the number of flushes follows the disk,
not the number of batches, and no timer is involved. Few partitions flush side by side, one thread each, so that
one with little to write does not wait for one with much. Where many are due, one call makes all of them durable
(``group_flush``), or, where that cannot be, one call flushes several with little to write (``file_flush``); those that
come meanwhile gather for the next. Where somebody waits all the time, one thread stays at it (``flush_loop``). Who is
alone, on a quick disk, flushes for itself (``begin_here``).

Records that nobody waits for (acks 0 and 1, without a reader at the end) are flushed after
``linger_ms`` instead of at once, or later (``lingering``).

Locking: ``_changed`` guards the queues. It is taken with a partition's lock held, never the other way round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from .flush_goal import FlushGoal
from .flush_loop import PartitionLoop
from .lingering import Lingering

log = logging.getLogger(__name__)

#: Of a partition. RUNNING_AGAIN and RUNNING_LAZY: something was appended behind the flush that runs, for which
#: somebody waits, or nobody.
IDLE, LAZY, QUEUED, RUNNING, RUNNING_AGAIN, RUNNING_LAZY = range(6)

#: How many partitions must be due or being flushed for those that are due to be flushed as a group; and how many
#: must be due right after a group, where the next ones are likely to come.
FEWEST = 8
FEWEST_AGAIN = 2
#: How many partitions one call flushes at most where there are no groups, and how long, seconds, that may take.
MOST_TOGETHER = 32
TOGETHER_S = 0.02
#: A flush that takes less, seconds, is sooner waited for than done beside by another thread: to wake one costs as much.
QUICK_S = 0.001
#: Those that wait for a call that began so long ago, seconds, wait no longer. It is noticed when another comes, or
#: after ``LOOK_S``.
LATE_S = 0.05
LOOK_S = 1.0
#: What a partition may have to write for its flush to cost little more than that of nothing.
LITTLE_BYTES = 1 << 20
#: Of the last flush, in the mean that is believed.
WEIGHT = 0.1


class Flushable(Protocol):
    #: One of the states above; guarded by the partition lock.
    flush_state: int
    #: Up to where the loop was asked to flush, while it has not told of all of that; -1 otherwise. Guarded by the
    #: partition lock.
    asked_offset: int

    @property
    def unflushed_bytes(self) -> int:
        """About; read without the lock."""

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for its flush; read without the lock."""

    def flush_begins(self) -> bool:
        """Goes from LAZY or QUEUED to RUNNING, under the partition lock; False when there is nothing
        to begin, or another thread is at it (which is then asked for another round)."""

    def flush_ended(self) -> bool:
        """Leaves RUNNING, under the partition lock; True when another flush was asked for meanwhile, at once."""

    @property
    def flush_is_plain(self) -> bool:
        """Whether its flush is that of one file; read without the lock."""

    def join(self, loop: PartitionLoop) -> bool:
        """In the state RUNNING: ask the loop, under the partition lock, for what is not flushed yet; False when there
        is nothing, or not for there. Then the caller ends the flush, and another may be due."""

    def flush_told(self, goal: FlushGoal) -> bool:
        """``flush_ended``, if this is all that the loop was asked for; False otherwise."""

    def flush_goal(self) -> FlushGoal | None:
        """What a flush that begins now has to cover, for who then calls ``goal_reached``; None when that is
        nothing, or nothing may be flushed any more."""

    def goal_of_now(self) -> FlushGoal:
        """The state of now, for who holds the partition lock. It takes no rolled segments and new names over, as
        ``flush_goal`` does: a flush that covers more than the active file has still to be asked for."""

    def flush_to(self, goal: FlushGoal) -> None:
        """Make all of it durable, note it, tell those who wait. Called by one thread at a time."""

    def hint(self, goal: FlushGoal) -> list[tuple[str, int, int]]:
        """What is to be noted for recovery once all of it is on stable storage: (topic id, partition, offset)."""

    def goal_reached(self, goal: FlushGoal) -> None:
        """All of it is on stable storage, and noted: mark it, tell those who wait."""


class Files(Protocol):
    loop: PartitionLoop

    def flush(self, partitions: Sequence[Flushable]) -> None:
        """Make durable what is appended to them, tell those who wait. One thread for each partition at a time."""


class Group(Protocol):
    @property
    def possible(self) -> bool:
        """Whether there may be groups at this time."""

    def pays(self, partitions: Sequence[Flushable]) -> bool:
        """Whether these are better flushed at once than one by one."""

    def flush(self, partitions: Sequence[Flushable]) -> None:
        """As ``Files.flush``."""


class Flusher:
    def __init__(self, threads: int, linger_ms: int, files: Files, group: Group) -> None:
        self._files = files
        self._loop = files.loop
        self._loop.on_due = self._put
        self._group = group
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Flushable] = deque()
        #: Threads that are flushing; whether it is a group; whether the last that was begun is one.
        self._busy = 0
        self._grouping = False
        self._in_groups = False
        #: What the flush of a partition takes that has little to write, seconds, about. Not quick until it was seen.
        self._flush_s = QUICK_S
        #: Threads for which those that come meanwhile wait: they flush several with one call, or one that is quick.
        self._waited_for = 0
        #: When the last of these began, ``time.monotonic``.
        self._waited_since = 0.0
        #: Whether a thread is at the loop.
        self._staying = False
        #: Whether the last call that began is for several.
        self._together = False
        self._stopping = False
        self._lazy: Lingering[Flushable] = Lingering(linger_ms / 1000, _still_lingers)
        self._lazy_changed = threading.Condition(threading.Lock())
        self._threads = [threading.Thread(target=self._work, name=f"flusher-{n}", daemon=True) for n in range(threads)]
        self._timer = threading.Thread(target=self._keep_time, name="flush-timer", daemon=True)

    def start(self) -> None:
        for thread in [*self._threads, self._timer]:
            thread.start()

    def stop(self) -> None:
        """Ends the threads after what is queued. Lazy partitions are the caller's to flush."""
        with self._lazy_changed:
            self._stopping = True
            self._lazy_changed.notify()
        self._loop.close()
        with self._changed:
            self._changed.notify_all()
        for thread in [*self._threads, self._timer]:
            if thread.is_alive():
                thread.join()

    def request(self, partition: Flushable, urgent: bool) -> None:
        """Caller holds the partition lock."""
        state = partition.flush_state
        if urgent:
            if state in (IDLE, LAZY):
                # One with much to write would keep the others of the loop waiting.
                if _has_little(partition) and self._loop.ask(partition):
                    partition.flush_state = RUNNING
                else:
                    partition.flush_state = QUEUED
                    self._put([partition])
            elif state in (RUNNING, RUNNING_LAZY):
                # Covers what nobody waits for, too.
                in_loop = partition.asked_offset >= 0 and self._loop.ask(partition)
                partition.flush_state = RUNNING if in_loop else RUNNING_AGAIN
        elif state in (IDLE, LAZY):
            partition.flush_state = LAZY
            much = partition.unflushed_bytes > LITTLE_BYTES
            if state == IDLE or (much and not self._lazy.needs_no_credit(partition)):
                with self._lazy_changed:
                    self._lazy.add(partition, much)
                    if len(self._lazy) == 1:
                        self._lazy_changed.notify()
        elif state == RUNNING:
            # The linger begins when this flush ends: else records that nobody waits for would be flushed all the time.
            partition.flush_state = RUNNING_LAZY

    def look(self) -> None:
        """From who comes by, holding no lock: tell of what was flushed, where that is for whoever comes by."""
        self._loop.look()

    def begin_here(self, partition: Flushable) -> bool:
        """In place of an urgent request: whether the caller had better flush itself, with ``flush_here`` once it holds
        no lock. For one who is alone: it wakes no thread, and is not woken by one. Caller holds the partition lock."""
        if not self._is_quick or partition.flush_state not in (IDLE, LAZY) or not _has_little(partition):
            return False
        with self._changed:
            if self._busy or self._queue or self._stopping:
                return False
            self._busy += 1
        partition.flush_state = RUNNING
        return True

    def flush_here(self, partition: Flushable) -> None:
        """After ``begin_here``."""
        try:
            self._flush_begun([partition])
        finally:
            with self._changed:
                self._busy -= 1
                self._call_others()

    def _put(self, partitions: Sequence[Flushable]) -> None:
        with self._changed:
            self._queue.extend(partitions)
            self._call_others()

    def _call_others(self) -> None:
        """Holding ``_changed``. Threads that are at work look for more by themselves."""
        if (wanted := self._wanted) > 0:
            self._changed.notify(wanted)

    @property
    def _wanted(self) -> int:
        """How many more threads should be at work."""
        free = 0 if self._grouping else len(self._threads) - self._busy
        waited_for = self._waited_for and time.monotonic() - self._waited_since < LATE_S
        return min(free, len(self._queue) // self._most if waited_for else len(self._queue))

    @property
    def _may_stay(self) -> bool:
        return not (self._staying or self._stopping) and len(self._threads) > 1

    @property
    def _is_quick(self) -> bool:
        return self._flush_s < QUICK_S

    @property
    def _most(self) -> int:
        """How many a thread takes at once."""
        return max(min(int(TOGETHER_S / max(self._flush_s, 1e-9)), MOST_TOGETHER), 1)

    # -- the threads that flush ---------------------------------------------------------------------

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            due, as_group, waited_for, stays = taken
            try:
                if not (as_group and self._flush_group(due)):
                    self._flush(due, stays)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._waited_for -= waited_for
                    self._staying = self._staying and not stays

    def _take(self) -> tuple[list[Flushable], bool, bool, bool] | None:
        """This thread's share of the partitions that are due, or all of them; whether as a group, whether
        those that come meanwhile wait for it, and whether it is the one that stays; None when it is over.
        """
        with self._changed:
            while self._wanted <= 0:
                if self._stopping and not self._queue:
                    self._changed.notify_all()  # some may wait only for this one to end
                    return None
                self._changed.wait()
            fewest = FEWEST_AGAIN if self._in_groups else max(FEWEST - self._busy, FEWEST_AGAIN)
            stays = self._may_stay and self._queue[0].is_awaited
            self._in_groups = self._grouping = not stays and len(self._queue) >= fewest and self._group.possible
            waited_for = False
            if self._grouping:
                due = list(self._queue)
                self._queue.clear()
            else:
                due = self._share()
                waited_for = not stays and (len(due) > 1 or (self._is_quick and _has_little(due[0])))
                if waited_for:
                    self._waited_for += 1
                    self._waited_since = time.monotonic()
            self._staying = self._staying or stays
            self._busy += 1
            self._call_others()
            return due, self._grouping, waited_for, stays

    def _share(self) -> list[Flushable]:
        """Holding ``_changed``: one that has much to write, or several that have little, taken off the queue."""
        alone = self._together or self._is_quick
        most = min(len(self._queue) if alone else -(-len(self._queue) // self._wanted), self._most)
        due = [self._queue.popleft()]
        if _has_little(due[0]):
            while len(due) < most and _has_little(self._queue[0]):
                due.append(self._queue.popleft())
            self._together = len(due) > 1
        return due

    def _flush(self, due: list[Flushable], stays: bool) -> None:
        # One that lingered and was then asked for is due twice.
        begun = [partition for partition in dict.fromkeys(due) if partition.flush_begins()]
        plain = [partition for partition in begun if partition.flush_is_plain] if stays else []
        if others := [partition for partition in begun if partition not in plain]:
            self._flush_begun(others)
        if plain:
            self._stay(plain)

    def _flush_begun(self, begun: list[Flushable]) -> None:
        has_little = _has_little(begun[0])
        began = time.perf_counter()
        try:
            self._files.flush(begun)
        except Exception:  # a defect; the thread must live for the other partitions
            log.exception("flush failed unexpectedly")
        else:
            if has_little:
                self._note_flush_s((time.perf_counter() - began) / len(begun))
        self._put([partition for partition in begun if partition.flush_ended()])

    def _stay(self, begun: list[Flushable]) -> None:
        has_little = _has_little(begun[0])
        try:
            took = self._loop.serve(begun)
        except Exception:  # a defect, as above
            log.exception("flush failed unexpectedly")
        else:
            if has_little and took is not None and took[1] <= LITTLE_BYTES:
                self._note_flush_s(took[0])
        self._put([])

    def _note_flush_s(self, flush_s: float) -> None:
        self._flush_s += WEIGHT * (flush_s - self._flush_s)

    def _flush_group(self, due: list[Flushable]) -> bool:
        """False when it does not pay: then those that are left in ``due`` are this thread's to flush for themselves."""
        try:
            pays = self._group.pays(due)
        except Exception:
            log.exception("flush failed unexpectedly")
            pays = False
        if not pays:
            with self._changed:
                self._queue.extendleft(reversed(due[1:]))
                del due[1:]
                self._grouping = False
                self._call_others()
            return False
        begun = [partition for partition in dict.fromkeys(due) if partition.flush_begins()]
        try:
            self._group.flush(begun)
        except Exception:  # a defect, as above
            log.exception("flush failed unexpectedly")
        with self._changed:
            self._grouping = False
        self._put([partition for partition in begun if partition.flush_ended()])
        return True

    # -- the thread that waits for the linger --------------------------------------------------------

    def _keep_time(self) -> None:
        while True:
            with self._lazy_changed:
                if self._stopping:
                    return
                # Waits that `stop` can end: the linger may be an hour.
                wait_s = self._lazy.wait_s()
                if wait_s is None or wait_s > 0:
                    self._lazy_changed.wait(LOOK_S if wait_s is None else min(wait_s, LOOK_S))
                    due = []
                else:
                    # Where they can be a group, one costs no more than the first alone.
                    as_group = len(self._lazy) >= FEWEST and self._group.possible
                    due = self._lazy.take_all() if as_group else self._lazy.take(self._flush_s)
            # They may be queued by an urgent request at this moment too: flush_begins sorts that out. When none are
            # due, there may be some that wait for a flush that hangs.
            self._put(due)


def _still_lingers(partition: Flushable) -> bool:
    return partition.flush_state == LAZY


def _has_little(partition: Flushable) -> bool:
    return partition.unflushed_bytes <= LITTLE_BYTES
