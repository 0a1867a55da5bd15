"""The trace that the shim leaves: every change to the watched files, every flush, and marks in between."""

from __future__ import annotations

import enum
import json
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# size, event, flag, pid, descriptor, and two numbers; see shim/shim.c
_HEADER = struct.Struct("<IHHiiqq")


class Kind(enum.IntEnum):
    MARK = 0
    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    FLUSH_BEGIN = 5
    FLUSH_END = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    LINK = 11
    SYNCFS_BEGIN = 12
    SYNCFS_END = 13


@dataclass(frozen=True, slots=True)
class Event:
    index: int
    kind: Kind
    #: OPEN: 1 when it made the file. FLUSH_END and SYNCFS_END: the errno, 0 = success.
    flag: int
    pid: int
    fd: int
    #: WRITE: offset; TRUNCATE: size; ALLOCATE: offset; flushes: their number.
    a: int
    #: WRITE and ALLOCATE: bytes.
    b: int
    data: bytes

    @property
    def path(self) -> str:
        return os.fsdecode(self.data)

    @property
    def paths(self) -> tuple[str, str]:
        return os.fsdecode(self.data[: self.a]), os.fsdecode(self.data[self.a :])

    @property
    def mark(self) -> dict[str, Any]:
        mark: dict[str, Any] = json.loads(self.data)
        return mark


def read_trace(path: Path) -> list[Event]:
    return list(_events(path.read_bytes()))


def _events(data: bytes) -> Iterator[Event]:
    at = index = 0
    while at < len(data):
        size, kind, flag, pid, fd, a, b = _HEADER.unpack_from(data, at)
        yield Event(index, Kind(kind), flag, pid, fd, a, b, data[at + _HEADER.size : at + size])
        at += size
        index += 1


class Marks:
    """Appends marks to the trace, from any process and thread: the place of a mark tells what was
    promised before which change. Without a path, marks are kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self.kept: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._fd = -1 if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __call__(self, what: str, **fields: Any) -> None:
        mark = {"m": what, **fields}
        if self._fd < 0:
            with self._lock:
                self.kept.append(mark)
            return
        body = json.dumps(mark).encode()
        header = _HEADER.pack(_HEADER.size + len(body), Kind.MARK, 0, os.getpid(), -1, 0, 0)
        os.write(self._fd, header + body)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
