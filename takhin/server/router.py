"""From a method's name to its handler; too many calls and unknown methods are answered here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from .. import errors
from ..observe.metrics import GrpcMetrics
from .calls import failing_handler
from .instrument import instrument
from .pools import CallPool


@dataclass(frozen=True, slots=True)
class _Route:
    handler: grpc.RpcMethodHandler[Any, Any]
    pool: CallPool
    #: In place of the handler while the pool is full.
    too_many: grpc.RpcMethodHandler[Any, Any]


class Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """All routes are added before the server starts."""

    def __init__(self, metrics: GrpcMetrics, reject: CallPool) -> None:
        self._metrics = metrics
        self._reject = reject
        self._routes: dict[str, _Route] = {}
        # One series for all of them: the names are the callers' to make up.
        unknown = failing_handler(errors.Unimplemented("this server has no such method"), reject)
        codes = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
        self._unknown = instrument(unknown, metrics.method("unary", "unknown", "unknown", codes))

    def add(
        self, service: str, method: str, grpc_type: str, handler: grpc.RpcMethodHandler[Any, Any], pool: CallPool
    ) -> None:
        """``grpc_type`` is the metric's label: ``unary``, ``server_stream`` or ``bidi_stream``."""
        metrics = self._metrics.method(grpc_type, service, method)
        error: errors.TakhinError
        if pool.name == "stream":
            error = errors.TooManyStreams(
                f"there are {pool.limit} produce streams, the most that this server takes", limit=pool.limit
            )
        else:
            error = errors.TooManyCalls(
                f"there are {pool.limit} calls at once, the most that this server takes", limit=pool.limit
            )
        self._routes[f"/{service}/{method}"] = _Route(
            instrument(handler, metrics), pool, instrument(failing_handler(error, self._reject), metrics)
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Runs on gRPC's serving thread, under the server's lock: tiny, and never raising."""
        route = self._routes.get(handler_call_details.method)
        if route is None:
            return self._unknown
        return route.too_many if route.pool.is_full else route.handler
