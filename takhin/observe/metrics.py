"""The metrics of the server itself. The engine counts its own in the same registry."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_LABELS = ("grpc_type", "grpc_service", "grpc_method")

#: Seconds. From a cached read to a slow flush.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class MethodMetrics:
    """The series of one method, bound once, so that a call looks nothing up."""

    __slots__ = ("_handled", "received", "seconds", "sent", "started")

    def __init__(self, metrics: GrpcMetrics, labels: tuple[str, str, str], codes: tuple[grpc.StatusCode, ...]) -> None:
        self.started = metrics.started.labels(*labels)
        self.received = metrics.received.labels(*labels)
        self.sent = metrics.sent.labels(*labels)
        self.seconds = metrics.seconds.labels(*labels)
        self._handled = {code: metrics.handled.labels(*labels, camel(code)) for code in codes}

    def handled(self, code: grpc.StatusCode, seconds: float) -> None:
        """A call has ended."""
        counter = self._handled.get(code) or self._handled.get(grpc.StatusCode.UNKNOWN)
        if counter is not None:
            counter.inc()
        self.seconds.observe(seconds)


class GrpcMetrics:
    """Series by the names and labels that gRPC servers agree on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter("grpc_server_started", "Calls that began.", _LABELS, registry=registry)
        self.handled = Counter(
            "grpc_server_handled", "Calls that ended, by status code.", (*_LABELS, "grpc_code"), registry=registry
        )
        self.received = Counter("grpc_server_msg_received", "Messages received.", _LABELS, registry=registry)
        self.sent = Counter("grpc_server_msg_sent", "Messages sent.", _LABELS, registry=registry)
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start of a call to its end.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )

    def method(
        self,
        grpc_type: str,
        service: str,
        method: str,
        codes: tuple[grpc.StatusCode, ...] = tuple(grpc.StatusCode),
    ) -> MethodMetrics:
        """The series of a method; they are there, at zero, from now on."""
        return MethodMetrics(self, (grpc_type, service, method), codes)


def gauge(registry: CollectorRegistry, name: str, documentation: str, value: Callable[[], float]) -> None:
    """A gauge that is read when somebody looks."""
    Gauge(name, documentation, registry=registry).set_function(value)


def build_registry(version: str, engine: str) -> CollectorRegistry:
    """A registry with what is known of the process."""
    # A second series for each counter that says when it began: nobody asked, and it doubles every scrape.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    info = Gauge("takhin_build_info", "What is running; always 1.", ("version", "engine"), registry=registry)
    info.labels(version, engine).set(1)
    return registry


def camel(code: grpc.StatusCode) -> str:
    """``OUT_OF_RANGE`` as ``OutOfRange``, and Go's spelling of the one word that has two: dashboards expect it."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "".join(word.capitalize() for word in code.name.split("_"))
