"""How many bytes of requests are in the works: what keeps memory under its limit."""

from __future__ import annotations

import threading

from ..errors import TooManyBytesInFlight


class InFlight:
    """An account of bytes. Whoever takes gives back the same number once, when the engine is done
    with them; that may be after the caller has gone. Safe from any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._changed = threading.Condition(threading.Lock())
        self._used = 0
        self._waiting = 0

    @property
    def used_bytes(self) -> int:
        return self._used

    def take(self, size_bytes: int, wait_seconds: float = 0.0) -> None:
        """Raises ``TooManyBytesInFlight`` when there is no room, and none came within the wait."""
        with self._changed:
            if not self._fits(size_bytes) and wait_seconds > 0:
                self._waiting += 1
                try:
                    self._changed.wait_for(lambda: self._fits(size_bytes), wait_seconds)
                finally:
                    self._waiting -= 1
            if not self._fits(size_bytes):
                raise TooManyBytesInFlight(
                    f"{self._used} bytes of requests are in the works and {size_bytes} more would pass the limit of "
                    f"{self.limit_bytes}",
                    limit=self.limit_bytes,
                )
            self._used += size_bytes

    def give(self, size_bytes: int) -> None:
        with self._changed:
            self._used -= size_bytes
            if self._waiting:
                self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        return self._used + size_bytes <= self.limit_bytes
