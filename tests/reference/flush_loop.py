"""``FlushLoop`` in Python: it calls each file's own ``flush``, for tests that stand something in for that."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

#: As in ``_flush_loop.h``.
SEVERAL, ENOUGH, QUIET_S, GATHER_S, LATE_S, AT_ONCE, RING = 4, 16, 0.0002, 0.001, 0.05, 64, 4096


class PythonFlushLoop:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: deque[tuple[Any, Any, Any]] = deque()
        self._flushed = 0
        self._closed = False
        self._times = (0, 0.0)
        self._files = 0
        self._began = self._ended = 0.0

    def run(self, patience_s: float, idle_s: float) -> bool:
        since = time.monotonic()
        waited = 0
        with self._changed:
            while True:
                waiting = len(self._entries) - self._flushed
                now = time.monotonic()
                left = patience_s - (now - since)
                gathers = self._files >= SEVERAL and not self._closed and now - self._ended < GATHER_S
                if self._flushed and (left <= 0 or self._closed):
                    return True
                if waited < waiting < ENOUGH and gathers:
                    waited = waiting
                    self._changed.wait(QUIET_S)
                elif waiting:
                    if not self._flush():
                        since = self._ended
                    waited = 0
                elif self._flushed:
                    self._changed.wait(left)
                elif self._closed or not self._changed.wait(idle_s):
                    return False

    def _flush(self) -> int:
        """How many were not told of when it ended, before these."""
        files: dict[Any, None] = {}
        n = 0
        for _, file, _ in list(self._entries)[self._flushed :]:
            if file not in files and len(files) == AT_ONCE:
                break
            files[file] = None
            n += 1
        began = self._began = time.monotonic()
        self._changed.release()
        try:
            for file in files:
                file.flush()
        finally:
            self._changed.acquire()
        self._began, self._ended = 0.0, time.monotonic()
        self._files = len(files)
        self._times = (self._times[0] + len(files), self._times[1] + self._ended - began)
        untold, self._flushed = self._flushed, self._flushed + n
        return untold

    def ask(self, who: Any, file: Any, goal: Any) -> bool:
        with self._changed:
            if self._closed or len(self._entries) >= RING:
                return False
            self._entries.append((who, file, goal))
            self._changed.notify()
            return True

    @property
    def is_late(self) -> bool:
        return bool(self._began) and time.monotonic() - self._began > LATE_S

    @property
    def has_news(self) -> bool:
        return self._flushed > 0

    def tell(self) -> dict[Any, Any]:
        with self._changed:
            told = [self._entries.popleft() for _ in range(self._flushed)]
            self._flushed = 0
        return {who: goal for who, _, goal in told}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_done(self) -> bool:
        return self._closed and not self._entries

    def take_times(self) -> tuple[int, float]:
        with self._changed:
            taken, self._times = self._times, (0, 0.0)
        return taken
