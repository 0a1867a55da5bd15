"""From a method's name to its handler; too many calls and unknown methods are answered here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from .. import errors
from ..observe.metrics import GrpcMetrics, MethodMetrics
from .call import PublicCall
from .calls import Behaviour, fail_parked, failing_handler
from .direct import DirectCall, ServingThread
from .instrument import instrument
from .pools import CallPool
from .stand_in import StandIn


@dataclass(frozen=True, slots=True)
class _Route:
    handler: grpc.RpcMethodHandler[Any, Any]
    pool: CallPool
    #: In place of the handler while the pool is full.
    too_many: grpc.RpcMethodHandler[Any, Any]


class Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """All routes are added before the server starts."""

    def __init__(self, metrics: GrpcMetrics, reject: CallPool, stand_in: StandIn | None) -> None:
        """With a ``stand_in``, calls are driven by completions of our own, where the way they are moved is ours to
        choose."""
        self._metrics = metrics
        self._reject = reject
        self._stand_in = stand_in
        self._serving_thread = ServingThread()
        self._routes: dict[str, _Route] = {}
        #: By service and method.
        self._registered: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        # One series for all of them: the names are the callers' to make up.
        unknown = failing_handler(errors.Unimplemented("this server has no such method"), reject)
        codes = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
        self._unknown = instrument(unknown, metrics.method("unary", "unknown", "unknown", codes))

    def add(self, service: str, method: str, grpc_type: str, behaviour: Behaviour, pool: CallPool) -> None:
        """``grpc_type`` is the metric's label: ``unary``, ``server_stream`` or ``bidi_stream``."""
        metrics = self._metrics.method(grpc_type, service, method)
        if self._stand_in is not None:
            handler = self._direct_handler(behaviour, pool, metrics, self._stand_in)
            self._registered.setdefault(service, {})[method] = handler
        else:
            self._add(service, method, _public_handler(behaviour, pool, metrics), pool, metrics)

    def add_handler(
        self, service: str, method: str, grpc_type: str, handler: grpc.RpcMethodHandler[Any, Any], pool: CallPool
    ) -> None:
        """A handler that is written against grpcio itself."""
        metrics = self._metrics.method(grpc_type, service, method)
        self._add(service, method, instrument(handler, metrics), pool, metrics)

    def attach(self, server: grpc.Server) -> None:
        """Once all is added. Calls of a registered method do not wait behind those of others until they are taken
        up: gRPC takes one call at a time for each method, and one for all that are not registered."""
        server.add_generic_rpc_handlers((self,))
        for service, handlers in self._registered.items():
            server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]

    def _add(
        self,
        service: str,
        method: str,
        handler: grpc.RpcMethodHandler[Any, Any],
        pool: CallPool,
        metrics: MethodMetrics,
    ) -> None:
        too_many = instrument(failing_handler(_too_many(pool), self._reject), metrics)
        self._routes[f"/{service}/{method}"] = _Route(handler, pool, too_many)

    def _direct_handler(
        self, behaviour: Behaviour, pool: CallPool, metrics: MethodMetrics, stand_in: StandIn
    ) -> grpc.RpcMethodHandler[Any, Any]:
        error = _too_many(pool)

        def begin(_requests: object, context: grpc.ServicerContext, _send: object) -> None:
            if pool.is_full:
                call = DirectCall(context, metrics, self._reject, stand_in)
                call.spawn(lambda: fail_parked(call, error))
            else:
                behaviour(DirectCall(context, metrics, pool, stand_in))

        return _non_blocking(begin, self._serving_thread)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Runs on gRPC's serving thread, under the server's lock: tiny, and never raising."""
        route = self._routes.get(handler_call_details.method)
        if route is None:
            return self._unknown
        return route.too_many if route.pool.is_full else route.handler


def _too_many(pool: CallPool) -> errors.TakhinError:
    if pool.name == "stream":
        return errors.TooManyStreams(
            f"there are {pool.limit} produce streams, the most that this server takes", limit=pool.limit
        )
    return errors.TooManyCalls(
        f"there are {pool.limit} calls at once, the most that this server takes", limit=pool.limit
    )


def _public_handler(behaviour: Behaviour, pool: CallPool, metrics: MethodMetrics) -> grpc.RpcMethodHandler[Any, Any]:
    def begin(requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
        behaviour(PublicCall(requests, context, send, metrics))

    return _non_blocking(begin, pool)


def _non_blocking(
    begin: Callable[[Any, grpc.ServicerContext, Any], None], pool: ThreadPoolExecutor
) -> grpc.RpcMethodHandler[Any, Any]:
    """Handlers with these attributes are given ``send`` and may return before they have answered (see also
    grpcio-health-checking)."""
    begin.experimental_non_blocking = True  # type: ignore[attr-defined]
    begin.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return grpc.stream_stream_rpc_method_handler(begin)
