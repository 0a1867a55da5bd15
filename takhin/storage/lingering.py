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
EARNED = 0.2
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

    def __init__(
        self, linger_s: float, still_lingers: Callable[[_Partition], bool], has_little: Callable[[_Partition], bool]
    ) -> None:
        """Asked without a lock: ``still_lingers`` is False when the partition's flush was asked for meanwhile, and
        ``has_little`` when so much is to be written that the flush costs no less later."""
        self._linger_s = linger_s
        self._still_lingers = still_lingers
        self._has_little = has_little
        #: When each is due, ``time.monotonic``; the earliest is the first, for the linger is the same for all.
        self._due: dict[_Partition, float] = {}
        self._credit_s = MOST_S
        self._credited = time.monotonic()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, partition: _Partition) -> None:
        self._due.setdefault(partition, time.monotonic() + self._linger_s)

    def wait_s(self) -> float | None:
        """Until ``take`` is worth a call; None when nobody lingers."""
        if not self._due:
            return None
        now = time.monotonic()
        due = next(iter(self._due.values()))
        if due > now:
            return due - now
        return 0.0 if self._earned(now) > 0 or due + LATEST_S <= now else PERIOD_S

    def take(self, flush_s: float) -> list[_Partition]:
        """Those that are due, and of those with little to write as many as can be paid for; each of these costs so many
        seconds, about."""
        now = time.monotonic()
        credit_s = self._earned(now)
        taken: list[_Partition] = []
        gone: list[_Partition] = []
        for partition, due in islice(self._due.items(), LOOKS_AT_MOST):
            if due > now:
                break
            if not self._still_lingers(partition):
                gone.append(partition)
                continue
            if self._has_little(partition):
                if credit_s <= 0 and due + LATEST_S > now:
                    continue
                credit_s -= flush_s
            taken.append(partition)
        for partition in [*taken, *gone]:
            del self._due[partition]
        self._credit_s = max(credit_s, -MOST_S)
        return taken

    def take_all(self) -> list[_Partition]:
        taken = [partition for partition in self._due if self._still_lingers(partition)]
        self._due.clear()
        return taken

    def _earned(self, now: float) -> float:
        self._credit_s = min(MOST_S, self._credit_s + EARNED * (now - self._credited))
        self._credited = now
        return self._credit_s
