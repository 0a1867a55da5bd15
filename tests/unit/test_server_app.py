"""The composition root: starting, stopping, signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from takhin.app import App
from takhin.clock import Clock
from takhin.config import Config, GrpcConfig, HttpConfig
from takhin.engine.base import Engine, EngineHealth
from takhin.errors import AddressInUse
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.reference.memory_engine import MemoryEngine


def memory(config: Config, clock: Clock, _registry: object) -> Engine:
    return MemoryEngine(config, clock)


def config(grpc_port: int = 0, http_addr: str = "127.0.0.1:0") -> Config:
    return Config(grpc=GrpcConfig(addr=f"127.0.0.1:{grpc_port}"), http=HttpConfig(addr=http_addr))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """An app changes its process."""
    interval = sys.getswitchinterval()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    sys.setswitchinterval(interval)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def app() -> Iterator[App]:
    made = App(config(), memory)
    yield made
    made.close()


def ready(app: App) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", app.http_port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def list_topics(port: int) -> list[str]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return list(takhin_pb2_grpc.TakhinServiceStub(channel).ListTopics(pb.ListTopicsRequest(), timeout=5).topics)


def test_an_app_serves_and_stops(app: App, caplog: pytest.LogCaptureFixture) -> None:
    assert app.causes() == ["starting"]
    with caplog.at_level("INFO"):
        app.start()
    assert list_topics(app.grpc_port) == []
    assert ready(app) == (200, b"ready\n")
    [line] = [record for record in caplog.records if record.getMessage() == "serving"]
    assert line.fields["port"] == app.grpc_port  # type: ignore[attr-defined]
    assert line.fields["http_port"] == app.http_port  # type: ignore[attr-defined]
    app.stop()
    app.stop()
    assert app.causes() == ["stopped"]
    assert not app.engine.open  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError):
        list_topics(app.grpc_port)


def test_an_unhealthy_engine_is_not_ready_and_says_why(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.start()
    monkeypatch.setattr(app.engine, "health", lambda: EngineHealth("degraded", ("t-0 takes no writes",)))
    assert ready(app)[0] == 200
    monkeypatch.setattr(app.engine, "health", lambda: EngineHealth("unhealthy", ("the disk is gone",)))
    assert ready(app) == (503, b"not ready: the disk is gone\n")


def test_an_address_in_use_stops_everything_again(app: App) -> None:
    app.start()
    for second in (App(config(app.grpc_port), memory), App(config(0, f"127.0.0.1:{app.http_port}"), memory)):
        with pytest.raises(AddressInUse, match="in use"):
            second.start()
        assert not second.engine.open  # type: ignore[attr-defined]
        assert second.causes() == ["stopped"]
        second.close()
    assert list_topics(app.grpc_port) == []


def test_http_can_be_off() -> None:
    app = App(config(http_addr=""), memory)
    app.start()
    assert app.http_port == 0
    assert list_topics(app.grpc_port) == []
    app.close()


def test_a_warning_is_logged_for_what_should_be_known(caplog: pytest.LogCaptureFixture) -> None:
    app = App(Config(grpc=GrpcConfig(addr=":0"), http=HttpConfig(addr="")), memory)
    app.start()
    assert "plaintext" in caplog.text
    assert list_topics(app.grpc_port) == []
    app.close()


def test_run_ends_when_it_is_asked_to(app: App) -> None:
    thread = threading.Timer(0.2, lambda: [app.request_stop() for _ in range(3)])
    thread.start()
    assert app.run() == 0
    thread.join()
    app.request_stop()


SERVER = textwrap.dedent(
    """
    import sys
    from takhin.app import App
    from takhin.observe.logging import setup
    from tests.unit.test_server_app import config, memory
    setup("info", "json")
    sys.exit(App(config(), memory).run())
    """
)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT] * 1000])
def test_a_signal_under_load_ends_the_process_with_0_in_time(signals: list[int]) -> None:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ}
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if (found := json.loads(line))["msg"] == "serving":
                break
        port = found["fields"]["port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = takhin_pb2_grpc.TakhinServiceStub(channel)
            stub.CreateTopic(pb.CreateTopicRequest(name="t"), timeout=5)
            consumer = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t"))
            consumer.initial_metadata()
            requests = (pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v")) for _ in iter(int, 1))
            producer = stub.ProduceMessageStream(requests)
            next(producer)
            begun = time.monotonic()
            process.send_signal(signals[0])
            for stream in (consumer, producer):
                with pytest.raises(grpc.RpcError) as caught:
                    list(stream)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # Impatience changes nothing.
        for number in signals[1:]:
            if process.poll() is not None:
                break
            process.send_signal(number)
            time.sleep(0.001)
        rest = process.stderr.read().splitlines()
        assert process.wait(10) == 0
        assert time.monotonic() - begun < 8
        assert [json.loads(line)["msg"] for line in rest] == ["stopping", "stopped"]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
