"""What all partitions of one data directory share."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import Clock
from ..errors import DescriptorsExhausted, DiskFull, LogOffline, TakhinError
from .files import OpenFiles

if TYPE_CHECKING:
    from .flusher import Flusher
    from .hints import FlushedHints
    from .space import DiskSpace

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class DiskFault:
    """A failed flush, or a filesystem that cannot be written: final until the server is restarted.

    After one failed flush the kernel may have dropped the pages and answer the next flush with
    success, so nothing that this filesystem says about durability is believed any more.
    """

    def __init__(self) -> None:
        #: Why no partition takes writes; empty while all is well.
        self.reason = ""
        self._lock = threading.Lock()
        self.on_fault: Callable[[], None] = lambda: None

    def report(self, problem: OSError, path: str) -> None:
        """Take the filesystem offline. The first report counts."""
        with self._lock:
            if self.reason:
                return
            self.reason = f"{os.strerror(problem.errno or errno.EIO)} on {path}"
        log.critical(
            "disk fault: no more writes until restart",
            extra={"fields": {"path": path, "error": os.strerror(problem.errno or errno.EIO)}},
        )
        self.on_fault()


@dataclass(slots=True)
class Counters:
    """For the metrics. Each is written by one thread at a time, or under a lock."""

    records_appended: int = 0
    bytes_appended: int = 0
    batches_appended: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0
    bytes_read: int = 0
    damages: int = 0
    segments_deleted: int = 0


@dataclass(slots=True)
class Environment:
    clock: Clock
    files: OpenFiles
    fault: DiskFault
    flusher: Flusher
    hints: FlushedHints
    space: DiskSpace
    quarantine: Path
    #: ``log.flush: commit``: nothing above the flushed offset is readable.
    flush_on_commit: bool
    #: Makes log start offsets durable before anything below them goes: (topic id, partition, offset).
    save_log_start: Callable[[str, int, int], None] = lambda topic_id, partition, offset: None
    counters: Counters = field(default_factory=Counters)

    def note_flushed(self, flushed: Sequence[tuple[str, int, int]]) -> bool:
        """Leave the hints for recovery, after a flush: (topic id, partition, flushed offset) of each partition. Without
        them recovery trusts less, so a disk that has no room for them is no reason to stop. False when the disk
        has failed in another way: then nobody may be told."""
        try:
            if flushed:
                self.hints.write(flushed)
        except OSError as problem:
            if problem.errno not in NO_ROOM:
                self.fault.report(problem, "flushed-offsets")
                return False
        return True

    def write_failed(self, problem: OSError, path: str) -> TakhinError:
        """The error for a write or an open that failed; takes the filesystem offline when it must."""
        if problem.errno in NO_ROOM:
            return DiskFull("the disk is full", path=os.path.basename(path))
        if problem.errno in NO_DESCRIPTORS:
            return DescriptorsExhausted("the server has no file descriptor left")
        self.fault.report(problem, path)
        return LogOffline(f"the log takes no writes: {self.fault.reason}")
