"""Reads sealed segments again, slowly, so that damage is found while a good copy may still exist.

The page cache is asked to forget a segment before it is read: what counts is the disk. What is
found is reported (log, metrics, health) and noted in the segment; nothing is changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .._fastlog import MAX_OFFSET
from .partition import Partition
from .segment import Segment

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Ends a scan from within its progress callback."""


class Scrubber:
    """One thread. ``bytes_per_second`` 0 turns it off."""

    def __init__(self, partitions: Callable[[], list[Partition]], bytes_per_second: int, interval_ms: int) -> None:
        self._partitions = partitions
        self._rate = bytes_per_second
        self._interval = interval_ms / 1000
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)
        #: For the metrics.
        self.bytes_scrubbed = 0
        self.passes = 0

    def start(self) -> None:
        if self._rate:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self.scrub()
            except _Stopped:
                return
            except Exception:  # a defect; the next pass may do better
                log.exception("scrubbing failed unexpectedly")

    def scrub(self) -> int:
        """One pass over all sealed segments; gives the number of damages known then."""
        damages = 0
        for partition in self._partitions():
            for segment in partition.segments:
                if segment.sealed and not partition.deleted:
                    self._scrub(partition, segment)
                damages += len(segment.damages)
        self.passes += 1
        log.info("scrubbed", extra={"fields": {"bytes": self.bytes_scrubbed, "damages": damages}})
        return damages

    def _scrub(self, partition: Partition, segment: Segment) -> None:
        begun, first = time.monotonic(), self.bytes_scrubbed
        last = 0

        def pace(position: int) -> None:
            nonlocal last
            self.bytes_scrubbed += position - last
            last = position
            ahead = (self.bytes_scrubbed - first) / self._rate - (time.monotonic() - begun) if self._rate else 0.0
            if self._stopping.wait(max(ahead, 0.0)):
                raise _Stopped

        try:
            file = segment.file()
            file.drop_cache()
            position, expected = 0, segment.base_offset
            while True:
                status, position, expected = file.scan(position, segment.size, expected, progress=pace)
                if status == 0:
                    break
                damage = segment.look_behind(position, expected, status, segment.index())
                if damage.end_offset == MAX_OFFSET:
                    break
                position, expected = damage.resume_position, damage.end_offset
            file.drop_cache()
        except FileNotFoundError:
            return  # retention was faster
        except OSError as problem:
            log.error(
                "segment cannot be read",
                extra={
                    "fields": {
                        "topic": partition.topic,
                        "partition": partition.partition,
                        "base_offset": segment.base_offset,
                        "error": str(problem),
                    }
                },
            )
