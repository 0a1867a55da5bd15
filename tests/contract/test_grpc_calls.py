"""Over gRPC: what holds for every method. Malformed messages, unknown methods, defects, health, metrics."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from takhin import __version__
from takhin.v1 import takhin_pb2 as pb

from .harness import SERVICE, MakeServer, Server, cancelled_at_end, failure, failure_of, small, wait_until

METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["TakhinService"].methods}
UNARY = sorted(name for name, m in METHODS.items() if not (m.client_streaming or m.server_streaming))
#: Bytes that are no message, whatever its fields: a cut varint, a cut length, wire type 7, a stray group end.
GARBAGE = [b"\xff", b"\x0a\x7f", b"\x0f", b"\x0c", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]


def request_class(name: str) -> type[Message]:
    found: type[Message] = getattr(pb, METHODS[name].input_type.name)
    return found


def test_a_malformed_message_is_an_invalid_argument_of_every_method(server: Server) -> None:
    calls: dict[str, Any] = {name: server.raw(name) for name in UNARY}
    calls["ConsumeMessages"] = server.channel.unary_stream(f"/{SERVICE}/ConsumeMessages", None, None)
    for name, call in calls.items():
        for data in GARBAGE:
            found = failure(lambda call=call, data=data: call(data))
            assert (found.code, found.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE"), (name, data)
    assert list(server.stub.ListTopics(pb.ListTopicsRequest()).topics) == []


def test_unknown_fields_are_accepted_by_every_method(server: Server) -> None:
    server.topic("t")
    unknown = b"\xfa\x7f\x03abc\xf8\x7f\x05"

    def outcome(name: str, data: bytes) -> str:
        try:
            server.raw(name)(data)
        except grpc.RpcError as exc:
            return failure_of(exc).reason
        return "OK"

    # Whatever an empty request comes to, the unknown fields change nothing.
    assert {name: outcome(name, unknown) for name in UNARY} == {name: outcome(name, b"") for name in UNARY}


def test_text_that_is_not_utf8_is_malformed(server: Server) -> None:
    for name in ("CreateTopic", "ProduceMessage", "ProduceBatch", "GetPartitionOffsets"):
        found = failure(lambda name=name: server.raw(name)(b"\x0a\x02\xff\xfe"))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def test_too_many_records_in_one_message_are_refused(server: Server) -> None:
    server.topic("t")
    found = failure(lambda: server.raw("ProduceBatch")(b"\x0a\x01t" + b"\x1a\x00" * 1_000_000))
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_RECORDS")
    assert server.values("t") == []


@pytest.mark.parametrize("path", [f"/{SERVICE}/NoSuchMethod", "/no.such.Service/Method", "/x/" + "y" * 5000])
def test_an_unknown_method_is_unimplemented_and_counted_as_one_series(server: Server, path: str) -> None:
    for call in (server.channel.unary_unary(path), server.channel.unary_stream(path)):
        assert failure(lambda call=call: call(b"")).code == "UNIMPLEMENTED"
    labels = {"grpc_type": "unary", "grpc_service": "unknown", "grpc_method": "unknown"}
    assert server.metric("grpc_server_handled_total", grpc_code="Unimplemented", **labels) == 2


def test_a_unary_call_without_a_message_is_refused(server: Server) -> None:
    call = server.channel.stream_unary(f"/{SERVICE}/ListTopics", None, None)
    found = failure(lambda: call(iter([]), timeout=10))
    assert found.code == "UNIMPLEMENTED"


def test_a_defect_is_internal_with_an_id_that_is_in_the_log_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    server.topic("t")
    for name in ("topic_names", "append", "open_reader"):
        monkeypatch.setattr(server.engine, name, broken)
    calls = [
        lambda: server.stub.ListTopics(pb.ListTopicsRequest()),
        lambda: server.produce("t", b"v"),
        lambda: server.consume("t"),
    ]
    for call in calls:
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            found = failure(call)
        assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in found.message + repr(found.metadata)
        incident = found.metadata["incident"]
        assert incident in found.message
        assert any(record.__dict__.get("fields", {}).get("incident") == incident for record in caplog.records)
    [answer] = server.stub.ProduceMessageStream(iter([pb.ProduceMessageRequest(topic="t")]))
    assert answer.error_code == 13
    assert "secret" not in answer.error


def test_a_request_that_does_not_arrive_does_not_keep_its_thread(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("takhin.server.calls.ARRIVAL_SECONDS", 0.2)
    server = make_server(small())
    server.grpc._arrivals._seconds = 0.2
    release = threading.Event()

    def never() -> Any:
        release.wait(20)
        yield from ()

    call = server.channel.stream_unary(f"/{SERVICE}/ListTopics", None, None).future(never(), timeout=20)
    wait_until(lambda: server.grpc._pools.admin.load == 1)
    begun = time.monotonic()
    wait_until(lambda: server.grpc._pools.admin.load == 0, 5)
    assert time.monotonic() - begun < 3
    release.set()
    assert call.exception(timeout=10) is not None


def test_too_much_metadata_is_refused_and_the_server_goes_on(server: Server) -> None:
    found = failure(lambda: server.stub.ListTopics(pb.ListTopicsRequest(), metadata=[("x-large", "v" * 100_000)]))
    assert found.code == "RESOURCE_EXHAUSTED"
    server.stub.ListTopics(pb.ListTopicsRequest())


def test_the_server_says_how_it_is(server: Server) -> None:
    answer = server.stub.HealthCheck(pb.HealthCheckRequest())
    assert (answer.status, answer.version) == ("healthy", __version__)
    assert 0 <= answer.uptime_seconds < 100


def test_the_server_says_what_it_is(server: Server) -> None:
    info = server.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.version, info.engine) == (__version__, server.engine.info().name)
    assert set(info.methods) == set(METHODS)
    assert info.limits["max_message_size"] == 10_485_760
    assert "idempotent-produce" in info.features
    assert info.server_id
    assert abs(info.start_time_ms / 1000 - time.time()) < 100


def test_the_standard_health_service_is_served(server: Server) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    found = failure(lambda: health.Check(health_pb2.HealthCheckRequest(service="none")))
    assert found.code == "NOT_FOUND"


def test_watchers_of_health_see_the_stop_before_the_end(make_server: MakeServer) -> None:
    server = make_server()
    health = health_pb2_grpc.HealthStub(server.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="none"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    # This client throws away what it has not read when an error comes: so it must be reading.
    with ThreadPoolExecutor() as pool:
        reads = [pool.submit(next, each) for each in (watch, unknown)]
        time.sleep(0.05)
        server.grpc.stop(1)
        assert reads[0].result().status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert isinstance(reads[1].exception(), grpc.RpcError)
    for stream in (watch, unknown):
        assert failure(lambda stream=stream: next(stream)).code == "UNAVAILABLE"


def test_reflection_gives_exactly_the_services(server: Server) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    for prefix in ("grpc.reflection.v1alpha", "grpc.reflection.v1"):
        call = server.channel.stream_stream(f"/{prefix}.ServerReflection/ServerReflectionInfo", None, None)
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        [data] = call(iter([asked.SerializeToString()]))
        found = reflection_pb2.ServerReflectionResponse.FromString(data)
        assert found.file_descriptor_response.file_descriptor_proto[0] == pb.DESCRIPTOR.serialized_pb
        broken = call(iter([b"\xff"]))
        assert failure(lambda broken=broken: list(broken)).code == "INVALID_ARGUMENT"


def test_every_methods_series_are_there_before_the_first_call(server: Server) -> None:
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in server.registry.collect()
        for sample in family.samples
    }
    for name, method in METHODS.items():
        kind = "bidi_stream" if method.client_streaming else "server_stream" if method.server_streaming else "unary"
        labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": name}
        for series in ("started_total", "msg_received_total", "msg_sent_total", "handling_seconds_count"):
            assert samples[f"grpc_server_{series}", frozenset(labels.items())] == 0
        assert samples["grpc_server_handled_total", frozenset({**labels, "grpc_code": "OK"}.items())] == 0


def test_calls_and_messages_are_counted_also_for_parked_streams(server: Server) -> None:
    def count(series: str, kind: str, method: str, **more: str) -> float:
        labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": method}
        return server.metric(f"grpc_server_{series}", **labels, **more)

    server.topic("t")
    failure(lambda: server.topic("t"))
    assert count("started_total", "unary", "CreateTopic") == 2
    assert count("msg_received_total", "unary", "CreateTopic") == 2
    assert count("msg_sent_total", "unary", "CreateTopic") == 1
    assert count("handled_total", "unary", "CreateTopic", grpc_code="OK") == 1
    assert count("handled_total", "unary", "CreateTopic", grpc_code="AlreadyExists") == 1
    assert count("handling_seconds_count", "unary", "CreateTopic") == 2

    list(server.stub.ProduceMessageStream(pb.ProduceMessageRequest(topic="t") for _ in range(7)))
    assert count("msg_received_total", "bidi_stream", "ProduceMessageStream") == 7
    assert count("msg_sent_total", "bidi_stream", "ProduceMessageStream") == 7
    assert count("handled_total", "bidi_stream", "ProduceMessageStream", grpc_code="OK") == 1

    stream = server.consume("t", max_bytes=1)
    with cancelled_at_end(stream):
        for _ in range(7):
            next(stream)
        assert count("msg_sent_total", "server_stream", "ConsumeMessages") == 7
        assert count("started_total", "server_stream", "ConsumeMessages") == 1
    wait_until(lambda: count("handled_total", "server_stream", "ConsumeMessages", grpc_code="Canceled") == 1)
    failure(lambda: server.consume("none"))
    assert count("handled_total", "server_stream", "ConsumeMessages", grpc_code="NotFound") == 1


def test_a_second_server_cannot_take_the_same_port(server: Server, make_server: MakeServer) -> None:
    from prometheus_client import CollectorRegistry

    from takhin.clock import Clock
    from takhin.config import Config, GrpcConfig
    from takhin.errors import AddressInUse
    from takhin.server.grpc_server import GrpcServer

    config = Config(grpc=GrpcConfig(addr=f"127.0.0.1:{server.port}"))
    second = GrpcServer(config, server.engine, Clock(), CollectorRegistry())
    with pytest.raises(AddressInUse, match=str(server.port)):
        second.start()
    second.stop(0)
    server.stub.ListTopics(pb.ListTopicsRequest())


def test_threads_are_gone_after_a_stop(make_server: MakeServer) -> None:
    before = set(threading.enumerate())
    server = make_server()
    server.topic("t")
    server.produce("t", b"v")
    server.values("t")
    server.stop()
    server.engine.stop()
    wait_until(lambda: not {t for t in set(threading.enumerate()) - before if t.name.startswith("takhin")}, 5)
