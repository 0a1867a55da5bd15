"""Calls that are driven by completions of our own: no thread changes hands for each message.

A handler of grpcio asks for a message and sleeps until the serving thread has it, answers, and sleeps again until
the answer was taken: four changes of threads a message, which cost more than all else that happens to it. Here
the operations of a call, receive and send, carry completions of ours, which the serving thread runs. A
message that arrives is dealt with there and then, if it can be without waiting (``stand_in``), and goes to an inbox
otherwise; an answer that was taken is followed by the next one of an outbox, or by a look for more.

This stands on parts of grpcio that are not public, which is why ``supported`` looks at them first:
where they are not as they are known here, calls go the public way (``call.PublicCall``).
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ..observe.logging import incident
from ..observe.metrics import MethodMetrics
from .call import Call, Deliver, Resume, TakeHere
from .pools import CallPool
from .stand_in import StandIn

log = logging.getLogger(__name__)

#: Bytes of requests in an inbox up to which the next one is asked for; with what each costs beside its bytes.
READ_AHEAD_BYTES = 512 * 1024
#: Bytes of answers on the way to a peer from which on it has to read first, and below which it has.
UNSENT_BYTES = 64 * 1024
MESSAGE_BYTES = 512

_RECEIVE, _SEND = "receive_message", "send_message"
_NO_FLAGS = 0

#: What a completion gives back to the serving thread: the call's state when that is over, callbacks.
_Completed = tuple[Any, Sequence[Callable[[], None]]]
#: A message, and whom to tell when gRPC holds it no more.
_Unsent = tuple[bytes, Callable[[], None] | None]


def supported() -> bool:
    """Whether this grpcio has inside what is used here, in the form that it is known in."""
    try:
        state: Any = _server._RPCState()  # type: ignore[no-untyped-call]
        return (
            all(hasattr(state, name) for name in ("condition", "due", "client", "initial_metadata_allowed"))
            and _parameters(_server._Context) == ["rpc_event", "state", "request_deserializer"]
            and _parameters(_server._possibly_finish_call) == ["state", "token"]
            and _parameters(_server._is_rpc_state_active) == ["state"]
            and _parameters(_server._get_initial_metadata_operation) == ["state", "metadata"]
            and _parameters(_server._process_event_and_continue) == ["state", "event"]
            and _parameters(_server._status) == ["rpc_event", "state", "serialized_response"]
            and hasattr(_server, "_OPEN")
            and hasattr(_server, "_CLOSED")
            and cygrpc.ReceiveMessageOperation(_NO_FLAGS) is not None
            and cygrpc.SendMessageOperation(b"", _NO_FLAGS) is not None
        )
    except (AttributeError, TypeError, ValueError):
        return False


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


class ServingThread(ThreadPoolExecutor):
    """In place of a pool, to gRPC: runs a handler at once, on the serving thread. For handlers that only begin."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._done: Future[Any] = Future()
        self._done.set_result(None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn(*args, **kwargs)
        return self._done


class DirectCall(Call):
    """Begun on the serving thread. The fields are guarded by the condition that grpcio keeps for each call."""

    def __init__(
        self, context: grpc.ServicerContext, metrics: MethodMetrics, pool: CallPool, stand_in: StandIn
    ) -> None:
        super().__init__(context, metrics)
        self._event: Any = context._rpc_event  # type: ignore[attr-defined]
        self._state: Any = context._state  # type: ignore[attr-defined]
        self._condition: threading.Condition = self._state.condition
        self._pool = pool
        self._stand_in = stand_in
        self._deliver: Deliver | None = None
        self._inbox: list[bytes] = []
        self._inbox_bytes = 0
        self._receiving = False
        #: No request will come any more.
        self._requests_over = False
        self._taker_waits = False
        self._take_here: TakeHere | None = None
        # A bare lock is the lightest thing to wait on.
        self._arrived = threading.Lock()
        self._arrived.acquire()
        self._outbox: deque[_Unsent] = deque()
        self._on_the_way: _Unsent = (b"", None)
        #: Of both.
        self._unsent_bytes = 0
        self._sending = False
        self._resume: Resume | None = None
        self._in_work = True
        self._is_over = False
        #: To end once the outbox is empty.
        self._ending = False
        pool.enter()

    def spawn(self, work: Callable[[], None]) -> None:
        try:
            self._pool.run(self._work, work)
        except RuntimeError:  # the pool is shut down: the server is past its end
            self._pool.leave()

    def run(self, work: Callable[[], None]) -> None:
        if not self._stand_in.enter():
            self.spawn(work)
            return
        try:
            self._work(work)
        finally:
            self._stand_in.leave()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._condition:
                leave, self._in_work = not self._kept or self._is_over, False
            if leave:
                self._pool.leave()

    def _over(self) -> None:
        with self._condition:
            self._is_over = True
            leave = self._kept and not self._in_work
        if leave:
            self._pool.leave()

    # -- requests ----------------------------------------------------------------------------

    def receive(self, deliver: Deliver) -> None:
        with self._condition:
            self._deliver = deliver
            self._start_receiving()
            over = self._requests_over
        if over:
            deliver(None)

    def take_here(self, take: TakeHere) -> None:
        self._take_here = take

    def take(self) -> Sequence[bytes]:
        while True:
            with self._condition:
                taken = self._inbox
                if taken:
                    self._inbox = []
                    self._inbox_bytes = 0
                if not self._receiving and not self._requests_over:
                    self._start_receiving()
                if taken or self._requests_over:
                    break
                self._taker_waits = True
            self._arrived.acquire()
        if taken:
            self._metrics.received.inc(len(taken))
        return taken

    def _start_receiving(self) -> None:
        if not _server._is_rpc_state_active(self._state):
            self._requests_over = True
            return
        try:
            self._event.call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)
        except Exception as exc:  # who waits for a request must not wait for ever
            self._requests_over = True
            incident(log, exc, part="receive")
            return
        self._state.due.add(_RECEIVE)
        self._receiving = True

    def _received(self, event: Any) -> _Completed:
        """On the serving thread: must never raise."""
        deliver = None
        data: bytes | None = None
        here = False
        with self._condition:
            self._receiving = False
            completed: _Completed = _server._possibly_finish_call(self._state, _RECEIVE)
            try:
                data = event.batch_operations[0].message()
                if data is None:
                    self._requests_over = True
                    if self._state.client is _server._OPEN:
                        self._state.client = _server._CLOSED
                    self._condition.notify_all()
                if self._deliver is not None:
                    deliver, self._deliver = self._deliver, None
                elif data is not None:
                    here = self._may_take_here()
                    if not here:
                        self._put(data)
            except Exception as exc:
                self._requests_over = True
                incident(log, exc, part="receive")
            if not here:
                self._call_taker()
        if here:
            assert data is not None
            self._take_it_here(data)
        if deliver is not None:
            try:
                if data is not None:
                    self._metrics.received.inc()
                deliver(data)
            except Exception as exc:
                incident(log, exc, part="receive")
        return completed

    def _may_take_here(self) -> bool:
        """The caller holds the condition. When true, ``_take_it_here`` follows."""
        ready = self._take_here is not None and self._taker_waits and self._unsent_bytes < UNSENT_BYTES
        return ready and self._stand_in.enter()

    def _put(self, data: bytes) -> None:
        """The caller holds the condition."""
        self._inbox.append(data)
        self._inbox_bytes += len(data) + MESSAGE_BYTES
        if self._inbox_bytes < READ_AHEAD_BYTES:
            self._start_receiving()

    def _call_taker(self) -> None:
        """The caller holds the condition."""
        if self._taker_waits:
            self._taker_waits = False
            self._arrived.release()

    def _take_it_here(self, data: bytes) -> None:
        """No other request comes before this has ended: it is asked for only then."""
        assert self._take_here is not None
        taken = True
        try:
            taken = self._take_here(data)
        except Exception as exc:
            incident(log, exc, part="receive")
        if taken:
            self._metrics.received.inc()
        with self._condition:
            if taken:
                self._start_receiving()
            else:
                self._put(data)
            if not taken or self._requests_over:
                self._call_taker()
        self._stand_in.leave()

    # -- answers -----------------------------------------------------------------------------

    def send(self, message: bytes | None, taken: Callable[[], None] | None = None, /) -> None:
        if message is None:
            self._end()
        else:
            self._send(((message, taken),))

    def send_all(self, messages: Sequence[bytes]) -> None:
        self._send([(message, None) for message in messages])

    def _send(self, unsent: Sequence[_Unsent]) -> None:
        # Before they go: whoever has the answer finds it counted.
        self._metrics.sent.inc(len(unsent))
        dropped: Sequence[_Unsent] = ()
        with self._condition:
            for n, one in enumerate(unsent):
                if not self._is_active():
                    dropped = unsent[n:]
                    break
                if self._sending:
                    self._outbox.append(one)
                else:
                    self._start_sending(one)
                self._unsent_bytes += len(one[0]) + MESSAGE_BYTES
        _tell(dropped)

    def wait_to_send(self, resume: Resume) -> bool:
        with self._condition:
            if self._unsent_bytes < UNSENT_BYTES or not self._is_active():
                return False
            self._resume = resume
            return True

    def answer(self, message: bytes) -> None:
        self._metrics.sent.inc()
        self._count.end()
        _server._status(self._event, self._state, message)
        self._over()

    def _end(self) -> None:
        self._count.end()
        with self._condition:
            if self._sending:
                self._ending = True
            else:
                _server._status(self._event, self._state, None)
        self._over()

    def _is_active(self) -> bool:
        active: bool = _server._is_rpc_state_active(self._state)
        return active

    def _start_sending(self, one: _Unsent) -> None:
        state = self._state
        operation = cygrpc.SendMessageOperation(one[0], _NO_FLAGS)
        operations: tuple[Any, ...]
        if state.initial_metadata_allowed:
            operations = (_server._get_initial_metadata_operation(state, None), operation)
            state.initial_metadata_allowed = False
        else:
            operations = (operation,)
        self._event.call.start_server_batch(operations, self._sent)
        state.due.add(_SEND)
        self._sending = True
        self._on_the_way = one

    def _sent(self, _event: Any) -> _Completed:
        """On the serving thread: must never raise."""
        resume = None
        with self._condition:
            self._sending = False
            over = [self._on_the_way]
            self._unsent_bytes -= len(self._on_the_way[0]) + MESSAGE_BYTES
            completed: _Completed = _server._possibly_finish_call(self._state, _SEND)
            try:
                if not self._is_active():
                    self._drop_outbox(over)
                elif self._outbox:
                    self._start_sending(self._outbox[0])
                    # Not sooner: when that fails, it is told of with the others.
                    self._outbox.popleft()
                elif self._ending:
                    _server._status(self._event, self._state, None)
            except Exception as exc:
                self._drop_outbox(over)
                incident(log, exc, part="send")
            if self._unsent_bytes <= UNSENT_BYTES // 2:
                resume, self._resume = self._resume, None
        _tell(over)
        if resume is not None:
            self._go_on(resume)
        return completed

    def _go_on(self, resume: Resume) -> None:
        here = self._stand_in.enter()
        try:
            resume(here)
        except Exception as exc:
            incident(log, exc, part="send")
        if here:
            self._stand_in.leave()

    def _drop_outbox(self, over: list[_Unsent]) -> None:
        over.extend(self._outbox)
        self._outbox.clear()
        self._unsent_bytes = 0


def _tell(over: Sequence[_Unsent]) -> None:
    for _, taken in over:
        if taken is not None:
            try:
                taken()
            except Exception as exc:
                incident(log, exc, part="send")
