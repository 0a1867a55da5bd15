"""Thread pools, one for each kind of work, so that one kind cannot starve another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..config import GrpcConfig

T = TypeVar("T")

#: Health checks and rejections are short; reflection holds a thread for as long as its client likes.
HEALTH_THREADS = 4
HEALTH_LIMIT = 1000
REFLECTION_THREADS = 4
REFLECTION_LIMIT = 4
REJECT_THREADS = 2
REJECT_LIMIT = 1000


class CallPool(ThreadPoolExecutor):
    """A pool that knows how many calls it holds, waiting and running.

    Its queue has no bound: whoever hands it a call looks at ``is_full`` first. (A pool that
    raised in ``submit`` would end gRPC's serving thread, and with it the server.)
    """

    def __init__(self, name: str, threads: int, limit: int) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=f"takhin-{name}")
        self.name = name
        self.limit = limit
        self._count_lock = threading.Lock()
        self._load = 0

    @property
    def load(self) -> int:
        return self._load

    @property
    def is_full(self) -> bool:
        return self._load >= self.limit

    def enter(self) -> None:
        """Count a call that is yet to be run, by ``run``."""
        with self._count_lock:
            self._load += 1

    def leave(self) -> None:
        with self._count_lock:
            self._load -= 1

    def run(self, fn: Callable[..., object], /, *args: Any) -> None:
        """Without counting. Raises ``RuntimeError`` after the shutdown."""
        super().submit(fn, *args)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """For gRPC: a call, counted until it is done."""
        self.enter()
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _future: self.leave())
        return future


class Pools:
    """The pools of one server. The senders, whose threads may block, are in ``senders``."""

    def __init__(self, config: GrpcConfig) -> None:
        #: Calls that touch records and offsets, one message each way; consumers until they are open.
        self.data = CallPool("data", config.data_threads, config.max_concurrent_rpcs)
        #: Produce streams: each holds a thread while it is open, so there are no more than threads.
        self.streams = CallPool("stream", config.data_threads, config.data_threads)
        self.admin = CallPool("admin", config.admin_threads, config.max_concurrent_rpcs)
        self.health = CallPool("health", HEALTH_THREADS, HEALTH_LIMIT)
        self.reflection = CallPool("reflection", REFLECTION_THREADS, REFLECTION_LIMIT)
        #: Says no for the others.
        self.reject = CallPool("reject", REJECT_THREADS, REJECT_LIMIT)

    def all(self) -> tuple[CallPool, ...]:
        return (self.data, self.streams, self.admin, self.health, self.reflection, self.reject)

    @property
    def limit(self) -> int:
        """More calls than all pools together would take."""
        return sum(pool.limit for pool in self.all())

    def shutdown(self, wait_seconds: float = 0.0) -> int:
        """Only after gRPC has stopped: a server whose pool is gone goes deaf. Gives how many calls are left
        behind after the wait."""
        until = time.monotonic() + wait_seconds
        while self.load and time.monotonic() < until:
            time.sleep(0.005)
        left = self.load
        for pool in self.all():
            pool.shutdown(wait=not left, cancel_futures=bool(left))
        return left

    @property
    def load(self) -> int:
        return sum(pool.load for pool in self.all())
