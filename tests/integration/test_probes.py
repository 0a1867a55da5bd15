"""Probes of the real server: from the first moment of its start, and under any load."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from takhin.v1 import takhin_pb2 as pb
from tests.conftest import missing
from tests.faults.shim import build_shim, compiler, environment

from .server_process import REPOSITORY, ServerProcess

#: What a probe may take, seconds.
LIMIT = 1.0


def ask(server: ServerProcess, path: str, timeout: float = 10.0) -> tuple[int, str]:
    host, _, port = server.http_address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def refuses(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) != 0


def slow_disk(server: ServerProcess, flush_ms: int) -> None:
    """From its next start on, each flush takes so long."""
    if compiler() is None:
        missing("a C compiler makes the slow disk")
    server.environment = environment(build_shim(), server.data_dir, flush_delay_us=flush_ms * 1000)


def test_a_long_recovery_is_watched_over_http(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server().start()
    partitions = 40
    with server.client() as client:
        client.CreateTopic(pb.CreateTopicRequest(name="t", num_partitions=partitions), timeout=10)
        for n in range(partitions):
            client.ProduceMessage(
                pb.ProduceMessageRequest(topic="t", partition=n, record=pb.Record(value=b"v")), timeout=10
            )
    server.kill()
    slow_disk(server, flush_ms=100)
    process = server.launch()
    causes: list[str] = []
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end, causes
        assert process.poll() is None, server.log_text()
        try:
            code, text = ask(server, "/readyz")
        except OSError:
            assert causes == [], "once it is open, the port stays open"
            continue
        if code == 200:
            break
        assert code == 503
        assert ask(server, "/livez") == (200, "alive\n")
        if not causes:
            assert refuses(server.address), "clients find nobody until all is there"
        if causes[-1:] != [text]:
            causes.append(text)
        time.sleep(0.01)
    told = [int(n) for n in re.findall(rf"starting: recovered (\d+) of {partitions} partitions\n", "".join(causes))]
    assert len(told) >= 3, causes
    assert told == sorted(told)
    assert ask(server, "/readyz") == (200, "ready\n")


@contextmanager
def flooded(server: ServerProcess, topic: str, partitions: int) -> Iterator[None]:
    """With 200 callers and some streams of another process, which ask as much as they can."""
    command = [sys.executable, "-m", "tests.integration.flood", server.address, topic, str(partitions)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as load:
        try:
            assert load.stdout is not None
            assert load.stdout.readline() == "going\n"
            yield
            assert load.poll() is None
        finally:
            load.kill()


def ask_grpc(server: ServerProcess) -> None:
    """As a prober does: on a connection of its own."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def slowest(server: ServerProcess, seconds: float) -> dict[str, float]:
    """What each kind of probe has taken at most, in seconds, asked one after the other for so long."""
    found: dict[str, float] = {}

    def take(name: str, probe: Callable[[], object]) -> None:
        begun = time.monotonic()
        probe()
        found[name] = max(found.get(name, 0.0), time.monotonic() - begun)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in ("/livez", "/readyz", "/metrics"):
            take(path, lambda path=path: check(ask(server, path)))  # type: ignore[misc]
        take("gRPC health", lambda: ask_grpc(server))
        time.sleep(0.02)
    return found


def check(answer: tuple[int, str]) -> None:
    assert answer[0] == 200, answer


def appended(server: ServerProcess) -> float:
    """Records, since its start."""
    found = re.search(r"^takhin_records_appended_total (\S+)$", ask(server, "/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_threads", "flush_ms"),
    [(256, 0), (16, 200)],
    ids=["as fast as it can", "a slow disk and few threads"],
)
def test_probes_answer_within_a_second_under_any_load(
    data_threads: int, flush_ms: int, make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server({"grpc": {"data_threads": data_threads}})
    if flush_ms:
        slow_disk(server, flush_ms)
    server.start()
    partitions = 100
    with server.client() as client:
        client.CreateTopic(pb.CreateTopicRequest(name="t", num_partitions=partitions), timeout=30)
    with flooded(server, "t", partitions):
        before, rounds = appended(server), []
        # The machine may be busy with other things for a moment; not five times. And the slow disk takes longer than a
        # round for a flush of each partition: until then nothing may come from the streams.
        while len(rounds) < 5 and not (rounds and max(rounds[-1].values()) < LIMIT and appended(server) - before > 500):
            rounds.append(slowest(server, 4))
        assert appended(server) - before > 500, "the load is there"
        print(rounds)
    assert max(rounds[-1].values()) < LIMIT, rounds
