"""Metrics and probes over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from takhin import __version__
from takhin.errors import AddressInUse, Unavailable
from takhin.server import http as http_module
from takhin.server.http import HttpServer, Page


class Running:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Counter("things", "Things.", registry=self.registry).inc(3)
        self.causes: list[str] = []
        self.server = HttpServer("127.0.0.1:0", self.registry, lambda: self.causes)
        self.port = self.server.start()

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
def running() -> Iterator[Running]:
    server = Running()
    yield server
    server.server.stop()


def test_metrics_are_given_in_prometheus_format(running: Running) -> None:
    code, headers, body = running.get("/metrics")
    assert code == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"things_total 3.0" in body
    code, headers, body = running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_ready_says_why_it_is_not(running: Running) -> None:
    assert running.get("/readyz")[0] == 200
    running.causes = ["starting", "the disk is on fire"]
    code, _, body = running.get("/readyz")
    assert code == 503
    assert body == b"not ready: starting\nnot ready: the disk is on fire\n"
    assert running.get("/livez")[0] == 200


def test_the_version_is_json(running: Running) -> None:
    code, headers, body = running.get("/version")
    assert (code, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"version": __version__}


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/", 404), ("GET", "/../etc/passwd", 404), ("POST", "/metrics", 501), ("HEAD", "/livez", 200)],
)
def test_other_requests_are_refused(running: Running, method: str, path: str, code: int) -> None:
    found, _, body = running.get(path, method)
    assert found == code
    if method == "HEAD":
        assert body == b""


def test_a_failing_probe_leaks_nothing(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.server._server.causes = lambda: 1 / 0  # type: ignore[union-attr, assignment, return-value]
    code, _, body = running.get("/readyz")
    assert code == 500
    assert b"division" not in body
    assert "internal error" in caplog.text


def test_a_request_that_drips_is_cut(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "REQUEST_SECONDS", 0.2)
    with running.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        while time.monotonic() - begun < 5:
            try:
                connection.sendall(b"x")
                connection.settimeout(0.05)
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - begun < 3
    assert running.get("/livez")[0] == 200


def test_an_endless_line_is_refused(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
        assert b" 414 " in connection.recv(1000)


def test_connections_that_say_nothing_give_way_to_those_that_ask(running: Running) -> None:
    silent = [running.connect() for _ in range(http_module.MAX_REQUESTS + 30)]
    begun = time.monotonic()
    assert running.get("/livez")[0] == 200
    assert time.monotonic() - begun < 1
    for connection in silent:
        connection.close()


def test_as_long_as_there_is_room_nobody_is_cut(running: Running) -> None:
    silent = [running.connect() for _ in range(http_module.MAX_REQUESTS - 8)]
    time.sleep(http_module.SHARE_SECONDS)
    for _ in range(5):
        assert running.get("/livez")[0] == 200
    for connection in silent:
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b" 200 " in connection.recv(1000)
        connection.close()


def paged(page: Page) -> Running:
    made = Running()
    assert made.server._server is not None
    made.server._server.page = page
    return made


def test_a_page_that_is_not_there_yet_says_why_and_is_asked_for_again() -> None:
    def starting(_query: str) -> tuple[bytes, str]:
        raise Unavailable("starting: recovered 1 of 3 partitions")

    running = paged(starting)
    code, headers, body = running.get("/")
    assert (code, body) == (503, b"starting: recovered 1 of 3 partitions\n")
    assert headers["refresh"] == headers["retry-after"] == "2"
    running.server.stop()


def test_pages_that_wait_for_something_leave_room_for_probes() -> None:
    go = threading.Event()

    def stuck(_query: str) -> tuple[bytes, str]:
        go.wait(10)
        return b"page", "none"

    running = paged(stuck)
    codes: list[int] = []
    askers = [threading.Thread(target=lambda: codes.append(running.get("/")[0])) for _ in range(20)]
    for asker in askers:
        asker.start()
    begun = time.monotonic()
    for _ in range(10):
        assert running.get("/livez")[0] == 200
    assert time.monotonic() - begun < 2
    while len(codes) < 20 - http_module.MAX_PAGES:
        assert time.monotonic() - begun < 5
        time.sleep(0.01)
    assert set(codes) == {503}, "those that are too many are told so"
    go.set()
    for asker in askers:
        asker.join()
    assert codes.count(200) == http_module.MAX_PAGES
    running.server.stop()


def test_an_address_in_use_says_so(running: Running) -> None:
    second = HttpServer(f"127.0.0.1:{running.port}", CollectorRegistry(), list)
    with pytest.raises(AddressInUse, match=str(running.port)):
        second.start()
    second.stop()


def test_all_interfaces_are_listened_on() -> None:
    server = HttpServer(":0", CollectorRegistry(), list)
    port = server.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
    server.stop()
    server.stop()


def test_a_stopped_server_leaves_no_thread_and_no_port() -> None:
    running = Running()
    running.get("/livez")
    running.server.stop()
    with pytest.raises(OSError):
        running.connect()
    assert not [t for t in threading.enumerate() if t.name == "takhin-http"]


def test_an_idle_server_does_not_run(running: Running) -> None:
    running.get("/livez")
    time.sleep(0.05)
    begun = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begun < 0.05
