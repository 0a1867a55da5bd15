"""ProduceMessageStream and ProduceBatchStream: many requests under way, answers in order.

Requests are appended one after the other as they come, on the serving thread where that is no matter of waiting,
otherwise by the call's own thread; outcomes come from the
engine in any order and from any thread; answers leave in the order of the requests, by whoever
has the turn (``parked``). That is the reading thread itself when nothing is under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc

from .. import errors
from ..engine.base import ACKS_NONE, Appended, Engine
from . import status
from .call import Call
from .calls import ParkedBidi, check_size
from .inflight import InFlight
from .names import refine
from .parked import Next, ParkedStream, StreamSet
from .produce import timed_out
from .produce_codec import BATCH, MESSAGE, ProduceCodec, acks_of, producer_of, timeout_of
from .senders import Senders
from .timers import Timer, Timers

#: What an answer that waits costs beside its request, bytes, so that many tiny requests count too.
ANSWER_BYTES = 512
#: Answers that are sent at once, and how many times in a row before other streams have their turn.
ANSWERS_AT_ONCE = 64
TURNS = 4
#: Seconds that a stream waits for room among the bytes in flight, before it is answered with an error. It holds
#: up its own sender only, who feels flow control.
ROOM_SECONDS = 5.0


class _Answer:
    """The place of one request in the order of answers."""

    __slots__ = ("correlation_id", "in_append", "outcome", "partition", "size", "stream", "timer", "topic")

    def __init__(self, stream: ProduceStream, size: int) -> None:
        self.stream = stream
        #: Bytes of the request.
        self.size = size
        self.topic = ""
        self.partition = 0
        self.correlation_id = 0
        self.outcome: Appended | errors.TakhinError | None = None
        #: The reading thread is about to look itself.
        self.in_append = True
        self.timer: Timer | None = None

    def done(self, outcome: Appended | errors.TakhinError) -> None:
        """The engine's callback: any thread, quick, never sends."""
        self.stream.inflight.give(self.size)
        self.resolve(outcome)

    def resolve(self, outcome: Appended | errors.TakhinError) -> None:
        """The first outcome counts."""
        if self.stream.settle(self, outcome):
            self.stream.wake()

    def time_out(self) -> None:
        self.resolve(timed_out(self.topic, self.partition, -1))


