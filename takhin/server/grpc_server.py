"""The gRPC server: puts the methods together, starts, and stops in the one order that loses nothing."""

from __future__ import annotations

import logging
from functools import partial

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from .. import address
from .._wire import MAX_RECORDS, keep_buffers
from ..clock import Clock
from ..config import Config
from ..engine.base import Engine
from ..errors import AddressInUse, Unavailable
from ..observe.metrics import GrpcMetrics, gauge
from .calls import Arrivals
from .consume import Consumer
from .direct import supported
from .health import Health
from .inflight import InFlight
from .info import Info
from .options import KEPT_BUFFER_BYTES, server_options
from .pacing import unpace_loopback
from .pools import Pools
from .produce import Producer
from .produce_stream import ProduceStreams
from .router import Router
from .senders import Senders
from .service import SERVICE, add_health, add_reflection, add_takhin
from .stand_in import StandIn
from .timers import Timers

log = logging.getLogger(__name__)

#: Threads that slow consumers may block before the slowest of them are given up.
MAX_SENDERS = 2048
#: Seconds of the stop that are not grace: for streams to end, and for threads to come home.
END_SECONDS = 1.0
#: What this server can do beyond the fixed part of the contract.
FEATURES = ("batch-produce", "consume-until-end", "consume-heartbeat", "health", "idempotent-produce")


class GrpcServer:
    """One server on one engine, which must be started before and stopped after it."""

    def __init__(self, config: Config, engine: Engine, clock: Clock, registry: CollectorRegistry) -> None:
        grpc_config = config.grpc
        self._config = grpc_config
        self.port = 0
        self._timers = Timers()
        self._senders = Senders(grpc_config.sender_threads, MAX_SENDERS, self._timers)
        self._pools = Pools(grpc_config)
        self._inflight = InFlight(config.memory.max_inflight_bytes)
        self._sending = InFlight(config.memory.max_inflight_bytes)
        self._producer = Producer(engine, self._inflight, self._senders, self._timers, config.default_acks)
        self._produce_streams = ProduceStreams(
            engine,
            self._inflight,
            self._senders,
            self._timers,
            default_acks=config.default_acks,
            buffer_bytes=grpc_config.stream_buffer_bytes,
            max_streams=grpc_config.data_threads,
            max_message_bytes=grpc_config.max_message_size,
        )
        self._consumer = Consumer(
            engine,
            self._sending,
            self._senders,
            self._timers,
            max_streams=grpc_config.max_streams,
            max_message_bytes=grpc_config.max_message_size,
        )
        self.health = Health(self._senders, (SERVICE,))
        limits = {
            "max_message_size": grpc_config.max_message_size,
            "max_records_per_batch": MAX_RECORDS,
            "max_metadata_size": grpc_config.max_metadata_size,
            "max_concurrent_rpcs": grpc_config.max_concurrent_rpcs,
            "max_streams": grpc_config.max_streams,
            "max_produce_streams": grpc_config.data_threads,
            "stream_buffer_bytes": grpc_config.stream_buffer_bytes,
            "max_inflight_bytes": config.memory.max_inflight_bytes,
        }
        self._info = info = Info(engine, clock, limits, FEATURES)
        held_up = Counter("takhin_serving_held_up", "Times that work held up the serving thread.", registry=registry)
        self._stand_in = StandIn(held_up.inc, self._senders) if grpc_config.direct_calls and supported() else None
        router = Router(GrpcMetrics(registry), self._pools.reject, self._stand_in)
        self._arrivals = arrivals = Arrivals(self._timers, grpc_config.max_message_size)
        add_takhin(router, self._pools, arrivals, engine, info, self._producer, self._produce_streams, self._consumer)
        add_health(router, self._pools, arrivals, self.health)
        if grpc_config.reflection:
            add_reflection(router, self._pools)
        self._add_gauges(registry)
        self._server = grpc.server(
            self._pools.data,
            options=server_options(grpc_config),
            # The router refuses sooner, pool by pool and with a status that says why.
            maximum_concurrent_rpcs=self._pools.limit,
        )
        router.attach(self._server)

    def start(self) -> int:
        """Listen and serve; gives the port. Raises ``AddressInUse``."""
        keep_buffers(KEPT_BUFFER_BYTES)
        where = str(address.parse(self._config.addr))
        try:
            self.port = self._server.add_insecure_port(where)
        except RuntimeError:
            self._server.stop(None)
            self._pools.shutdown()
            raise AddressInUse(
                f"cannot listen on {where} (grpc.addr): it is in use, or not an address of this machine"
            ) from None
        unpace_loopback(self.port)
        self._timers.start()
        self._senders.start()
        if self._stand_in is not None:
            self._stand_in.start(self._server)
        self._server.start()
        return self.port

    def set_max_inflight_bytes(self, limit_bytes: int) -> None:
        """Another bound on memory, from now on."""
        self._inflight.set_limit(limit_bytes)
        self._sending.set_limit(limit_bytes)
        self._info.set_limit("max_inflight_bytes", limit_bytes)

    def stop(self, grace_seconds: float) -> bool:
        """Everything that was taken is answered, unless the grace ends first. Over in about the grace and two
        seconds; false when some thread is stuck and was left behind. Idempotent."""
        self.health.set(False)
        error = Unavailable("the server is stopping")
        for streams in (self._consumer.streams, self._produce_streams.streams, self.health.watchers):
            streams.end(error)
        self._server.stop(grace_seconds).wait(grace_seconds + END_SECONDS)
        # gRPC's event does not wait for handlers: those that still wait for the engine are let go.
        self._producer.give_up()
        home = self._senders.stop(END_SECONDS)
        if self._stand_in is not None:
            self._stand_in.stop(END_SECONDS)
        self._timers.stop()
        stuck = self._pools.shutdown(END_SECONDS)
        if stuck or not home:
            fields = {"calls": stuck, "senders": self._senders.thread_count}
            log.warning("some calls did not end in time", extra={"fields": fields})
        return home and not stuck

    def _add_gauges(self, registry: CollectorRegistry) -> None:
        consumers, producers = self._consumer.streams, self._produce_streams.streams
        gauge(registry, "takhin_consumer_streams", "Consumers that are connected.", lambda: len(consumers))
        gauge(registry, "takhin_produce_streams", "Produce streams that are open.", lambda: len(producers))
        gauge(registry, "takhin_inflight_bytes", "Bytes of requests in the works.", lambda: self._inflight.used_bytes)
        gauge(registry, "takhin_sending_bytes", "Bytes being sent to consumers.", lambda: self._sending.used_bytes)
        gauge(registry, "takhin_sender_threads", "Threads that send.", lambda: self._senders.thread_count)
        gauge(registry, "takhin_sender_backlog", "Streams that wait for such a thread.", lambda: self._senders.backlog)
        calls = Gauge("takhin_pool_calls", "Calls in a thread pool, waiting and running.", ("pool",), registry=registry)
        for pool in self._pools.all():
            calls.labels(pool.name).set_function(partial(getattr, pool, "load"))
