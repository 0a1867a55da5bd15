"""Group commit: who flushes which partition, and when.

A partition asks once; the flush that follows serves everything appended until it begins. While it
runs, later appends gather for the next one. So under load the number of flushes follows the disk,
not the number of batches, and no timer is involved. Partitions flush side by side, one thread each.

Records that nobody waits for (acks 0 and 1, without a reader at the end) are flushed within
``linger_ms`` instead of at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Protocol

log = logging.getLogger(__name__)

#: Of a partition. RUNNING_AGAIN and RUNNING_LAZY: something was appended behind the flush that runs, for which
#: somebody waits, or nobody.
IDLE, LAZY, QUEUED, RUNNING, RUNNING_AGAIN, RUNNING_LAZY = range(6)


class Flushable(Protocol):
    #: One of the states above; guarded by the partition lock.
    flush_state: int

    def flush(self) -> None:
        """Make durable what is appended, tell those who wait. Called by one thread at a time."""

    def flush_begins(self) -> bool:
        """Goes from LAZY or QUEUED to RUNNING, under the partition lock; False when there is nothing
        to begin, or another thread is at it (which is then asked for another round)."""

    def flush_ended(self) -> bool:
        """Leaves RUNNING, under the partition lock; True when another flush was asked for meanwhile, at once."""


class Flusher:
    def __init__(self, threads: int, linger_ms: int) -> None:
        self._queue: SimpleQueue[Flushable | None] = SimpleQueue()
        self._linger = linger_ms / 1000
        #: (deadline, partition), earliest first: the linger is the same for all.
        self._lazy: deque[tuple[float, Flushable]] = deque()
        self._lazy_changed = threading.Condition(threading.Lock())
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"flusher-{n}", daemon=True) for n in range(threads)]
        self._timer = threading.Thread(target=self._keep_time, name="flush-timer", daemon=True)

    def start(self) -> None:
        for thread in [*self._threads, self._timer]:
            thread.start()

    def stop(self) -> None:
        """Ends the threads after what is queued. Lazy partitions are the caller's to flush."""
        if self._stopping:
            return
        with self._lazy_changed:
            self._stopping = True
            self._lazy_changed.notify()
        for _ in self._threads:
            self._queue.put(None)
        for thread in [*self._threads, self._timer]:
            if thread.is_alive():
                thread.join()

    def request(self, partition: Flushable, urgent: bool) -> None:
        """Caller holds the partition lock."""
        state = partition.flush_state
        if urgent:
            if state in (IDLE, LAZY):
                partition.flush_state = QUEUED
                self._queue.put(partition)
            elif state in (RUNNING, RUNNING_LAZY):
                partition.flush_state = RUNNING_AGAIN
        elif state == IDLE:
            partition.flush_state = LAZY
            with self._lazy_changed:
                self._lazy.append((time.monotonic() + self._linger, partition))
                if len(self._lazy) == 1:
                    self._lazy_changed.notify()
        elif state == RUNNING:
            # The linger begins when this flush ends: else records that nobody waits for would be flushed all the time.
            partition.flush_state = RUNNING_LAZY

    def _work(self) -> None:
        while (partition := self._queue.get()) is not None:
            if not partition.flush_begins():
                continue
            try:
                partition.flush()
            except Exception:  # a defect; the thread must live for the other partitions
                log.exception("flush failed unexpectedly")
            if partition.flush_ended():
                self._queue.put(partition)

    def _keep_time(self) -> None:
        while True:
            with self._lazy_changed:
                if self._stopping:
                    return
                # A wait that `stop` can end: the linger may be an hour.
                if not self._lazy:
                    self._lazy_changed.wait()
                    continue
                deadline, partition = self._lazy[0]
                wait = deadline - time.monotonic()
                if wait > 0:
                    self._lazy_changed.wait(wait)
                    continue
                self._lazy.popleft()
            if partition.flush_state == LAZY:
                # It may be queued by an urgent request at this moment too: flush_begins sorts that out.
                self._queue.put(partition)
