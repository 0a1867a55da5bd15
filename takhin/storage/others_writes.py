"""What ``syncfs`` would have to write for others: everybody's unwritten bytes, and how many of them we put up with.

Each group of flushes may write a little for others. What is more is paid from a credit of time, so that bytes
that somebody left once are written once, at our cost, and groups go on; but from a neighbour that writes all the
time, more than the credit grows, groups keep away.
"""

from __future__ import annotations

import os
import re
import time

from .._os import close_file

#: Free: this much, and so much for each partition of the group; about what the disk takes in the time that
#: the group saves.
FREE_BYTES = 4 << 20
FREE_BYTES_EACH = 128 << 10
#: Seconds of writing for others: at most so many at once, and so many are earned in each second.
MOST_S = 0.3
EARNED = 0.1
#: Bytes a second, until groups have shown it.
SPEED = 400e6
#: Smaller groups say nothing about the speed.
_TELLING_BYTES = 16 << 20
#: Seconds for which it is believed that what a group left unwritten is not on this filesystem.
_ELSEWHERE_S = 2.0

_UNWRITTEN = re.compile(rb"^(?:Dirty|Writeback): +(\d+) kB", re.MULTILINE)


class OthersWrites:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._fd = -1
        self._speed = SPEED
        self._credit_s = MOST_S
        self._credited = time.monotonic()
        #: Unwritten before and after the last group, and when that was.
        self._before = 0
        self._elsewhere = 0
        self._seen = 0.0

    def open(self) -> None:
        """Raises ``OSError``."""
        self._fd = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._fd >= 0:
            close_file(self._fd)
            self._fd = -1

    def unwritten(self) -> int:
        """Bytes in the page cache, of everybody and all filesystems, that no disk has. Raises ``OSError``."""
        return sum(int(found) << 10 for found in _UNWRITTEN.findall(os.pread(self._fd, 4096, 0)))

    def bearable(self, partitions: int, ours_bytes: int) -> bool:
        """Whether a group of so many partitions with so many unwritten bytes may begin; then its
        ``ended`` follows. Raises ``OSError``."""
        now = time.monotonic()
        self._credit_s = min(MOST_S, self._credit_s + EARNED * (now - self._credited))
        self._credited = now
        self._before = self.unwritten()
        elsewhere = self._elsewhere if now - self._seen < _ELSEWHERE_S else 0
        others = self._before - ours_bytes - elsewhere - FREE_BYTES - FREE_BYTES_EACH * partitions
        cost_s = max(others, 0) / self._speed
        if cost_s > self._credit_s:
            return False
        self._credit_s -= cost_s
        return True

    def ended(self, seconds: float) -> None:
        """The group that was found bearable took so long. Raises ``OSError``."""
        self._elsewhere, self._seen = self.unwritten(), time.monotonic()
        written = self._before - self._elsewhere
        if written > _TELLING_BYTES and seconds > 0:
            self._speed = (self._speed + written / seconds) / 2
