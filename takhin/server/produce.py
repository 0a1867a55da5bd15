"""ProduceMessage and ProduceBatch: one request, one append, one answer."""

from __future__ import annotations

import enum
import threading
import time

from .._wire import ProduceRequest
from ..engine.base import ACKS_NONE, Appended, Engine
from ..errors import TakhinError, Timeout, Unavailable
from . import status
from .call import Call
from .calls import Late, fail_parked
from .inflight import InFlight
from .names import refine
from .produce_codec import BATCH, MESSAGE, ProduceCodec, acks_of, producer_of, timeout_of
from .senders import Senders
from .timers import Timer, Timers

#: Without others, after which a call counts as alone: longer than a crowd takes to be answered and to be back.
ALONE_SECONDS = 0.1


class _Pending:
    """One append, and the call that is answered with its outcome. No thread waits, but for a call that is alone:
    whoever brings the outcome has a sender answer, unless the appending thread still can."""

    __slots__ = ("_codec", "_in_append", "_lock", "_outcome", "_producer", "acks", "call", "request", "size", "timer")

    def __init__(
        self, producer: Producer, codec: ProduceCodec, call: Call, request: ProduceRequest, acks: int, size: int
    ) -> None:
        self._producer = producer
        self._codec = codec
        self.call = call
        self.request = request
        self.acks = acks
        #: Bytes of the request.
        self.size = size
        self.timer: Timer | None = None
        self._lock = threading.Lock()
        self._in_append = True
        self._outcome: Appended | TakhinError | _Gone | None = None

    def done(self, outcome: Appended | TakhinError) -> None:
        """The engine's callback: any thread, quick."""
        # The bytes are in the works until now, even when nobody waits any more.
        self._producer.inflight.give(self.size)
        self.resolve(outcome)

    def resolve(self, outcome: Appended | TakhinError | _Gone) -> None:
        """The first outcome counts. From any thread."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
            if self._in_append:
                return
        self._producer.senders.submit(self)

    def client_gone(self) -> None:
        """Runs on gRPC's serving thread: tiny."""
        self.resolve(_Gone.GONE)

    def time_out(self) -> None:
        self.resolve(timed_out(self.request.topic, self.request.partition, self.acks))

    def append_ended(self) -> bool:
        """Whether the outcome is there: then the caller answers, else whoever brings it."""
        with self._lock:
            self._in_append = False
            return self._outcome is not None

    @property
    def is_resolved(self) -> bool:
        return self._outcome is not None

    def run(self, may_wait: bool = True) -> None:
        """Answer. Once, when the outcome is there. It never waits."""
        outcome = self._outcome
        request = self.request
        self._producer.pending.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if isinstance(outcome, Appended):
            self.call.answer(self._codec.encode(request.topic, request.correlation_id, outcome))
        elif isinstance(outcome, TakhinError):
            # One error may be the outcome of many appends: no thread leaves its trace on it.
            error = refine(outcome, [("topic", request.topic)]).with_traceback(None)
            fail_parked(self.call, status.known(error))
        else:
            self.call.abandon()

    def evict(self) -> None:
        self.call.context.cancel()  # type: ignore[no-untyped-call]


class _Gone(enum.Enum):
    """The outcome when the client went away first."""

    GONE = enum.auto()


class Producer:
    def __init__(self, engine: Engine, inflight: InFlight, senders: Senders, timers: Timers, default_acks: int) -> None:
        self._engine = engine
        self.inflight = inflight
        self.senders = senders
        self._timers = timers
        self._default_acks = default_acks
        #: Calls whose outcome is still to come.
        self.pending: set[_Pending] = set()
        #: When there were others beside the call that came, ``time.monotonic`` seconds.
        self._crowded = float("-inf")
        self.produce_message: Late = self._method(MESSAGE)
        self.produce_batch: Late = self._method(BATCH)

    @property
    def waiting(self) -> int:
        """Calls that wait for stable storage."""
        return len(self.pending)

    def give_up(self) -> None:
        """Let nobody wait any longer: the server is at the end of its grace."""
        error = Unavailable("the server is stopping; the record may or may not be in the log")
        for pending in list(self.pending):
            pending.resolve(error)

    def _method(self, codec: ProduceCodec) -> Late:
        def method(data: bytes, call: Call) -> None:
            request = codec.decode(data)
            acks = acks_of(request, self._default_acks)
            stamp = producer_of(request)
            limit = timeout_of(request)
            size = len(data)
            self.inflight.take(size)
            pending = _Pending(self, codec, call, request, acks, size)
            # A limit is told of by a timer, which is set only for those that wait.
            alone = self._is_alone(call, size) and limit is None
            self._engine.append(request.topic, request.partition, request.records, acks, stamp, pending.done, alone)
            if not pending.is_resolved:
                self._wait(pending, limit)
            if pending.append_ended():
                pending.run()

        return method

    def _is_alone(self, call: Call, size_bytes: int) -> bool:
        """Whether this call is the only one, and was lately. Of many, the first would keep the others from being read,
        who are better flushed together."""
        now = time.monotonic()
        if not call.alone or self.inflight.used_bytes != size_bytes:
            self._crowded = now
        return now - self._crowded > ALONE_SECONDS

    def _wait(self, pending: _Pending, limit: float | None) -> None:
        """For an outcome that is to come: it may come while this is done. ``limit``: seconds."""
        self.pending.add(pending)
        pending.call.keep()
        if limit is not None:
            pending.timer = self._timers.after(limit, pending.time_out)
        if not pending.call.context.add_callback(pending.client_gone):
            pending.client_gone()


def timed_out(topic: str, partition: int, acks: int) -> Timeout:
    waited_for = "accepted" if acks == ACKS_NONE else "written" if acks > 0 else "on stable storage"
    return Timeout(
        f"the wait for the records to be {waited_for} is over; they may or may not be in the log",
        topic=topic,
        partition=partition,
    )