class ProduceStream(ParkedStream):
    def __init__(self, service: ProduceStreams, codec: ProduceCodec, call: Call) -> None:
        super().__init__(call, service.senders)
        self._service = service
        self._codec = codec
        self.inflight = service.inflight
        #: Guards the fields below. Never held across a send or a call of the engine.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._answers: deque[_Answer] = deque()
        #: Bytes of requests whose answers have not left yet.
        self._waiting_bytes = 0
        self._half_closed = False

    def describe(self) -> dict[str, Any]:
        return {"stream": "produce", "peer": self.context.peer()}

    # -- the reading thread ------------------------------------------------------------------

    def read(self) -> None:
        """Until the client half-closes, goes away, or the stream is asked to end."""
        self.call.take_here(self._take_here)
        try:
            while requests := self.call.take():
                if not self._take_all(requests):
                    break
                del requests  # the wait for the next ones must not keep these
        except grpc.RpcError:
            self.gone = True
        with self._lock:
            self._half_closed = True
        self.run_here()

    def _take_here(self, data: bytes) -> bool:
        """On the serving thread, while the reading thread waits: ``TakeHere``."""
        full = self._waiting_bytes >= self._service.buffer_bytes or not self.inflight.has_room(len(data))
        if full or self.gone or self.ending is not None:
            return False
        self._take(data)
        self._send_ready(may_wait=False)
        return True

    def _take_all(self, requests: Sequence[bytes]) -> bool:
        """False when the stream is at its end before all of them are taken."""
        for data in requests:
            if self._waiting_bytes >= self._service.buffer_bytes:
                self._send_ready()
            if not self._wait_for_room():
                return False
            self._take(data)
        self._send_ready()
        return True

    def _wait_for_room(self) -> bool:
        with self._room:
            while self._waiting_bytes >= self._service.buffer_bytes and not self.gone and self.ending is None:
                self._room.wait()
        return not self.gone and self.ending is None

    def _take(self, data: bytes) -> None:
        size = len(data)
        answer = _Answer(self, size)
        with self._lock:
            self._answers.append(answer)
            self._waiting_bytes += size + ANSWER_BYTES
        try:
            self._append(answer, data)
        except Exception as exc:
            self.settle(answer, status.known(exc, **self.describe()))
        # Then the outcome is looked for: one that comes in between is seen by this thread, or by who brings it.
        answer.in_append = False

    def _send_ready(self, may_wait: bool = True) -> None:
        with self._lock:
            ready = bool(self._answers) and self._answers[0].outcome is not None
        if ready:
            self.run_here(may_wait)

    def _append(self, answer: _Answer, data: bytes) -> None:
        """Raises ``TakhinError`` when it does not come to an append."""
        request = self._codec.decode(check_size(data, self._service.max_message_bytes))
        answer.topic = request.topic
        answer.partition = request.partition
        answer.correlation_id = request.correlation_id
        acks = acks_of(request, self._service.default_acks)
        stamp = producer_of(request)
        limit = timeout_of(request)
        if not self.inflight.try_take(answer.size):
            self._send_ready()
            self.inflight.take(answer.size, wait_seconds=ROOM_SECONDS)
        self._service.engine.append(request.topic, request.partition, request.records, acks, stamp, answer.done)
        if limit is not None and answer.outcome is None and acks != ACKS_NONE:
            timer = self._service.timers.after(limit, answer.time_out)
            answer.timer = timer
            if answer.outcome is not None:
                timer.cancel()

    # -- any thread --------------------------------------------------------------------------

    def settle(self, answer: _Answer, outcome: Appended | errors.TakhinError) -> bool:
        """Note the outcome, unless there is one. True when a turn is needed to send it."""
        with self._lock:
            if answer.outcome is not None:
                return False
            answer.outcome = outcome
            first = bool(self._answers) and self._answers[0] is answer
            needs_turn = first and not answer.in_append
        timer = answer.timer
        if timer is not None:
            timer.cancel()
        return needs_turn

    def client_gone(self) -> None:
        super().client_gone()
        self._let_reader_look()

    def end(self, error: errors.TakhinError) -> None:
        super().end(error)
        self._let_reader_look()

    def _let_reader_look(self) -> None:
        with self._room:
            self._room.notify_all()

    # -- with the turn -----------------------------------------------------------------------

    def step(self) -> Next:
        for _ in range(TURNS):
            with self._room:
                ready = self._take_ready()
                if not ready:
                    if self._answers:
                        return Next.PARK
                    # Everything that was taken is answered: the only place where the stream may end.
                    if self.ending is not None:
                        raise self.ending
                    return Next.DONE if self._half_closed else Next.PARK
            self.call.send_all([self._encoded(answer) for answer in ready])
            if self.gone:
                return Next.DONE
            if self.must_wait():
                return Next.PARK
        return Next.AGAIN

    def _take_ready(self) -> list[_Answer]:
        """The caller holds the lock."""
        answers = self._answers
        ready: list[_Answer] = []
        full = self._waiting_bytes >= self._service.buffer_bytes
        while answers and answers[0].outcome is not None and len(ready) < ANSWERS_AT_ONCE:
            answer = answers.popleft()
            self._waiting_bytes -= answer.size + ANSWER_BYTES
            ready.append(answer)
        if full and self._waiting_bytes < self._service.buffer_bytes:
            self._room.notify_all()
        return ready

    def _encoded(self, answer: _Answer) -> bytes:
        outcome = answer.outcome
        if isinstance(outcome, Appended):
            return self._codec.encode(answer.topic, answer.correlation_id, outcome)
        assert outcome is not None
        error = refine(outcome, [("topic", answer.topic)])
        return self._codec.encode_failure(answer.topic, answer.partition, answer.correlation_id, error)

    def release(self) -> None:
        # Appends that are still under way give their bytes back through ``done``.
        self._service.streams.discard(self)
        with self._room:
            self._answers.clear()
            self._room.notify_all()


class ProduceStreams:
    """Opens produce streams, and knows those that are open."""

    def __init__(
        self,
        engine: Engine,
        inflight: InFlight,
        senders: Senders,
        timers: Timers,
        default_acks: int,
        buffer_bytes: int,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        self.engine = engine
        self.inflight = inflight
        self.senders = senders
        self.timers = timers
        self.default_acks = default_acks
        self.buffer_bytes = buffer_bytes
        self.max_message_bytes = max_message_bytes
        self.streams: StreamSet[ProduceStream] = StreamSet("produce", max_streams)
        self.produce_message_stream: ParkedBidi = self._method(MESSAGE)
        self.produce_batch_stream: ParkedBidi = self._method(BATCH)

    def _method(self, codec: ProduceCodec) -> ParkedBidi:
        def method(call: Call) -> None:
            stream = ProduceStream(self, codec, call)
            self.streams.add(stream)
            stream.watch_client()
            stream.read()

        return method
