"""The system calls of the log, in one place: whole transfers, EINTR retried, ``OSError`` on failure.

In the debug build (``TAKHIN_BUILD=debug``) they can be made to fail on purpose.
"""

import os
from typing import Generic, TypeVar

from ._segment import SegmentFile

#: Whether this is a debug build.
DEBUG: bool
#: Names of the calls, for ``plan_faults``.
CALLS: tuple[str, ...]

StrPath = str | os.PathLike[str]
_Who = TypeVar("_Who")
_Goal = TypeVar("_Goal")

def open_file(path: StrPath, flags: int, mode: int = 0o640) -> int:
    """A descriptor, closed on exec."""

def close_file(fd: int) -> None: ...
def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """All of ``data``; after a failure some of it may be there. The GIL is kept below 128 KiB, as long as writes are
    quick (docs/adr/0014-short-writes-keep-the-lock.md)."""

def flush(fd: int) -> None:
    """fdatasync, with the GIL released. A failure must never be tried again."""

def flush_files(files: list[SegmentFile]) -> None:
    """``SegmentFile.flush`` of each, side by side where the kernel can do that (io_submit(2), Linux 4.18), the GIL
    released once for all. Raises ``OSError`` for one that failed; others may not be flushed then."""

class FlushLoop(Generic[_Who, _Goal]):
    """Files that are flushed again and again by one thread, which is in ``run``: flushes begin as soon as those before
    have ended, if more was asked for meanwhile, side by side for all files that wait, and the thread needs the
    interpreter for none of that. From other threads, the rest may be called at any time."""

    def __init__(self) -> None: ...
    def run(self, patience_s: float, idle_s: float) -> bool:
        """Flush. True when something was flushed ``patience_s`` seconds ago, or was and ``close`` was called, and
        ``tell`` was not called since; False when there was nothing to do for ``idle_s``, or nothing is left and
        ``close`` was called. To be called again until ``is_done``. Raises ``OSError`` when a flush fails, which must
        never be tried again."""

    def ask(self, who: _Who, file: SegmentFile, goal: _Goal) -> bool:
        """Have what was written to the file covered by a flush that begins after this; False when it is closed, or
        too many wait: then nobody will. The file stays open until that is told of. Goals only grow."""

    @property
    def is_late(self) -> bool:
        """Whether a flush runs that began more than 50 ms ago."""

    @property
    def has_news(self) -> bool:
        """Whether ``tell`` would give something."""

    def tell(self) -> dict[_Who, _Goal]:
        """The last goal of each whose flush is over, for the caller to tell of; without those that were given to
        somebody before."""

    def close(self) -> None:
        """Nothing more is asked for."""

    @property
    def is_done(self) -> bool:
        """Whether it is closed, and all that was asked for was flushed and told of."""

    def take_times(self) -> tuple[int, float]:
        """How many flushes of a file since the last time, and the seconds that they took."""

def sync_dir(path: StrPath) -> None:
    """Put the entries of a directory on stable storage."""

def syncfs(fd: int) -> None:
    """Put everything that was written to the filesystem of ``fd`` on stable storage, files and names, whoever
    wrote it; with the GIL released. A failure must never be tried again."""

def filesystem(fd: int) -> int:
    """The magic number of the filesystem of ``fd``, as in statfs(2)."""

def truncate(fd: int, size: int) -> None: ...
def replace_tail(path: StrPath, data: bytes, position: int) -> None:
    """Make a file hold ``data`` from ``position`` on and nothing behind; made if it is not there. Not flushed."""

def rename(source: StrPath, target: StrPath) -> None: ...
def unlink(path: StrPath) -> None: ...
def mkdir(path: StrPath, mode: int = 0o750) -> None: ...
def plan_faults(plan: str) -> None:
    """Replace the fault plan and count from 0; "" plans none. Debug build only (``RuntimeError`` else).
    The environment variable ``TAKHIN_FAULTS`` gives a plan from the start.

    Parts are separated by commas: ``CALL:N:ERRNO[:TIMES]`` makes the N-th call of that kind, from
    1, fail with that errno (``write:3:ENOSPC``; TIMES -1: all that follow); ``short:N`` makes each
    N-th write transfer half; ``kill:K`` ends the process once K bytes were written.
    """

def fault_counts() -> dict[str, int]:
    """Calls by name, and ``bytes_written``, since the last plan. All 0 in the release build."""
