"""Calls that are driven by completions of our own: no thread changes hands for each message.

A handler of grpcio asks for a message and sleeps until the serving thread has it, answers, and sleeps again until
the answer was taken: four changes of threads a message, which cost more than all else that happens to it. Here
the operations of a call, receive and send, carry completions of ours, which the serving thread runs. A
message that arrives goes to an inbox, and the next is asked for at once; an answer that was taken is followed by
the next one of an outbox. Other threads meet the serving thread only at these two, for many messages at a time.

This stands on parts of grpcio that are not public, which is why ``supported`` looks at them first:
where they are not as they are known here, calls go the public way (``call.PublicCall``).
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ..observe.logging import incident
from ..observe.metrics import MethodMetrics
from .call import Call, Deliver
from .pools import CallPool

log = logging.getLogger(__name__)

#: Bytes of requests in an inbox up to which the next one is asked for; with what each costs beside its bytes.
READ_AHEAD_BYTES = 512 * 1024
#: Bytes of answers in an outbox from which on a sender waits for its peer. One that is larger goes there as well, so
#: that the serving thread has the next at hand when gRPC has taken the one before.
OUTBOX_BYTES = 64 * 1024
MESSAGE_BYTES = 512

#: Seconds that a busy stream gathers requests before it looks at them. Without, each would be looked at as it comes,
#: and the two threads would pass the interpreter's lock to and fro for each.
GATHER_SECONDS = 0.00005

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

    def __init__(self, context: grpc.ServicerContext, metrics: MethodMetrics, pool: CallPool) -> None:
        super().__init__(context, metrics)
        self._event: Any = context._rpc_event  # type: ignore[attr-defined]
        self._state: Any = context._state  # type: ignore[attr-defined]
        self._condition: threading.Condition = self._state.condition
        self._pool = pool
        self._deliver: Deliver | None = None
        self._inbox: list[bytes] = []
        self._inbox_bytes = 0
        self._receiving = False
        #: No request will come any more.
        self._requests_over = False
        self._taker_waits = False
        #: The last time, there was more than one request.
        self._busy = False
        # A bare lock is the lightest thing to wait on.
        self._arrived = threading.Lock()
        self._arrived.acquire()
        self._outbox: deque[_Unsent] = deque()
        self._outbox_bytes = 0
        self._on_the_way: _Unsent = (b"", None)
        self._sending = False
        self._sender_waits = False
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

    def take(self) -> Sequence[bytes]:
        if self._busy:
            time.sleep(GATHER_SECONDS)
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
        self._busy = len(taken) > 1
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
                    self._inbox.append(data)
                    self._inbox_bytes += len(data) + MESSAGE_BYTES
                    if self._inbox_bytes < READ_AHEAD_BYTES:
                        self._start_receiving()
            except Exception as exc:
                self._requests_over = True
                incident(log, exc, part="receive")
            if self._taker_waits:
                self._taker_waits = False
                self._arrived.release()
        if deliver is not None:
            try:
                if data is not None:
                    self._metrics.received.inc()
                deliver(data)
            except Exception as exc:
                incident(log, exc, part="receive")
        return completed

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
                while self._outbox_bytes >= OUTBOX_BYTES and self._is_active():
                    self._sender_waits = True
                    self._condition.wait()
                if not self._is_active():
                    dropped = unsent[n:]
                    break
                if self._sending:
                    self._outbox.append(one)
                    self._outbox_bytes += len(one[0]) + MESSAGE_BYTES
                else:
                    self._start_sending(one)
        _tell(dropped)

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
        with self._condition:
            self._sending = False
            over = [self._on_the_way]
            completed: _Completed = _server._possibly_finish_call(self._state, _SEND)
            try:
                if not self._is_active():
                    self._drop_outbox(over)
                elif self._outbox:
                    following = self._outbox[0]
                    self._start_sending(following)
                    # Not sooner: when that fails, it is told of with the others.
                    self._outbox.popleft()
                    self._outbox_bytes -= len(following[0]) + MESSAGE_BYTES
                elif self._ending:
                    _server._status(self._event, self._state, None)
            except Exception as exc:
                self._drop_outbox(over)
                incident(log, exc, part="send")
            if self._sender_waits and self._outbox_bytes <= OUTBOX_BYTES // 2:
                self._sender_waits = False
                self._condition.notify_all()
        _tell(over)
        return completed

    def _drop_outbox(self, over: list[_Unsent]) -> None:
        over.extend(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0


def _tell(over: Sequence[_Unsent]) -> None:
    for _, taken in over:
        if taken is not None:
            try:
                taken()
            except Exception as exc:
                incident(log, exc, part="send")
