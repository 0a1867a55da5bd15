"""ProduceMessage and ProduceBatch: one request, one append, one answer."""

from __future__ import annotations

import threading

import grpc

from ..engine.base import ACKS_NONE, Appended, Engine
from ..errors import TakhinError, Timeout, Unavailable
from .calls import Unary
from .inflight import InFlight
from .names import refine
from .produce_codec import BATCH, MESSAGE, ProduceCodec, acks_of, producer_of, timeout_of

#: Seconds that a call without a deadline waits at most: a day, within what a bare lock takes.
_LONGEST_WAIT = 86_400.0


class _Waiter:
    """One append that a thread waits for. ``done`` may come from any thread, also before the wait."""

    __slots__ = ("_inflight", "_ready", "_size", "outcome")

    def __init__(self, inflight: InFlight, size: int) -> None:
        self._inflight = inflight
        self._size = size
        self.outcome: Appended | TakhinError | None = None
        # A bare lock is the lightest thing to wait on: taken now, given back by whoever has the outcome.
        self._ready = threading.Lock()
        self._ready.acquire()

    def done(self, outcome: Appended | TakhinError) -> None:
        # The bytes are in the works until now, even when nobody waits any more.
        self._inflight.give(self._size)
        self.resolve(outcome)

    def resolve(self, outcome: Appended | TakhinError) -> None:
        """The first outcome counts."""
        if self.outcome is None:
            self.outcome = outcome
            try:
                self._ready.release()
            except RuntimeError:  # two at once: the other one has released it
                pass

    def wait(self, seconds: float) -> Appended | TakhinError | None:
        """None when the time is up first."""
        if self.outcome is None:
            self._ready.acquire(timeout=min(seconds, _LONGEST_WAIT))
        return self.outcome


class Producer:
    def __init__(self, engine: Engine, inflight: InFlight, default_acks: int) -> None:
        self._engine = engine
        self._inflight = inflight
        self._default_acks = default_acks
        self._waiters: set[_Waiter] = set()
        self.produce_message: Unary = self._method(MESSAGE)
        self.produce_batch: Unary = self._method(BATCH)

    @property
    def waiting(self) -> int:
        """Calls that wait for stable storage."""
        return len(self._waiters)

    def give_up(self) -> None:
        """Let nobody wait any longer: the server is at the end of its grace."""
        error = Unavailable("the server is stopping; the record may or may not be in the log")
        for waiter in list(self._waiters):
            waiter.resolve(error)

    def _method(self, codec: ProduceCodec) -> Unary:
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            request = codec.decode(data)
            acks = acks_of(request, self._default_acks)
            stamp = producer_of(request)
            own_limit = timeout_of(request)
            size = len(data)
            self._inflight.take(size)
            waiter = _Waiter(self._inflight, size)
            self._engine.append(request.topic, request.partition, request.records, acks, stamp, waiter.done)
            outcome = waiter.outcome
            if outcome is None:
                outcome = self._wait(waiter, context, own_limit)
            if isinstance(outcome, Appended):
                return codec.encode(request.topic, request.correlation_id, outcome)
            if outcome is None:
                raise timed_out(request.topic, request.partition, acks)
            # One error may be the outcome of many appends: no thread leaves its trace on it.
            raise refine(outcome, [("topic", request.topic)]).with_traceback(None)

        return call

    def _wait(
        self, waiter: _Waiter, context: grpc.ServicerContext, own_limit: float | None
    ) -> Appended | TakhinError | None:
        left = context.time_remaining()
        if own_limit is not None and (left is None or own_limit < left):
            left = own_limit
        self._waiters.add(waiter)
        try:
            return waiter.wait(_LONGEST_WAIT if left is None else left)
        finally:
            self._waiters.discard(waiter)


def timed_out(topic: str, partition: int, acks: int) -> Timeout:
    waited_for = "accepted" if acks == ACKS_NONE else "written" if acks > 0 else "on stable storage"
    return Timeout(
        f"the wait for the records to be {waited_for} is over; they may or may not be in the log",
        topic=topic,
        partition=partition,
    )
