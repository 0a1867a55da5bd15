"""The clock, as something that can be handed over and, in tests, turned."""

from __future__ import annotations

import time


class Clock:
    """The real clock."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since the epoch. May jump, also backwards."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back; for measuring waits."""
        return time.monotonic()


class ManualClock(Clock):
    """A clock that stands still until it is turned."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, ms: int) -> None:
        """Turn both clocks on by ``ms``; the wall clock alone may go back (negative)."""
        self._now_ms += ms
        if ms > 0:
            self._monotonic += ms / 1000

    def set_wall(self, now_ms: int) -> None:
        """Set the wall clock, as an administrator or NTP would."""
        self._now_ms = now_ms
