"""Partitions that are flushed by a thread that needs the interpreter for none of it.

Where somebody waits all the time, each flush is followed by the next, and a thread that waits for the interpreter's
lock after each holds up both those who wait for the flush and whoever is at work meanwhile. So the thread stays outside
(``FlushLoop``): what is appended meanwhile is asked for, and who appends next looks at what was flushed since and tells
those who wait, in its own thread. When nobody comes by in time, the flushing thread tells them itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._os import FlushLoop
from .environment import DiskFault
from .flush_goal import FlushGoal

if TYPE_CHECKING:
    from .flusher import Flushable

log = logging.getLogger(__name__)

#: Seconds that somebody has to come by, where somebody did the last time; about what a large batch takes to arrive.
PATIENCE_S = 0.0005
#: Seconds without an append after which the thread leaves.
IDLE_S = 0.005


#: Told of partitions of which all that the goal says is on stable storage, and how many flushes that took, and seconds.
Flushed = Callable[[Sequence[tuple["Flushable", FlushGoal]], int, float], None]


class _Stay:
    """Of one thread."""

    def __init__(self) -> None:
        self.loop: FlushLoop[Flushable, FlushGoal] = FlushLoop()
        #: Held by who tells; guards what is below: what was told of.
        self.telling = threading.Lock()
        self.flushes = 0
        self.flush_s = 0.0
        self.flushed_bytes = 0


class PartitionLoop:
    """One thread at a time calls ``serve``; the rest is for any thread."""

    def __init__(self, fault: DiskFault, flushed: Flushed) -> None:
        self._fault = fault
        self._flushed = flushed
        self._stay: _Stay | None = None
        #: Told of partitions that need another flush, which is none for here. Set before the first is served.
        self.on_due: Callable[[Sequence[Flushable]], None] = lambda partitions: None

    def serve(self, partitions: Sequence[Flushable]) -> tuple[float, float] | None:
        """Flush partitions that are in the state RUNNING, each a matter of one file, and what is appended to them and
        others meanwhile, for as long as something is. Gives (seconds, bytes) of a flush, in the mean; None when there
        was none. One that fails is reported as a disk fault."""
        self._stay = stay = _Stay()
        others_tell = False
        try:
            left_out = [each for each in partitions if not each.join(self)]
            self.on_due([each for each in left_out if each.flush_ended()])
            if len(left_out) == len(partitions):
                stay.loop.close()
            while not stay.loop.is_done:
                try:
                    has_news = stay.loop.run(PATIENCE_S if others_tell else 0.0, IDLE_S)
                except OSError as problem:
                    self._fault.report(problem, problem.filename)
                    break
                if has_news:
                    with stay.telling:
                        others_tell = not stay.loop.has_news
                        self._tell(stay)
                else:
                    stay.loop.close()
        finally:
            self._stay = None
            stay.loop.close()
            with stay.telling:  # who was at it has told by now
                flushes, flush_s, flushed_bytes = stay.flushes, stay.flush_s, stay.flushed_bytes
        return (flush_s / flushes, flushed_bytes / flushes) if flushes else None

    def ask(self, partition: Flushable) -> bool:
        """Whether what was appended to the partition until now is flushed here. The caller holds the partition lock."""
        stay = self._stay
        if stay is None or self._fault.reason:
            return False
        goal = partition.goal_of_now()
        if goal.next_offset == partition.asked_offset:
            return True
        if partition.asked_offset < 0 and stay.loop.is_late:
            return False
        file = goal.only_file
        if file is None or not stay.loop.ask(partition, file, goal):
            return False
        partition.asked_offset = goal.next_offset
        return True

    def look(self) -> None:
        """Tell of what was flushed, unless another thread is at it. The caller holds no lock of the storage."""
        stay = self._stay
        if stay is not None and stay.loop.has_news and stay.telling.acquire(blocking=False):
            try:
                self._tell(stay)
            except Exception:  # a defect; who comes by has nothing to do with it
                log.exception("flush failed unexpectedly")
            finally:
                stay.telling.release()

    def close(self) -> None:
        """Partitions are flushed as ever, from their next append on."""
        stay = self._stay
        if stay is not None:
            stay.loop.close()

    def _tell(self, stay: _Stay) -> None:
        """Holding ``telling``."""
        told = list(stay.loop.tell().items())
        flushes, flush_s = stay.loop.take_times()
        stay.flushes += flushes
        stay.flush_s += flush_s
        stay.flushed_bytes += sum(goal.position - goal.flushed_position for _, goal in told)
        self._flushed([] if self._fault.reason else told, flushes, flush_s)
        due = [partition for partition, goal in told if partition.flush_told(goal)]
        if due:
            self.on_due(due)
