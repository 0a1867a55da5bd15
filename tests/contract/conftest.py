"""Every test of this folder runs with every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from takhin.clock import Clock
from takhin.config import Config
from takhin.engine.base import Engine

from .harness import ENGINES, MakeServer, Server, small


@pytest.fixture(params=sorted(ENGINES))
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def make_engine(engine_name: str, data_dir: Path) -> Iterator[Callable[..., Engine]]:
    """A started engine; ``make_engine(config=None, clock=None)``. One at a time."""
    made: list[Engine] = []

    def make(config: Config | None = None, clock: Clock | None = None) -> Engine:
        engine = ENGINES[engine_name](config or Config(), data_dir, clock or Clock())
        engine.start()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


@pytest.fixture
def direct_calls(engine_name: str) -> bool:
    """With one of the engines, the server moves messages by grpcio's public interface alone."""
    return engine_name != "memory"


@pytest.fixture
def make_server(make_engine: Callable[..., Engine], direct_calls: bool, data_dir: Path) -> Iterator[MakeServer]:
    """A server that serves; ``make_server(config=None, clock=None)``."""
    made: list[Server] = []

    def make(config: Config | None = None, clock: Clock | None = None) -> Server:
        config, clock = config or small(), clock or Clock()
        config = structs.replace(config, grpc=structs.replace(config.grpc, direct_calls=direct_calls))
        server = Server(make_engine(config, clock), config, clock, data_dir)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(grace=0.5)


@pytest.fixture
def server(make_server: MakeServer) -> Server:
    return make_server()
