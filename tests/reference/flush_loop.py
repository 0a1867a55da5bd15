"""``FlushLoop`` in Python: it calls the file's own ``flush``, for tests that stand something in for that."""

from __future__ import annotations

import threading
import time
from typing import Any


class PythonFlushLoop:
    def __init__(self, asked: int) -> None:
        self._changed = threading.Condition()
        self._asked = asked
        self._flushed = self._told = 0
        self._closed = False
        self._times = (0, 0.0)

    def run(self, file: Any, patience_s: float, idle_s: float) -> bool:
        since = time.monotonic()
        with self._changed:
            while True:
                asked, untold = self._asked, self._flushed > self._told
                left = patience_s - (time.monotonic() - since)
                if untold and (left <= 0 or self._closed):
                    return True
                if asked > self._flushed:
                    began = time.monotonic()
                    self._changed.release()
                    try:
                        file.flush()
                    finally:
                        self._changed.acquire()
                    if self._told >= self._flushed:
                        since = time.monotonic()
                    self._flushed = asked
                    self._times = (self._times[0] + 1, self._times[1] + time.monotonic() - began)
                elif untold:
                    self._changed.wait(left)
                elif self._closed or not self._changed.wait(idle_s):
                    return False

    def ask(self, offset: int) -> bool:
        with self._changed:
            if not self._closed:
                self._asked = offset
                self._changed.notify()
            return not self._closed

    @property
    def has_news(self) -> bool:
        return self._flushed > self._told

    def tell(self) -> int:
        with self._changed:
            if self._flushed <= self._told:
                return -1
            self._told = self._flushed
            return self._told

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_done(self) -> bool:
        return self._closed and self._told >= self._asked

    def take_times(self) -> tuple[int, float]:
        with self._changed:
            taken, self._times = self._times, (0, 0.0)
        return taken
