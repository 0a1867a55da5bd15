"""The system calls of the log, in one place: whole transfers, EINTR retried, ``OSError`` on failure.

In the debug build (``TAKHIN_BUILD=debug``) they can be made to fail on purpose.
"""

import os

from ._segment import SegmentFile

#: Whether this is a debug build.
DEBUG: bool
#: Names of the calls, for ``plan_faults``.
CALLS: tuple[str, ...]

StrPath = str | os.PathLike[str]

def open_file(path: StrPath, flags: int, mode: int = 0o640) -> int:
    """A descriptor, closed on exec."""

def close_file(fd: int) -> None: ...
def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """All of ``data``; after a failure some of it may be there."""

def flush(fd: int) -> None:
    """fdatasync, with the GIL released. A failure must never be tried again."""

def flush_files(files: list[SegmentFile]) -> None:
    """``SegmentFile.flush`` of each, the GIL released once for all. Raises ``OSError`` for the first that fails; those
    behind it are not flushed then."""

def sync_dir(path: StrPath) -> None:
    """Put the entries of a directory on stable storage."""

def syncfs(fd: int) -> None:
    """Put everything that was written to the filesystem of ``fd`` on stable storage, files and names, whoever
    wrote it; with the GIL released. A failure must never be tried again."""

def filesystem(fd: int) -> int:
    """The magic number of the filesystem of ``fd``, as in statfs(2)."""

def truncate(fd: int, size: int) -> None: ...
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
