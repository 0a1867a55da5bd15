"""How many bytes of requests are in the works: what keeps memory under its limit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..errors import TooManyBytesInFlight

#: How many of those that wait are told when bytes come back. One may need none of them any more, so it is more
#: than one; all of them would be a stampede.
CALLS_A_GIVE = 4


class InFlight:
    """An account of bytes. Whoever takes gives back the same number once, when the engine is done
    with them; that may be after the caller has gone. Safe from any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._changed = threading.Condition(threading.Lock())
        self._used = 0
        self._waiting = 0
        self._when_room: deque[Callable[[], None]] = deque()

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

    def try_take(self, size_bytes: int) -> bool:
        """Whether there was room, without a wait and without an error."""
        with self._changed:
            if not self._fits(size_bytes):
                return False
            self._used += size_bytes
            return True

    def has_room(self, size_bytes: int) -> bool:
        """At this moment."""
        return self._fits(size_bytes)

    def when_room(self, call: Callable[[], None]) -> None:
        """Call once when bytes come back, a few callers a time in the order they came. The call must
        be quick; whoever finds no room then asks again. There may be no call at all if nothing is
        under way, so a timer of one's own is needed as well."""
        with self._changed:
            self._when_room.append(call)

    def set_limit(self, limit_bytes: int) -> None:
        """What is taken stays taken, also above a lower limit."""
        with self._changed:
            self.limit_bytes = limit_bytes
            self._changed.notify_all()

    def give(self, size_bytes: int) -> None:
        calls: list[Callable[[], None]] = []
        with self._changed:
            self._used -= size_bytes
            if self._waiting:
                self._changed.notify_all()
            while self._when_room and len(calls) < CALLS_A_GIVE:
                calls.append(self._when_room.popleft())
        for call in calls:
            call()

    def _fits(self, size_bytes: int) -> bool:
        return self._used + size_bytes <= self.limit_bytes
