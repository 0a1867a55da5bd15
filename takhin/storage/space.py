"""Room on the disk: when to refuse produce, and a little that is kept for what must go on.

Produce is refused before the disk is really full. What commits, deletions and recovery need then
is small, and still there. When something else has filled the disk all the same, the reserve is
given up for them, and made again when there is room.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

from .._os import close_file, open_file, sync_dir, unlink
from ..errors import DiskFull

log = logging.getLogger(__name__)

RESERVE_NAME = "reserve"

#: Neither limit takes more than this part of the filesystem: small disks are usable too.
_PART_OF_DISK = 20
#: How often a low disk is looked at again, seconds.
_LOOK_AGAIN = 0.2


class DiskSpace:
    """Thread-safe."""

    def __init__(self, data_dir: Path, min_free_bytes: int, reserve_bytes: int) -> None:
        self._data_dir = data_dir
        self._reserve = data_dir / RESERVE_NAME
        self._min_free_bytes = min_free_bytes
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._looked = 0.0
        #: Produce is refused.
        self.low = False
        self.free_bytes = 0
        #: Look again when so many bytes were appended in all.
        self.next_look = 0

    def open(self) -> None:
        """Make the reserve, if there is room. Raises ``OSError`` when the directory cannot be looked at."""
        self._look(0)
        self.restore()

    def check(self, appended_bytes: int) -> None:
        """Before an append. Raises ``DiskFull``."""
        if appended_bytes < self.next_look and not self.low:
            return
        with self._lock:
            if not self.low or time.monotonic() - self._looked >= _LOOK_AGAIN:
                self._look(appended_bytes)
        if self.low:
            raise DiskFull(
                f"the disk is nearly full: {self.free_bytes} bytes are free, and log.min_free_bytes must stay",
                free_bytes=self.free_bytes,
                min_free_bytes=self._min_free_bytes,
            )

    def _look(self, appended_bytes: int) -> None:
        stat = os.statvfs(self._data_dir)
        self.free_bytes = stat.f_bavail * stat.f_frsize
        limit = min(self._min_free_bytes, stat.f_blocks * stat.f_frsize // _PART_OF_DISK)
        self._looked = time.monotonic()
        low = self.free_bytes < limit
        # Often enough that what others write meanwhile is noticed too.
        self.next_look = appended_bytes + max(min((self.free_bytes - limit) // 4, 64 << 20), 1 << 16)
        if low != self.low:
            self.low = low
            log.log(
                logging.ERROR if low else logging.INFO,
                "disk nearly full: produce is refused" if low else "disk has room again: produce goes on",
                extra={"fields": {"free_bytes": self.free_bytes, "min_free_bytes": limit}},
            )

    def give_up_reserve(self) -> bool:
        """Free the reserve for something that must go on; whether there was any."""
        try:
            unlink(self._reserve)
        except OSError:
            return False
        log.warning("disk full: the reserve is given up", extra={"fields": {"path": str(self._reserve)}})
        return True

    def restore(self) -> None:
        """Make the reserve again when it is gone and there is ample room."""
        stat = os.statvfs(self._data_dir)
        size = min(self._reserve_bytes, stat.f_blocks * stat.f_frsize // _PART_OF_DISK)
        if size == 0 or self._reserve.exists() or stat.f_bavail * stat.f_frsize < 4 * size:
            return
        try:
            fd = open_file(self._reserve, os.O_WRONLY | os.O_CREAT)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                close_file(fd)
            sync_dir(self._data_dir)
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                log.warning("no reserve", extra={"fields": {"error": os.strerror(problem.errno or errno.EIO)}})
            self.give_up_reserve()
