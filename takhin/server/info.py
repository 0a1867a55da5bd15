"""What the server says of itself: HealthCheck and GetServerInfo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from .. import __version__
from ..clock import Clock
from ..engine.base import Engine
from ..v1 import takhin_pb2 as pb


class Info:
    def __init__(self, engine: Engine, clock: Clock, limits: Mapping[str, int], features: Sequence[str]) -> None:
        self._engine = engine
        self._clock = clock
        self._limits = dict(limits)
        self._features = tuple(features)
        self._started = clock.monotonic()
        self._start_time_ms = clock.now_ms()
        self._methods = sorted(method.name for method in pb.DESCRIPTOR.services_by_name["TakhinService"].methods)

    def set_limit(self, name: str, value: int) -> None:
        """A limit that has changed."""
        self._limits = {**self._limits, name: value}

    def health_check(self, _request: pb.HealthCheckRequest, _context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(
            status=self._engine.health().status,
            version=__version__,
            uptime_seconds=int(self._clock.monotonic() - self._started),
        )

    def server_info(
        self, _request: pb.GetServerInfoRequest, _context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        engine = self._engine.info()
        return pb.GetServerInfoResponse(
            version=__version__,
            engine=engine.name,
            limits={**engine.limits, **self._limits},
            methods=self._methods,
            features=sorted({*engine.features, *self._features}),
            server_id=engine.server_id,
            start_time_ms=self._start_time_ms,
        )
