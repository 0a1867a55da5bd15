"""Partitions with records that nobody waits for: when they are flushed.

Each is due a while after its first such record. Where many are due all the time and each has a flush of its own,
flushing could take all the time there is, and more of what is appended to each would come to the same flush if that
were later. So flushes that nobody waits for are paid from a credit of time; who cannot be paid for lingers on. Those
that have much to write are not made to wait: a later flush has as much to write for each of their bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

#: Seconds of flushing that nobody waits for: so many are earned in each second, and at most so many are kept, or owed.
EARNED = 0.1
MOST_S = 0.1
#: Behind its time, seconds, a partition is flushed whatever the credit.
LATEST_S = 5.0
#: Looked at in one go: who appends waits meanwhile.
LOOKS_AT_MOST = 1000
#: Between two looks for what can be paid.
PERIOD_S = 0.01


_Partition = TypeVar("_Partition")


class Lingering(Generic[_Partition]):
    """The caller sees to it that one thread at a time is here."""

    def __init__(self, linger_s: float, still_lingers: Callable[[_Partition], bool]) -> None:
        """``still_lingers`` is asked without a lock: False when the partition's flush was asked for meanwhile."""
        self._linger_s = linger_s
        self._still_lingers = still_lingers
        #: When each is due, ``time.monotonic``; the earliest is the first, for the linger is the same for all.
        self._due: dict[_Partition, float] = {}
        #: The same of those that need no credit, in any order.
        self._due_with_much: dict[_Partition, float] = {}
        self._credit_s = MOST_S
        self._credited = time.monotonic()

    def __len__(self) -> int:
        return len(self._due) + len(self._due_with_much)

    def needs_no_credit(self, partition: _Partition) -> bool:
        return partition in self._due_with_much

    def add(self, partition: _Partition, much: bool) -> None:
        """Due after the linger, if it is not there yet. ``much``: it has so much to write that the flush costs no less
        later. To be said when it comes to that: all partitions were asked at each look once, which took a quarter of
        what a server with a thousand of them did in Python."""
        if partition in self._due_with_much:
            return
        due = self._due.setdefault(partition, time.monotonic() + self._linger_s)
        if much:
            del self._due[partition]
            self._due_with_much[partition] = due

    def wait_s(self) -> float | None:
        """Until ``take`` is worth a call; None when nobody lingers."""
        now = time.monotonic()
        waits = [max(min(self._due_with_much.values()) - now, 0.0)] if self._due_with_much else []
        if self._due:
            due = next(iter(self._due.values()))
            if due > now:
                waits.append(due - now)
            else:
                waits.append(0.0 if self._earned(now) > 0 or due + LATEST_S <= now else PERIOD_S)
        return min(waits, default=None)

    def take(self, flush_s: float) -> list[_Partition]:
        """Those that are due, and of those with little to write as many as can be paid for; each of these costs so many
        seconds, about."""
        now = time.monotonic()
        taken: list[_Partition] = []
        for partition, due in list(self._due_with_much.items()):
            if due <= now:
                del self._due_with_much[partition]
                if self._still_lingers(partition):
                    taken.append(partition)
        credit_s = self._earned(now)
        gone: list[_Partition] = []
        for partition, due in islice(self._due.items(), LOOKS_AT_MOST):
            if due > now:
                break
            if self._still_lingers(partition):
                if credit_s <= 0 and due + LATEST_S > now:
                    break
                credit_s -= flush_s
                taken.append(partition)
            gone.append(partition)
        for partition in gone:
            del self._due[partition]
        self._credit_s = max(credit_s, -MOST_S)
        return taken

    def take_all(self) -> list[_Partition]:
        taken = [partition for partition in (*self._due, *self._due_with_much) if self._still_lingers(partition)]
        self._due.clear()
        self._due_with_much.clear()
        return taken

    def _earned(self, now: float) -> float:
        self._credit_s = min(MOST_S, self._credit_s + EARNED * (now - self._credited))
        self._credited = now
        return self._credit_s
