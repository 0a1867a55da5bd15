"""Calls at a later time: one thread and a heap, asleep until the next is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from ..observe.logging import incident

log = logging.getLogger(__name__)


class Timer:
    """A call that is due once. ``cancel`` may come from any thread, also after it ran."""

    __slots__ = ("_call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        #: ``time.monotonic`` seconds.
        self.due = due
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Drops the call and what it holds; one that is running at this moment is not waited for."""
        self._call = None

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def is_cancelled(self) -> bool:
        return self._call is None


class Timers:
    """The calls are made on the one thread: they must be quick and never wait."""

    #: Cancelled timers stay in the heap until they are due, unless they become this many and the larger half.
    SWEEP_AT = 1024

    def __init__(self) -> None:
        self._wake = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._sweep_at = self.SWEEP_AT
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="takhin-timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Timers that are not due yet never fire. Idempotent."""
        with self._wake:
            self._stopping = True
            self._heap.clear()
            self._wake.notify()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + max(seconds, 0.0), call)
        with self._wake:
            if self._stopping:
                return timer
            if len(self._heap) >= self._sweep_at:
                self._heap = [entry for entry in self._heap if not entry[2].is_cancelled]
                heapq.heapify(self._heap)
                self._sweep_at = max(self.SWEEP_AT, 2 * len(self._heap))
            entry = (timer.due, next(self._order), timer)
            heapq.heappush(self._heap, entry)
            if self._heap[0] is entry:
                self._wake.notify()
        return timer

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopping and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._wake.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._stopping:
                    return
                timer = heapq.heappop(self._heap)[2]
            try:
                timer.fire()
            except Exception as exc:
                incident(log, exc, part="timers")
            del timer
