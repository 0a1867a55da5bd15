"""Reading several partitions at once, in one place."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..client import ConsumedRecord, Consumer

#: Chunks that wait to be written, over all partitions: what is not written is not read either.
_WAITING_CHUNKS: Final = 16


class Tail:
    """One thread a partition fills a bounded queue. ``next`` is called by one thread."""

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._chunks: queue.Queue[list[ConsumedRecord] | Exception | None] = queue.Queue(_WAITING_CHUNKS)
        self._stopped = threading.Event()
        self._running = len(consumers)
        self._threads = [
            threading.Thread(target=self._read, args=(consumer,), name=f"takhin-tail-{consumer.partition}", daemon=True)
            for consumer in consumers
        ]

    def __enter__(self) -> Tail:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        for consumer in self._consumers:
            consumer.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def next(self, timeout: float | None) -> list[ConsumedRecord] | None:
        """The next records of some partition; None after ``timeout`` seconds without any.

        Raises what a partition's consumer raised, and ``EOFError`` when all have ended.
        """
        while self._running:
            try:
                item = self._chunks.get(timeout=timeout)
            except queue.Empty:
                return None
            if isinstance(item, Exception):
                raise item
            if item is not None:
                return item
            self._running -= 1
        raise EOFError

    def _read(self, consumer: Consumer) -> None:
        last: Exception | None = None
        try:
            for records in consumer.chunks():
                if not self._put(records):
                    return
        except Exception as error:  # handed to the thread that prints
            last = error
        self._put(last)

    def _put(self, item: list[ConsumedRecord] | Exception | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._chunks.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
