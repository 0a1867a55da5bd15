"""From a function over bytes to the behaviour of a call: receiving the request, turning errors into statuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from .. import errors
from . import status
from .call import Call
from .names import names_in, refine
from .pools import CallPool
from .timers import Timers

#: A method with one request and one response: request bytes and context to response bytes.
Unary = Callable[[bytes, grpc.ServicerContext], bytes]
#: A method that answers its one request sooner or later, or sends responses: it has taken everything over when it
#: returns. What it raises ends the call.
Late = Callable[[bytes, Call], None]
#: As ``Parked``, with a stream of requests; all of the call is the method's.
ParkedBidi = Callable[[Call], None]
#: What begins when a call arrives. Quick, for it may run on the serving thread; never raises.
Behaviour = Callable[[Call], None]

Request = TypeVar("Request", bound=Message)

#: Seconds that a single request has to arrive: a client that sends half of one must not keep a place among the
#: calls, or even a thread, for as long as it likes.
ARRIVAL_SECONDS = 30.0


class Arrivals:
    """Gives up calls whose one request does not arrive in time. One timer for all of them."""

    def __init__(self, timers: Timers, max_message_bytes: int, seconds: float = ARRIVAL_SECONDS) -> None:
        self._timers = timers
        self._max_message_bytes = max_message_bytes
        self._seconds = seconds
        self._lock = threading.Lock()
        #: Due times, ``time.monotonic`` seconds, in order.
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._armed = False

    def receive(self, call: Call, work: Callable[[Call, bytes | None], None], short: bool = False) -> None:
        """Then ``work``, in a thread of the call's pool, with its request; None when the call was over first. Work
        that is ``short`` may be done on the serving thread."""
        context = call.context
        with self._lock:
            self._waiting[context] = time.monotonic() + self._seconds
            arm, self._armed = not self._armed, True
        if arm:
            self._timers.after(self._seconds, self._give_up_late)

        def deliver(data: bytes | None) -> None:
            with self._lock:
                del self._waiting[context]
                call.alone = not self._waiting
            run = call.run if short and data is not None else call.spawn
            run(lambda: work(call, data))

        call.receive(deliver)

    def checked(self, data: bytes | None) -> bytes:
        """The request itself. Raises ``MessageTooLarge``, ``Unimplemented`` when there is none."""
        if data is None:
            raise errors.Unimplemented("the method takes exactly one request message, and none came")
        return check_size(data, self._max_message_bytes)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        late = []
        following = None
        with self._lock:
            for context, due in self._waiting.items():
                if due > now:
                    following = due - now
                    break
                late.append(context)
            self._armed = following is not None
        for context in late:
            context.cancel()  # type: ignore[no-untyped-call]
        if following is not None:
            self._timers.after(following, self._give_up_late)


def check_size(data: bytes, max_message_bytes: int) -> bytes:
    """The message itself. Raises ``MessageTooLarge``."""
    if len(data) > max_message_bytes:
        raise errors.MessageTooLarge(
            f"the message has {len(data)} bytes and may have {max_message_bytes} (grpc.max_message_size)",
            size_bytes=len(data),
            limit_bytes=max_message_bytes,
        )
    return data


def cold(request_type: type[Request], method: Callable[[Request, grpc.ServicerContext], Message]) -> Unary:
    """A method over protobuf objects, as one over bytes."""

    def call(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            request = request_type.FromString(data)
        except DecodeError:
            raise errors.MalformedMessage(f"these bytes are not a {request_type.DESCRIPTOR.name}") from None
        try:
            return method(request, context).SerializeToString()
        except errors.TopicNotFound as exc:
            raise refine(exc, names_in(request)) from None

    return call


# All methods are registered as streams of requests: gRPC then calls the handler at once, and the
# wait for the request is ours, with a limit. On the wire there is no difference.


def unary(method: Unary, name: str, arrivals: Arrivals) -> Behaviour:
    return late(lambda data, call: call.answer(method(data, call.context)), name, arrivals)


def late(method: Late, name: str, arrivals: Arrivals, short: bool = False) -> Behaviour:
    """``short``: for the serving thread, but that it may meet a disk that does not answer."""

    def work(call: Call, data: bytes | None) -> None:
        if data is None and not call.context.is_active():
            call.abandon()
            return
        try:
            method(arrivals.checked(data), call)
        except Exception as exc:
            fail_parked(call, status.known(exc, method=name))

    return lambda call: arrivals.receive(call, work, short)


def parked(method: Late, name: str, arrivals: Arrivals) -> Behaviour:
    def work(call: Call, data: bytes | None) -> None:
        try:
            method(arrivals.checked(data), call)
        except Exception as exc:
            fail_parked(call, status.known(exc, method=name))

    def begin(call: Call) -> None:
        call.count_cancelled()
        arrivals.receive(call, work)

    return begin


def parked_bidi(method: ParkedBidi, name: str) -> Behaviour:
    def work(call: Call) -> None:
        try:
            method(call)
        except grpc.RpcError:
            pass  # the client has gone; gRPC knows
        except Exception as exc:
            fail_parked(call, status.known(exc, method=name))

    def begin(call: Call) -> None:
        call.count_cancelled()
        call.spawn(lambda: work(call))

    return begin


def failing_handler(error: errors.TakhinError, pool: CallPool) -> grpc.RpcMethodHandler[Any, Any]:
    """Answers every call with the error, without waiting for its request."""

    def call(_requests: object, context: grpc.ServicerContext) -> bytes:
        fail(context, error)
        raise AssertionError  # fail has raised

    return grpc.stream_unary_rpc_method_handler(in_pool(call, pool))


def in_pool(behaviour: Callable[..., Any], pool: CallPool) -> Callable[..., Any]:
    """Say to gRPC where the behaviour runs."""
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behaviour


def fail(context: grpc.ServicerContext, error: errors.TakhinError) -> None:
    """End the call with the error, from within its handler. Raises what gRPC expects."""
    status.fill(context, error)
    context.abort(status.grpc_code(error), status.message_of(error))


def fail_parked(call: Call, error: errors.TakhinError) -> None:
    """End a call that has sent nothing and that nobody has taken over."""
    status.fill(call.context, error)
    call.send(None)
