"""A call to our own server, over the network as a client makes it: proof that it answers."""

from __future__ import annotations

import logging
import threading

import grpc
from grpc_health.v1 import health_pb2

from .. import address

log = logging.getLogger(__name__)

_METHOD = "/grpc.health.v1.Health/Check"


class Loopback:
    """Thread-safe. Its connection is made at the first call."""

    def __init__(self, addr: str, port: int) -> None:
        """``addr`` is the configured one, ``port`` the real one."""
        parsed = address.parse(addr)
        host = "127.0.0.1" if parsed.is_wildcard else parsed.host
        self._target = str(address.Address(host, port))
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def check(self, timeout_seconds: float) -> bool:
        """Whether the health service answered in time; whatever it said."""
        with self._lock:
            if self._channel is None:
                options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
                self._channel = grpc.insecure_channel(self._target, options=options)
            channel = self._channel
        call = channel.unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            call(health_pb2.HealthCheckRequest(), timeout=timeout_seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else str(error)
            log.debug("health check over loopback failed", extra={"fields": {"code": code}})
            return False
        except ValueError:  # closed meanwhile
            return False
        return True

    def close(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
