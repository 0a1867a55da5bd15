"""grpc.health.v1.Health: Check, List and Watch for the server and its service.

Watchers are parked streams: one that does not read holds up nobody.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from .. import errors
from .call import Call
from .parked import Next, ParkedStream, StreamSet
from .senders import Senders

SERVICE = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
MAX_WATCHERS = 1000


class _Watcher(ParkedStream):
    def __init__(self, health: Health, service: str, call: Call) -> None:
        super().__init__(call, health.senders)
        self._health = health
        self._service = service
        self._sent: int | None = None

    def describe(self) -> dict[str, Any]:
        return {"stream": "health"}

    def step(self) -> Next:
        status = self._health.status(self._service)
        if status is None:
            status = _UNKNOWN
        if status != self._sent:
            self._sent = status
            self.call.send(health_pb2.HealthCheckResponse(status=status).SerializeToString())
        if self.ending is not None:
            raise self.ending
        return Next.PARK

    def release(self) -> None:
        self._health.watchers.discard(self)


class Health:
    """NOT_SERVING until it is told otherwise. Safe from any thread."""

    def __init__(self, senders: Senders, services: tuple[str, ...]) -> None:
        self.senders = senders
        self.watchers: StreamSet[_Watcher] = StreamSet("health", MAX_WATCHERS)
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), NOT_SERVING)

    def set(self, serving: bool) -> None:
        with self._lock:
            self._statuses = dict.fromkeys(self._statuses, SERVING if serving else NOT_SERVING)
        self.watchers.wake()

    def status(self, service: str) -> int | None:
        return self._statuses.get(service)

    def check(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        service = _service(data)
        status = self.status(service)
        if status is None:
            raise errors.NotFound(f"there is no service {service!r}", bad_field="service", service=service)
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def list(self, _data: bytes, _context: grpc.ServicerContext) -> bytes:
        response = health_pb2.HealthListResponse()
        for service, status in self._statuses.items():
            response.statuses[service].status = status
        return bytes(response.SerializeToString())

    def watch(self, data: bytes, call: Call) -> None:
        watcher = _Watcher(self, _service(data), call)
        self.watchers.add(watcher)
        watcher.watch_client()
        watcher.wake()


def _service(data: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(data).service)
    except DecodeError:
        raise errors.MalformedMessage("these bytes are not a HealthCheckRequest") from None
