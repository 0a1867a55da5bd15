"""Who waits on a partition: senders for stable storage, readers for something to read.

The caller of every method holds the partition lock; whom to call is given back, to be called
without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..errors import TakhinError

Wake = Callable[[], None]


class Placed(NamedTuple):
    """Where a batch is, or was the first time."""

    base_offset: int
    #: Inclusive.
    last_offset: int
    timestamp: int


#: Told, once, that a batch is on stable storage, or why that is not sure.
DurableDone = Callable[[Placed | TakhinError], None]


class Waiters:
    __slots__ = ("_parked", "_senders")

    def __init__(self) -> None:
        #: By offset, but for repeats of earlier batches.
        self._senders: deque[tuple[Placed, DurableDone]] = deque()
        self._parked: dict[object, Wake] = {}

    @property
    def anyone_parked(self) -> bool:
        return bool(self._parked)

    @property
    def anyone(self) -> bool:
        return bool(self._senders or self._parked)

    def add_sender(self, placed: Placed, done: DurableDone) -> None:
        self._senders.append((placed, done))

    def senders_below(self, flushed_offset: int) -> list[tuple[Placed, DurableDone]]:
        """Take those whose batch is on stable storage."""
        ready = []
        while self._senders and self._senders[0][0].last_offset < flushed_offset:
            ready.append(self._senders.popleft())
        return ready

    def all_senders(self) -> list[DurableDone]:
        """Take all."""
        senders, self._senders = self._senders, deque()
        return [done for _, done in senders]

    def park(self, owner: object, wake: Wake) -> None:
        self._parked[owner] = wake

    def unpark(self, owner: object) -> None:
        self._parked.pop(owner, None)

    def all_parked(self) -> list[Wake]:
        """Take all."""
        if not self._parked:
            return []
        wakes = list(self._parked.values())
        self._parked = {}
        return wakes
