"""Engines to hold to the contract, and a loopback server in front of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from takhin import errors
from takhin._fastlog import RecordSpans
from takhin.clock import Clock
from takhin.config import Config, GrpcConfig
from takhin.engine import base
from takhin.server.grpc_server import GrpcServer
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.reference.memory_engine import MemoryEngine

SERVICE = "takhin.v1.TakhinService"
#: Seconds that anything may take before a test gives up.
PATIENCE = 15.0

MakeEngine = Callable[[Config, Path, Clock], base.Engine]


def memory_engine(config: Config, _data_dir: Path, clock: Clock) -> base.Engine:
    return MemoryEngine(config, clock)


def local_engine(config: Config, data_dir: Path, clock: Clock) -> base.Engine:
    from takhin.engine.local import LocalEngine

    return LocalEngine(
        data_dir=data_dir,
        log=config.log,
        topics=config.topics,
        limits=config.limits,
        clock=clock,
        registry=CollectorRegistry(),
    )


#: A further engine is added here, and has to pass everything in this folder unchanged.
ENGINES: dict[str, MakeEngine] = {"memory": memory_engine, "local": local_engine}


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to it in time"
        time.sleep(0.005)


# -- the engine's side ------------------------------------------------------------------------


def spans(*values: bytes | None, key: bytes | None = None, timestamp: int = 0) -> RecordSpans:
    return RecordSpans.from_records([(key, value, (), timestamp) for value in values])


def outcome_of(
    engine: base.Engine,
    topic: str,
    partition: int,
    records: RecordSpans,
    acks: int = base.ACKS_DURABLE,
    producer: base.ProducerStamp | None = None,
) -> base.Appended | errors.TakhinError:
    """What ``append`` came to. It must call back exactly once."""
    outcomes: list[base.Appended | errors.TakhinError] = []
    done = threading.Event()

    def callback(outcome: base.Appended | errors.TakhinError) -> None:
        outcomes.append(outcome)
        done.set()

    engine.append(topic, partition, records, acks, producer, callback)
    assert done.wait(PATIENCE), "append did not call back"
    assert len(outcomes) == 1
    return outcomes[0]


def append(engine: base.Engine, topic: str, partition: int, *values: bytes | None, **more: Any) -> base.Appended:
    stamp = {name: more.pop(name) for name in ("acks", "producer") if name in more}
    outcome = outcome_of(engine, topic, partition, spans(*values, **more), **stamp)
    assert isinstance(outcome, base.Appended), outcome
    return outcome


def read_all(reader: base.Reader, max_bytes: int = 1_000_000) -> list[tuple[int, bytes | None]]:
    """(offset, value) of everything that can be read now."""
    found: list[tuple[int, bytes | None]] = []
    while (batches := reader.read(max_bytes)) is not None:
        found += [(record[0], record[3]) for record in batches.records()]
        reader.advance(batches.next_offset)
    return found


# -- over gRPC ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A call's bad end, taken apart."""

    code: str
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    bad_fields: tuple[str, ...]
    has_quota: bool
    retry_ms: int | None


def failure_of(error: grpc.RpcError) -> Failure:
    call: Any = error
    trailers = dict(call.trailing_metadata() or ())
    proto = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    has = {kind: False for kind in (info, bad, quota, retry) for kind in [type(kind)]}
    for packed in proto.details:
        for message in (info, bad, quota, retry):
            if packed.Unpack(message):
                has[type(message)] = True
    return Failure(
        code=call.code().name,
        message=call.details(),
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        bad_fields=tuple(violation.field for violation in bad.field_violations),
        has_quota=has[type(quota)],
        retry_ms=retry.retry_delay.ToMilliseconds() if has[type(retry)] else None,
    )


def failure(call: Callable[[], Any]) -> Failure:
    """The failure of a call that must not succeed. A stream is read to its end."""
    try:
        result = call()
        if isinstance(result, grpc.Call) and hasattr(result, "__next__"):
            list(result)  # type: ignore[call-overload]
    except grpc.RpcError as exc:
        found = failure_of(exc)
        if found.reason:
            assert found.domain == "takhin"
        return found
    raise AssertionError("the call succeeded")


class Server:
    """A gRPC server on a loopback port, and a client of it."""

    def __init__(self, engine: base.Engine, config: Config, clock: Clock, data_dir: Path) -> None:
        self.engine = engine
        self.config = config
        self.data_dir = data_dir
        self.registry = CollectorRegistry()
        self.grpc = GrpcServer(config, engine, clock, self.registry)
        self.port = self.grpc.start()
        self.grpc.health.set(True)
        self.channel = self.connect()
        self.stub = takhin_pb2_grpc.TakhinServiceStub(self.channel)

    def connect(self, narrow: bool = False) -> grpc.Channel:
        """A connection of its own. A narrow one takes no more than about 64 KiB for a stream that is not read;
        others guess from the speed of the line how much to take, which can be all there is."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        if narrow:
            options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def raw(self, method: str) -> Callable[..., bytes]:
        """A unary method over bytes."""
        return self.channel.unary_unary(f"/{SERVICE}/{method}", None, None)  # type: ignore[return-value]

    def raw_stream(self, method: str) -> Callable[..., Iterator[bytes]]:
        """A bidi method over bytes."""
        return self.channel.stream_stream(f"/{SERVICE}/{method}", None, None)  # type: ignore[return-value]

    def topic(self, name: str = "t", partitions: int = 1, **configs: str) -> str:
        named = {key.replace("_", "."): value for key, value in configs.items()}
        self.stub.CreateTopic(pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=named))
        return name

    def produce(self, topic: str, *values: bytes, partition: int = 0, **more: Any) -> pb.ProduceBatchResponse:
        records = [pb.Record(value=value) for value in values]
        request = pb.ProduceBatchRequest(topic=topic, partition=partition, records=records, **more)
        response: pb.ProduceBatchResponse = self.stub.ProduceBatch(request, timeout=PATIENCE)
        return response

    def consume(self, topic: str, offset: int = -1, *, timeout: float = PATIENCE, **more: Any) -> Any:
        request = pb.ConsumeMessagesRequest(topic=topic, offset=offset, **more)
        return self.stub.ConsumeMessages(request, timeout=timeout)

    def values(self, topic: str, **more: Any) -> list[bytes]:
        """All records of a partition."""
        stream = self.consume(topic, until_end=True, **more)
        return [record.value for response in stream for record in response.records]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def stop(self, grace: float = 5) -> None:
        self.grpc.stop(grace)
        self.channel.close()


MakeServer = Callable[..., Server]


def small(**grpc_options: Any) -> Config:
    """A configuration on a free port, with few threads."""
    return Config(grpc=GrpcConfig(addr="127.0.0.1:0", data_threads=32, **grpc_options))


def records_of(responses: Iterator[pb.ConsumeMessagesResponse], count: int) -> list[pb.Record]:
    """Read a stream until it has given so many records."""
    found: list[pb.Record] = []
    while len(found) < count:
        found += next(responses).records
    assert len(found) == count
    return found


@contextmanager
def cancelled_at_end(*calls: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for call in calls:
            call.cancel()


def offsets(records: Sequence[pb.Record]) -> list[int]:
    return [record.offset for record in records]
