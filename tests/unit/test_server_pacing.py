"""Connections from this machine do not pace; others keep what the system has chosen."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from prometheus_client import CollectorRegistry

from takhin.clock import Clock
from takhin.config import Config, GrpcConfig
from takhin.server.grpc_server import GrpcServer
from takhin.server.pacing import unpace_loopback
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.reference.memory_engine import MemoryEngine

if not hasattr(socket, "TCP_CONGESTION"):
    pytest.skip("this system does not let a program choose", allow_module_level=True)


def _chosen(one: socket.socket) -> bytes:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def _listener(host: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    one = socket.socket(family)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind((host, 0))
    one.listen()
    return one


@pytest.fixture(autouse=True)
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every kernel has a way that paces: the one that the system has stands for it."""
    with closing(_listener("127.0.0.1")) as one:
        default = _chosen(one)
    if default == b"reno":
        pytest.skip("the system's own choice is what we would choose")
    monkeypatch.setattr("takhin.server.pacing._PACES", default)


@pytest.mark.parametrize(
    ("host", "family"),
    [("127.0.0.1", socket.AF_INET), ("127.0.0.9", socket.AF_INET), ("::ffff:127.0.0.1", socket.AF_INET6)],
)
def test_a_connection_to_a_loopback_address_does_not_pace(host: str, family: socket.AddressFamily) -> None:
    with closing(_listener(host, family)) as listener:
        port = listener.getsockname()[1]
        assert unpace_loopback(port) == 1
        assert unpace_loopback(port) == 0  # nothing left to do
        target = (host.removeprefix("::ffff:"), port)
        with closing(socket.create_connection(target)) as client, closing(listener.accept()[0]) as accepted:
            assert _chosen(accepted) == b"reno"
            assert _chosen(client) != b"reno"  # the client's is its own choice


def test_a_listener_for_all_interfaces_is_left_alone() -> None:
    with closing(_listener("0.0.0.0")) as listener:
        before = _chosen(listener)
        assert unpace_loopback(listener.getsockname()[1]) == 0
        assert _chosen(listener) == before


def test_other_ports_and_connections_are_left_alone() -> None:
    with closing(_listener("127.0.0.1")) as other, closing(_listener("127.0.0.1")) as listener:
        address = listener.getsockname()
        with closing(socket.create_connection(address)) as client, closing(listener.accept()[0]) as accepted:
            before = _chosen(accepted)
            assert unpace_loopback(address[1]) == 1
            assert _chosen(other) == _chosen(accepted) == _chosen(client) == before


def test_a_way_that_does_not_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("takhin.server.pacing._PACES", b"none such")
    with closing(_listener("127.0.0.1")) as listener:
        before = _chosen(listener)
        assert unpace_loopback(listener.getsockname()[1]) == 0
        assert _chosen(listener) == before


def test_no_descriptor_stays_open() -> None:
    with closing(_listener("127.0.0.1")) as listener:
        before = len(os.listdir("/proc/self/fd"))
        unpace_loopback(listener.getsockname()[1])
        assert len(os.listdir("/proc/self/fd")) == before


def test_where_files_cannot_be_looked_at_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> list[str]:
        raise PermissionError

    with closing(_listener("127.0.0.1")) as listener:
        monkeypatch.setattr("takhin.server.pacing.os.listdir", refuse)
        assert unpace_loopback(listener.getsockname()[1]) == 0


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_the_sockets_of_grpc_are_found(address: str) -> None:
    if address.startswith("["):
        try:
            _listener("::1", socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        port = server.add_insecure_port(address)
        assert unpace_loopback(port) >= 1
        assert unpace_loopback(port) == 0
    finally:
        server.stop(None).wait()


def test_the_server_asks_for_it() -> None:
    clock, registry = Clock(), CollectorRegistry()
    config = Config(grpc=GrpcConfig(addr="127.0.0.1:0"))
    engine = MemoryEngine(config, clock)
    server = GrpcServer(config, engine, clock, registry)
    engine.start()
    try:
        port = server.start()
        assert unpace_loopback(port) == 0  # it was done
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            takhin_pb2_grpc.TakhinServiceStub(channel).ListTopics(pb.ListTopicsRequest(), timeout=5)
    finally:
        server.stop(0)
        engine.stop()
