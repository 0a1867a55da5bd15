"""The composition root: starting, stopping, signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from msgspec.structs import replace

from takhin.app import App
from takhin.clock import Clock
from takhin.config import Config, GrpcConfig, HttpConfig
from takhin.engine.base import Engine, EngineHealth
from takhin.errors import AddressInUse, DataDirLocked, MetadataDamaged
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


def ready(app: App, path: str = "/readyz") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", app.http_port, timeout=5)
    try:
        connection.request("GET", path)
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


class Recovering(MemoryEngine):
    """One whose start waits to be told how it ends."""

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config, clock)
        self.recovered = 0
        self.ends = threading.Event()
        self.problem: Exception | None = None
        self.claimed = threading.Event()

    def claim(self) -> None:
        self.claimed.set()

    def start(self) -> None:
        assert self.claimed.is_set()
        assert self.ends.wait(20)
        if self.problem is not None:
            raise self.problem
        super().start()

    def progress(self) -> str:
        return f"recovered {self.recovered} of 9 partitions" if self.recovered else ""


def recovering(config: Config, clock: Clock, _registry: object) -> Engine:
    return Recovering(config, clock)


@pytest.fixture
def starting() -> Iterator[tuple[App, Recovering, list[Exception]]]:
    """An app whose start goes on in a thread, its engine, and what the start has raised."""
    app = App(config(), recovering)
    raised: list[Exception] = []

    def start() -> None:
        try:
            app.start()
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    engine = app.engine
    assert isinstance(engine, Recovering)
    try:
        wait_until(lambda: app.http_port != 0)
        yield app, engine, raised
    finally:
        engine.ends.set()
        thread.join()
        app.close()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_during_recovery_the_probes_answer_and_say_how_far_it_is(
    starting: tuple[App, Recovering, list[Exception]],
) -> None:
    app, engine, raised = starting
    assert ready(app) == (503, b"not ready: starting\n")
    for n in (1, 5):
        engine.recovered = n
        assert ready(app) == (503, f"not ready: starting: recovered {n} of 9 partitions\n".encode())
        assert ready(app, "/") == (503, f"starting: recovered {n} of 9 partitions\n".encode())
        assert app.describe() == f"starting: recovered {n} of 9 partitions", "what systemd is told"
    assert ready(app, "/livez") == (200, b"alive\n")
    assert ready(app, "/version")[0] == 200
    assert b"takhin_build_info" in ready(app, "/metrics")[1]
    assert app.grpc_port == 0, "clients find nobody until all is there"
    engine.ends.set()
    wait_until(lambda: ready(app)[0] == 200)
    assert list_topics(app.grpc_port) == []
    assert ready(app, "/")[0] == 200
    assert raised == []


def test_a_start_that_fails_closes_the_port_again(starting: tuple[App, Recovering, list[Exception]]) -> None:
    app, engine, raised = starting
    assert ready(app)[0] == 503
    engine.problem = MetadataDamaged("the metadata is damaged")
    engine.ends.set()
    wait_until(lambda: raised != [])
    assert raised == [engine.problem]
    with pytest.raises(OSError):
        ready(app)
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("takhin-http", "dashboard")]


def test_who_cannot_have_the_data_opens_no_port() -> None:
    class Owned(Recovering):
        def claim(self) -> None:
            raise DataDirLocked("somebody else has it")

    app = App(config(), lambda config, clock, _: Owned(config, clock))
    with pytest.raises(DataDirLocked):
        app.start()
    assert app.http_port == 0
    app.close()


def test_who_cannot_have_the_port_gives_the_data_back_as_it_was(app: App, tmp_path: Path) -> None:
    app.start()
    data = tmp_path / "data"
    first = App(replace(config(), data_dir=str(data)))
    first.start()
    first.engine.create_topic("t", 3, 1, {})
    first.close()
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"}
    second = App(replace(config(http_addr=f"127.0.0.1:{app.http_port}"), data_dir=str(data)))
    with pytest.raises(AddressInUse, match=r"http\.addr"):
        second.start()
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"}
    third = App(replace(config(), data_dir=str(data)))
    third.start()
    assert third.engine.topic_names() == ["t"]
    second.close()
    third.close()


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


def test_a_signal_that_another_thread_gets_ends_it_as_well(app: App) -> None:
    def hit_itself() -> None:
        wait_until(lambda: app.grpc_port != 0)
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    begun = time.monotonic()
    late = threading.Timer(10, app.request_stop)
    late.start()
    thread = threading.Thread(target=hit_itself)
    thread.start()
    assert app.run() == 0
    assert time.monotonic() - begun < 9
    thread.join()
    late.cancel()


def test_systemd_is_told_during_the_start_what_a_probe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        app = App(config(), recovering)
        engine = app.engine
        assert isinstance(engine, Recovering)
        engine.recovered = 7
        messages: list[str] = []

        def play_systemd() -> None:
            messages.append(manager.recv(4096).decode())
            engine.ends.set()
            while "READY=1" not in messages[-1]:
                messages.append(manager.recv(4096).decode())
            app.request_stop()

        thread = threading.Thread(target=play_systemd)
        thread.start()
        assert app.run() == 0
        thread.join()
    assert "STATUS=starting: recovered 7 of 9 partitions\n" in messages[0]
    assert "EXTEND_TIMEOUT_USEC=" in messages[0]
    assert "STATUS=serving on port" in messages[-1]


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
