"""Group commit: callers that come together share one transaction and one flush.

There is no thread of its own. The first caller to come leads: it commits all that waits,
wakes those whose work it did, and hands the lead to the first of those who came meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from . import errors

W = TypeVar("W")


class Ticket(Generic[W]):
    """One caller's work, and what became of it."""

    __slots__ = ("alone", "error", "leads", "woken", "work")

    def __init__(self, work: W, *, alone: bool) -> None:
        self.work = work
        #: It gets a transaction to itself.
        self.alone = alone
        self.error: BaseException | None = None
        #: Whose turn it is to commit. Guarded by the queue's mutex.
        self.leads = False
        #: Held until the ticket is done or leads.
        self.woken = threading.Lock()
        self.woken.acquire()


class CommitQueue(Generic[W]):
    """Gathers work and passes it to ``commit`` in the order of coming, one batch at a time.

    ``commit`` gets the tickets of one transaction and sets ``error`` on those that failed.
    """

    def __init__(self, commit: Callable[[list[Ticket[W]]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._waiting: deque[Ticket[W]] = deque()
        #: Somebody leads, or has been told to.
        self._busy = False
        self._shut = True

    def open(self) -> None:
        with self._mutex:
            self._shut = False

    def shut(self) -> None:
        """Refuse new work and wait until what was accepted is done. Idempotent."""
        with self._mutex:
            self._shut = True
            while self._busy:
                self._idle.wait()

    def run(self, work: W, *, alone: bool) -> None:
        """Returns when the work has been committed; raises its error, or ``Unavailable``."""
        ticket = Ticket(work, alone=alone)
        with self._mutex:
            if self._shut:
                raise errors.Unavailable("the metadata database is closed")
            self._waiting.append(ticket)
            if not self._busy:
                self._busy = ticket.leads = True
        if not ticket.leads:
            self._wait(ticket)
        if ticket.leads:
            self._lead()
        if ticket.error is not None:
            raise ticket.error

    def _wait(self, ticket: Ticket[W]) -> None:
        try:
            ticket.woken.acquire()
        except BaseException:
            # An interrupt in the main thread: nobody may be left waiting for a leader that is gone.
            with self._mutex:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                successor = self._hand_on() if ticket.leads else None
            if successor is not None:
                successor.woken.release()
            raise

    def _lead(self) -> None:
        with self._mutex:
            batch = [self._waiting.popleft()]
            while not batch[0].alone and self._waiting and not self._waiting[0].alone:
                batch.append(self._waiting.popleft())
        try:
            self._commit(batch)
        except BaseException as error:
            for ticket in batch:
                if ticket.error is None:
                    ticket.error = errors.DurabilityUnknown(f"the commit was broken off: {error!r}")
            raise
        finally:
            with self._mutex:
                successor = self._hand_on()
            for ticket in batch:
                ticket.woken.release()
            if successor is not None:
                successor.woken.release()

    def _hand_on(self) -> Ticket[W] | None:
        """Name the next leader, who must then be woken. The caller holds the mutex and leads."""
        if self._waiting:
            self._waiting[0].leads = True
            return self._waiting[0]
        self._busy = False
        self._idle.notify_all()
        return None
