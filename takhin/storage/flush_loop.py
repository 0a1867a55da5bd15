"""One partition that is flushed all the time, by a thread that needs the interpreter for none of it.

Where one partition is busy, each flush is followed by the next, and a thread that waits for the interpreter's lock
after each holds up both those who wait for the flush and whoever is at work meanwhile. So the thread stays outside
(``FlushLoop``), and who appends next looks at what was flushed since and tells those who wait, in its own thread. When
nobody comes by in time, the flushing thread tells them itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._os import FlushLoop
from .._segment import SegmentFile
from .environment import DiskFault
from .flush_goal import FlushGoal

if TYPE_CHECKING:
    from .flusher import Flushable

log = logging.getLogger(__name__)

#: Seconds that somebody has to come by, where somebody did the last time; about what a large batch takes to arrive.
PATIENCE_S = 0.0005
#: Seconds without an append after which the partition is no longer flushed like this.
IDLE_S = 0.005


#: Told of partitions of which all that the goal says is on stable storage, and how many flushes that took, and seconds.
Flushed = Callable[[Sequence[tuple["Flushable", FlushGoal]], int, float], None]


class _Stay:
    """Of one thread with one partition."""

    def __init__(self, partition: Flushable, goal: FlushGoal) -> None:
        self.partition = partition
        #: The segment whose file it is.
        self.active = goal.active
        self.loop = FlushLoop(goal.next_offset)
        #: What was asked for and is not told of, in the order of offsets.
        self.goals = deque([goal])
        #: Held by who tells; guards what is below: what was told of.
        self.telling = threading.Lock()
        self.flushes = 0
        self.flush_s = 0.0
        self.flushed_position = goal.flushed_position


class PartitionLoop:
    """One thread at a time calls ``serve``; the rest is for any thread."""

    def __init__(self, fault: DiskFault, flushed: Flushed) -> None:
        self._fault = fault
        self._flushed = flushed
        self._stay: _Stay | None = None

    def serve(self, partition: Flushable, goal: FlushGoal, file: SegmentFile) -> tuple[float, float] | None:
        """Flush a partition that is in the state RUNNING, by the goal whose only file this is, and what comes
        meanwhile. Gives (seconds, bytes) of a flush, in the mean; None when there was none. One that fails is reported
        as a disk fault."""
        self._stay = stay = _Stay(partition, goal)
        others_tell = False
        try:
            while not stay.loop.is_done:
                try:
                    has_news = stay.loop.run(file, PATIENCE_S if others_tell else 0.0, IDLE_S)
                except OSError as problem:
                    self._fault.report(problem, file.path)
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
                flushes, flush_s = stay.flushes, stay.flush_s
                flushed_bytes = stay.flushed_position - goal.flushed_position
        return (flush_s / flushes, flushed_bytes / flushes) if flushes else None

    def ask(self, partition: Flushable) -> bool:
        """Whether what was appended to the partition until now is flushed here. The caller holds the partition lock."""
        stay = self._stay
        if stay is None or stay.partition is not partition:
            return False
        goal = partition.goal_of_now()
        if goal.only_file is None or goal.active is not stay.active:
            stay.loop.close()
            return False
        # First there: the flush may be over at once. One that is refused is behind all that will be told of.
        stay.goals.append(goal)
        return stay.loop.ask(goal.next_offset)

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
        """The partition that is served is to be flushed as others are, from its next append on."""
        stay = self._stay
        if stay is not None:
            stay.loop.close()

    def _tell(self, stay: _Stay) -> None:
        """Holding ``telling``."""
        offset = stay.loop.tell()
        flushes, flush_s = stay.loop.take_times()
        stay.flushes += flushes
        stay.flush_s += flush_s
        goal = None
        while stay.goals and stay.goals[0].next_offset <= offset:
            goal = stay.goals.popleft()
        told: list[tuple[Flushable, FlushGoal]] = []
        if goal is not None:
            stay.flushed_position = goal.position
            if not self._fault.reason:
                told.append((stay.partition, goal))
        self._flushed(told, flushes, flush_s)
