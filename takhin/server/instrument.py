"""Counts calls and their messages: any call, and the handlers that are written against grpcio itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ..observe.metrics import MethodMetrics

_OK = grpc.StatusCode.OK
#: The attribute by which gRPC finds the pool of a handler.
_POOL = "experimental_thread_pool"


class Received:
    """A request iterator that counts."""

    __slots__ = ("_count", "_next")

    def __init__(self, requests: Iterator[Any], count: Callable[[], None]) -> None:
        self._next = requests.__next__
        self._count = count

    def __iter__(self) -> Received:
        return self

    def __next__(self) -> Any:
        request = self._next()
        self._count()
        return request


class CallCount:
    """One call, counted as ended once, by whoever sees its end first."""

    __slots__ = ("_begun", "_context", "_ended", "_metrics")

    def __init__(self, metrics: MethodMetrics, context: grpc.ServicerContext) -> None:
        self._metrics = metrics
        self._context = context
        self._begun = time.perf_counter()
        self._ended = False
        metrics.started.inc()

    def end(self, code: grpc.StatusCode | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._metrics.handled(code or self.code(), time.perf_counter() - self._begun)

    def end_cancelled(self) -> None:
        """When gRPC is through with the call: too late to count, unless nobody sent a status."""
        self.end(grpc.StatusCode.CANCELLED)

    def code(self) -> grpc.StatusCode:
        return self._context.code() or _OK  # type: ignore[attr-defined]

    def failed_code(self) -> grpc.StatusCode:
        """After an exception left the handler."""
        code = self.code()
        if code is not _OK:
            return code
        return grpc.StatusCode.UNKNOWN if self._context.is_active() else grpc.StatusCode.CANCELLED


def instrument(handler: grpc.RpcMethodHandler[Any, Any], metrics: MethodMetrics) -> grpc.RpcMethodHandler[Any, Any]:
    """The same handler of a stream of requests, counted, in the same pool."""
    behaviour: Any = handler.stream_stream if handler.response_streaming else handler.stream_unary
    wrapper = _iterated(behaviour, metrics) if handler.response_streaming else _answered(behaviour, metrics)
    if hasattr(behaviour, _POOL):
        setattr(wrapper, _POOL, getattr(behaviour, _POOL))
    factory = (
        grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    )
    return factory(wrapper, handler.request_deserializer, handler.response_serializer)


def _answered(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        counted = CallCount(metrics, context)
        try:
            response = behaviour(Received(requests, metrics.received.inc), context)
        except BaseException:
            counted.end(counted.failed_code())
            raise
        if counted.code() is _OK:
            metrics.sent.inc()
        counted.end()
        return response

    return call


def _iterated(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        counted = CallCount(metrics, context)
        context.add_callback(counted.end_cancelled)
        try:
            for response in behaviour(Received(requests, metrics.received.inc), context):
                metrics.sent.inc()
                yield response
        except GeneratorExit:
            counted.end_cancelled()
            raise
        except BaseException:
            counted.end(counted.failed_code())
            raise
        counted.end()

    return call
