"""Many partitions made durable at once: one ``syncfs`` in the place of a flush for each.

A flush for each of n files is n commits of the filesystem's journal; ``syncfs`` is one. But it also writes
whatever anybody else has left unwritten on that filesystem, so it is used only where there is little of that.

It is believed only where its answer means something (docs/adr/0007-group-flush.md): on kernels that pass on
both write errors and the filesystem's own, and on filesystems of which that is known. A failure is final, as
that of any flush; the kernel does not say whose bytes were lost.

Locking: no lock is held during the call. Each partition's lock is taken for a moment before, to note what the
call has to cover, and after, to mark it flushed. One group at a time is the caller's to see to.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .._os import close_file, filesystem, flush, open_file, syncfs
from .environment import Counters, DiskFault
from .flusher import Flushable
from .others_writes import OthersWrites

log = logging.getLogger(__name__)

#: Write errors since 5.8; those of the filesystem itself (its journal) since 5.17.
KERNEL = (5, 17)
EXT4 = 0xEF53
#: By magic number: ext4 (with a journal), XFS, tmpfs. Stacked ones do not pass on the errors of those below.
FILESYSTEMS = (EXT4, 0x58465342, 0x01021994)

#: A group that took longer than this, seconds, was no gain, whatever the reason: none for a while.
SLOW_S = 0.1
SLOW_EACH_S = 0.02
#: Seconds without groups after a look that spoke against one, and after a slow one.
PAUSE_S = 0.05
LONG_PAUSE_S = 10.0


class GroupFlush:
    def __init__(
        self,
        directory: Path,
        counters: Counters,
        fault: DiskFault,
        note_flushed: Callable[[Sequence[tuple[str, int, int]]], bool],
    ) -> None:
        """``note_flushed`` is the environment's."""
        self._directory = directory
        self._note_flushed = note_flushed
        self._counters = counters
        self._fault = fault
        self._fd = -1
        self._others = OthersWrites()
        self._not_before = 0.0

    def open(self) -> None:
        """Before anything is written: errors from then on are told. Raises ``OSError``."""
        if kernel_release() < KERNEL:
            return
        self._fd = open_file(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        kind = filesystem(self._fd)
        if kind not in FILESYSTEMS or (kind == EXT4 and not has_journal(os.stat(self._directory).st_dev)):
            self.close()
            return
        try:
            self._others.open()
        except FileNotFoundError:  # no /proc here
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            close_file(self._fd)
            self._fd = -1
        self._others.close()

    @property
    def possible(self) -> bool:
        """Whether there may be groups at this time; takes no system call."""
        return self._fd >= 0 and time.monotonic() >= self._not_before

    def pays(self, partitions: Sequence[Flushable]) -> bool:
        """Whether one call for all of these is sooner done than one for each, by what it would have to write."""
        ours = sum(partition.unflushed_bytes for partition in partitions)
        if self._others.bearable(len(partitions), ours):
            return True
        self._not_before = time.monotonic() + PAUSE_S
        return False

    def flush(self, partitions: Sequence[Flushable]) -> None:
        """Put everything appended to them so far on stable storage, and tell those who wait. All are in the
        state RUNNING, so that nobody else flushes them."""
        goals = [(partition, goal) for partition in partitions if (goal := partition.flush_goal()) is not None]
        if not goals:
            return
        started = time.perf_counter()
        try:
            syncfs(self._fd)
            # A filesystem that has turned read-only answers syncfs, not this, with success.
            flush(self._fd)
        except OSError as problem:
            self._fault.report(problem, str(self._directory))
            return
        seconds = time.perf_counter() - started
        self._counters.flushes += 1
        self._counters.flush_seconds += seconds
        if not self._note_flushed([note for partition, goal in goals for note in partition.hint(goal)]):
            return
        for partition, goal in goals:
            partition.goal_reached(goal)
        self._others.ended(seconds)
        if seconds > SLOW_S + SLOW_EACH_S * len(goals):
            self._not_before = time.monotonic() + LONG_PAUSE_S
            log.warning(
                "flushing many partitions at once was slow: one by one for a while",
                extra={"fields": {"partitions": len(goals), "seconds": round(seconds, 3)}},
            )


def has_journal(device: int) -> bool:
    """Whether an ext4 on the device has one, on that device. Without, nobody is told of inodes and extents that could
    not be written, but by a flush of their own file."""
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    try:
        return any(entry.rpartition("-")[0] == name for entry in os.listdir("/proc/fs/jbd2"))
    except OSError:
        return False


def kernel_release() -> tuple[int, int]:
    """Major and minor number; (0, 0) when they cannot be told."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
