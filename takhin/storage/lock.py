"""One process owns a data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..errors import DataDirLocked

LOCK_NAME = "lock"


class DataDirLock:
    """An advisory lock (flock); the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._fd = -1

    def acquire(self) -> None:
        """Raises ``DataDirLocked`` at once when another process has it, ``OSError``."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise DataDirLocked(
                f"data directory {self._path.parent} is in use by another process (pid {owner})",
                data_dir=self._path.parent,
            ) from None
        # In place, so that a full disk has room for it; shorter than the last one, it ends with spaces.
        os.pwrite(fd, b"%-20d\n" % os.getpid(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
