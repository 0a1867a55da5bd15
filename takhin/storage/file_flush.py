"""Partitions made durable by flushes of their own files: a few with one call, without the interpreter in between.

A thread that comes back from each flush waits for the interpreter's lock each time, and where many partitions are
due those waits cost more than the flushes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from .._os import flush_files
from .environment import Counters, DiskFault
from .flush_goal import FlushGoal
from .flush_loop import PartitionLoop
from .flusher import Flushable

log = logging.getLogger(__name__)


class FileFlush:
    def __init__(
        self, counters: Counters, fault: DiskFault, note_flushed: Callable[[Sequence[tuple[str, int, int]]], bool]
    ) -> None:
        """``note_flushed`` is the environment's."""
        self._counters = counters
        self._fault = fault
        self._note_flushed = note_flushed
        #: For those that somebody waits for all the time.
        self.loop = PartitionLoop(fault, self._flushed)

    def flush(self, partitions: Sequence[Flushable]) -> None:
        """Put everything appended to them so far on stable storage, and tell those who wait. All are in the
        state RUNNING, so that nobody else flushes them."""
        goals = [(partition, goal) for partition in partitions if (goal := partition.flush_goal()) is not None]
        files = [goal.only_file for _, goal in goals]
        at_once = [file for file in files if file is not None] if len(goals) > 1 else []
        for (partition, goal), file in zip(goals, files, strict=True):
            if file is None or not at_once:
                partition.flush_to(goal)
        if not at_once:
            return
        goals = [both for both, file in zip(goals, files, strict=True) if file is not None]
        started = time.perf_counter()
        try:
            flush_files(at_once)
        except OSError as problem:
            self._fault.report(problem, problem.filename)
            return
        self._flushed(goals, len(goals), time.perf_counter() - started)

    def _flushed(self, goals: Sequence[tuple[Flushable, FlushGoal]], flushes: int, flush_s: float) -> None:
        """All that the goals say is on stable storage: note it, tell those who wait."""
        self._counters.flushes += flushes
        self._counters.flush_seconds += flush_s
        if self._note_flushed([note for partition, goal in goals for note in partition.hint(goal)]):
            for partition, goal in goals:
                try:
                    partition.goal_reached(goal)
                except Exception:  # a defect of who was told; the others have nothing to do with it
                    log.exception("flush failed unexpectedly")
