"""The threads that write to streams. One that writes to a slow client blocks: then others take over."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from typing import Protocol

from ..observe.logging import incident
from .timers import Timers

log = logging.getLogger(__name__)


class Job(Protocol):
    """Something with work to do, short unless its peer does not read."""

    def run(self, may_wait: bool = True) -> None:
        """Without ``may_wait``, on a thread that must not: what is to be waited for is submitted again."""

    def evict(self) -> None:
        """Give up the peer that ``run`` is stuck with. From any thread; must not wait."""


class _Worker:
    """What a thread is at. Written by the thread, read by the watch."""

    __slots__ = ("job", "since")

    def __init__(self) -> None:
        self.job: Job | None = None
        #: ``time.monotonic`` seconds at which the job began.
        self.since = 0.0


class Senders:
    """A pool of threads that grows while all of them are stuck and work waits.

    Whether they are stuck is seen from there being jobs in the queue and none taken from it for
    ``WATCH_SECONDS``; the watch runs only while there are more jobs than idle threads, so an idle
    pool costs nothing. Threads beyond ``threads`` end after some idle seconds. At ``limit``
    threads, the peers that block one for the longest are given up.
    """

    WATCH_SECONDS = 0.02
    IDLE_SECONDS = 10.0
    EVICT_AFTER_SECONDS = 5.0
    #: Jobs that a thread does itself in one go; the others have theirs beside it.
    MOST_KEPT = 16

    def __init__(self, threads: int, limit: int, timers: Timers) -> None:
        self.threads = threads
        self.limit = max(limit, threads)
        self._timers = timers
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers: dict[threading.Thread, _Worker] = {}
        self._idle = 0
        self._taken = 0
        self._watching = False
        self._stopping = False
        #: What one thread keeps for itself.
        self._kept: deque[Job] = deque()
        self._keeper = 0

    @property
    def thread_count(self) -> int:
        return len(self._workers)

    @property
    def backlog(self) -> int:
        return self._jobs.qsize()

    def start(self) -> None:
        with self._lock:
            for _ in range(self.threads):
                self._start_worker(extra=False)

    def stop(self, wait_seconds: float) -> bool:
        """Jobs that are in the queue still run. Whether all threads ended within the wait."""
        with self._lock:
            self._stopping = True
            workers = list(self._workers)
            for _ in workers:
                self._jobs.put(None)
        until = time.monotonic() + wait_seconds
        for thread in workers:
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in workers)

    def keep(self) -> None:
        """Until ``run_kept``, this thread keeps what it submits for itself: it is there sooner than another. For one
        thread at a time, which does not wait meanwhile."""
        self._keeper = threading.get_ident()

    def run_kept(self) -> None:
        self._keeper = 0
        while self._kept:
            try:
                self._kept.popleft().run(may_wait=False)
            except Exception as exc:
                incident(log, exc, part="senders")

    def submit(self, job: Job) -> None:
        """Quick and without waiting, from any thread."""
        if self._keeper == threading.get_ident() and len(self._kept) < self.MOST_KEPT:
            self._kept.append(job)
            return
        self._jobs.put(job)
        with self._lock:
            if self._watching or self._jobs.qsize() <= self._idle or self._stopping:
                return
            self._watching = True
            taken = self._taken
        self._timers.after(self.WATCH_SECONDS, lambda: self._watch(taken))

    def _watch(self, taken_before: int) -> None:
        stuck: list[Job] = []
        with self._lock:
            waiting = self._jobs.qsize()
            if not waiting or self._stopping:
                self._watching = False
                return
            if self._taken == taken_before:
                room = self.limit - len(self._workers)
                for _ in range(min(waiting, room, max(1, len(self._workers) // 4))):
                    self._start_worker(extra=True)
                if room <= 0:
                    stuck = self._longest_stuck()
            taken = self._taken
        for job in stuck:
            job.evict()
        self._timers.after(self.WATCH_SECONDS, lambda: self._watch(taken))

    def evict_stuck(self) -> None:
        """Give up the peers that block a thread for the longest, if any does so for long."""
        with self._lock:
            stuck = self._longest_stuck()
        for job in stuck:
            job.evict()

    def _longest_stuck(self) -> list[Job]:
        """The caller holds the lock. An eighth of those that are stuck for long, the longest first."""
        until = time.monotonic() - self.EVICT_AFTER_SECONDS
        found = [(worker.since, worker.job) for worker in self._workers.values() if worker.job is not None]
        old = sorted((entry for entry in found if entry[0] < until), key=lambda entry: entry[0])
        return [job for _, job in old[: max(1, len(old) // 8)]]

    def _start_worker(self, extra: bool) -> None:
        """The caller holds the lock."""
        worker = _Worker()
        thread = threading.Thread(target=self._work, args=(worker, extra), name="takhin-sender", daemon=True)
        self._workers[thread] = worker
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads: go on with those there are
            del self._workers[thread]
            if not extra:
                raise

    def _work(self, worker: _Worker, extra: bool) -> None:
        try:
            while True:
                with self._lock:
                    self._idle += 1
                try:
                    job = self._jobs.get(timeout=self.IDLE_SECONDS if extra else None)
                except queue.Empty:
                    job = None
                finally:
                    with self._lock:
                        self._idle -= 1
                        self._taken += 1
                if job is None:
                    return
                worker.since = time.monotonic()
                worker.job = job
                try:
                    job.run()
                except Exception as exc:
                    incident(log, exc, part="senders")
                worker.job = None
                del job
        finally:
            with self._lock:
                self._workers.pop(threading.current_thread(), None)
