"""Servers for the tests of this folder. Each is killed at teardown, whatever a test did to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from takhin.v1 import takhin_pb2_grpc

from .server_process import REPOSITORY, ServerProcess

FAILED: pytest.StashKey[bool] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """``make_server(config=None, name="server", descriptors=None)``: a server that is not started."""
    servers: dict[str, ServerProcess] = {}

    def make(
        config: dict[str, Any] | None = None, name: str = "server", descriptors: int | None = None
    ) -> ServerProcess:
        servers[name] = ServerProcess(tmp_path / name, config, descriptors)
        return servers[name]

    yield make
    for name, server in servers.items():
        server.kill()
        if request.node.stash.get(FAILED, False):
            server.keep_log(REPOSITORY / "build" / "test-logs", re.sub(r"\W+", "-", f"{request.node.name}-{name}"))


@pytest.fixture
def server(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A server with the default configuration that serves."""
    return make_server().start()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[takhin_pb2_grpc.TakhinServiceStub]:
    """A stub for ``server``; it connects again after a restart."""
    with server.client() as stub:
        yield stub


@pytest.fixture(scope="module")
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests of a file that only talk to it, each in topics of its own."""
    server = ServerProcess(tmp_path_factory.mktemp("shared"))
    try:
        yield server.start()
    finally:
        server.kill()
        if request.session.testsfailed:
            server.keep_log(REPOSITORY / "build" / "test-logs", request.node.path.stem)
