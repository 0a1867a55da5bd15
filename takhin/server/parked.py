"""Streams that wait without a thread, and the turn-taking that keeps them to one thread at a time."""

from __future__ import annotations

import enum
import threading
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from .. import errors
from . import status
from .call import Call
from .senders import Senders


class Next(enum.Enum):
    """What a step wants next."""

    #: Nothing, until the next ``wake``.
    PARK = enum.auto()
    #: Another step, after the others had their turn.
    AGAIN = enum.auto()
    #: The stream is at its good end.
    DONE = enum.auto()


class _Turn(enum.Enum):
    IDLE = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    #: Running, and woken meanwhile.
    WOKEN = enum.auto()
    OVER = enum.auto()


_Stream = TypeVar("_Stream", bound="ParkedStream")


class StreamSet(Generic[_Stream]):
    """The open streams of one kind: bounded, and told when the server stops. Safe from any thread."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._lock = threading.Lock()
        self._streams: set[_Stream] = set()
        self._ending: errors.TakhinError | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: _Stream) -> None:
        """Raises ``TooManyStreams``, or ``Unavailable`` once ``end`` was called."""
        with self._lock:
            if self._ending is not None:
                raise self._ending
            if len(self._streams) >= self.limit:
                raise errors.TooManyStreams(
                    f"there are {self.limit} {self.name} streams, the most that this server takes", limit=self.limit
                )
            self._streams.add(stream)

    def discard(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.discard(stream)

    def all(self) -> list[_Stream]:
        with self._lock:
            return list(self._streams)

    def wake(self) -> None:
        for stream in self.all():
            stream.wake()

    def end(self, error: errors.TakhinError) -> None:
        """Ask all to end with the error, and refuse new ones."""
        with self._lock:
            self._ending = error
            streams = list(self._streams)
        for stream in streams:
            stream.end(error)


class ParkedStream(ABC):
    """One open stream whose responses are sent by whoever has the turn.

    The turn: ``wake`` gives it to a sender thread when nobody has it, and otherwise makes the
    one who has it go on once more. So a wake is never lost and ``step`` never runs twice at
    once; only ``step`` may send. However the stream ends, ``release`` is called once, with the turn.
    """

    def __init__(self, call: Call, senders: Senders) -> None:
        self.call = call
        self.context = call.context
        self._senders = senders
        self._turn_lock = threading.Lock()
        self._turn = _Turn.IDLE
        #: The client has gone: nothing can be sent any more.
        self.gone = False
        #: Why the stream shall end, when somebody asked for it.
        self.ending: errors.TakhinError | None = None
        #: For ``step``: this thread may wait, for a disk say.
        self.may_wait = True

    @abstractmethod
    def step(self) -> Next:
        """Send what there is to send, not too much at once. A ``TakhinError`` ends the stream with it."""

    @abstractmethod
    def release(self) -> None:
        """Give back everything."""

    def describe(self) -> dict[str, Any]:
        """What the log says of the stream when something fails."""
        return {}

    # -- from any thread ---------------------------------------------------------------------

    def watch_client(self) -> None:
        """Call once, when everything is set up: from then on, a client that goes away is noticed."""
        if not self.context.add_callback(self.client_gone):
            self.client_gone()

    def client_gone(self) -> None:
        """Runs on gRPC's serving thread: tiny."""
        self.gone = True
        self.wake()

    def end(self, error: errors.TakhinError) -> None:
        if self.ending is None:
            self.ending = error
        self.wake()

    def evict(self) -> None:
        self.context.cancel()  # type: ignore[no-untyped-call]

    def wake(self) -> None:
        with self._turn_lock:
            if self._turn is _Turn.IDLE:
                self._turn = _Turn.QUEUED
            elif self._turn is _Turn.RUNNING:
                self._turn = _Turn.WOKEN
                return
            else:
                return
        self._senders.submit(self)

    def run_here(self, may_wait: bool = True) -> None:
        """``wake``, but with this thread in place of a sender's, if nobody has the turn."""
        with self._turn_lock:
            if self._turn is _Turn.RUNNING:
                self._turn = _Turn.WOKEN
            if self._turn is not _Turn.IDLE:
                return
            self._turn = _Turn.RUNNING
        self._take_turn(may_wait)

    def _resume(self, here: bool) -> None:
        if here:
            self.run_here(may_wait=False)
        else:
            self.wake()

    # -- with the turn -----------------------------------------------------------------------

    def run(self, may_wait: bool = True) -> None:
        """For the senders."""
        with self._turn_lock:
            if self._turn is _Turn.OVER:
                return
            self._turn = _Turn.RUNNING
        self._take_turn(may_wait)

    def must_wait(self) -> bool:
        """Whether the peer has to read before more is sent to it: then it is time to park, and there will be another
        step when it has."""
        return self.call.wait_to_send(self._resume)

    def _take_turn(self, may_wait: bool) -> None:
        self.may_wait = may_wait
        try:
            following = self._step()
        except Exception as exc:
            self._finish(status.known(exc, **self.describe()))
            return
        if following is Next.DONE:
            self._finish(None)
            return
        with self._turn_lock:
            if following is Next.PARK and self._turn is _Turn.RUNNING:
                self._turn = _Turn.IDLE
                return
            self._turn = _Turn.QUEUED
        self._senders.submit(self)

    def _step(self) -> Next:
        if self.gone:
            return Next.DONE
        if self.ending is None and self.must_wait():
            return Next.PARK
        return self.step()

    def _finish(self, error: errors.TakhinError | None) -> None:
        with self._turn_lock:
            self._turn = _Turn.OVER
        try:
            self.release()
        finally:
            if not self.gone:
                if error is not None:
                    status.fill(self.context, error)
                self.call.send(None)
