"""Counts calls and messages of any handler, also of streams that answer long after their handler returned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ..observe.metrics import MethodMetrics

_OK = grpc.StatusCode.OK


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


class _Call:
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
    """The same handler, counted. The wrapper has the inner behaviour's ``experimental_`` attributes,
    by which gRPC finds the form and the pool of a handler."""
    behaviour: Any
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    else:
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    if handler.response_streaming:
        parked = getattr(behaviour, "experimental_non_blocking", False)
        wrapper = _parked(behaviour, metrics) if parked else _iterated(behaviour, metrics)
    else:
        wrapper = _answered(behaviour, metrics)
    if not handler.request_streaming:
        wrapper = _one_request(wrapper, metrics)
    for name in ("experimental_non_blocking", "experimental_thread_pool"):
        if hasattr(behaviour, name):
            setattr(wrapper, name, getattr(behaviour, name))
    factory = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return factory(wrapper, handler.request_deserializer, handler.response_serializer)


def _one_request(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    """gRPC hands over one request: make it look like the iterators that the other wrappers count."""

    def call(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
        metrics.received.inc()
        return behaviour(request, context, *send)

    return call


def _counted_requests(requests: Any, metrics: MethodMetrics) -> Any:
    return Received(requests, metrics.received.inc) if hasattr(requests, "__next__") else requests


def _answered(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        counted = _Call(metrics, context)
        try:
            response = behaviour(_counted_requests(request, metrics), context)
        except BaseException:
            counted.end(counted.failed_code())
            raise
        if counted.code() is _OK:
            metrics.sent.inc()
        counted.end()
        return response

    return call


def _iterated(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        counted = _Call(metrics, context)
        context.add_callback(counted.end_cancelled)
        try:
            for response in behaviour(_counted_requests(request, metrics), context):
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


def _parked(behaviour: Callable[..., Any], metrics: MethodMetrics) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        counted = _Call(metrics, context)
        sent = metrics.sent.inc

        def counted_send(message: Any) -> None:
            if message is None:
                counted.end()
            else:
                sent()
            send(message)

        context.add_callback(counted.end_cancelled)
        try:
            behaviour(_counted_requests(request, metrics), context, counted_send)
        except BaseException:
            counted.end(counted.failed_code())
            raise

    return call
