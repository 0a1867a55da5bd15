"""The server under test, as a process of its own, and a client's way to it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from takhin.v1 import takhin_pb2_grpc
from tests.debug_build import REPOSITORY, debug_environment, debug_tree
from tests.ports import free_port

#: Small segments, so that there are many; recovery points that come soon, so that some lie within the run.
SETTINGS: Mapping[str, object] = {
    "http.addr": "",
    "log.segment_bytes": 8192,
    "log.index_interval_bytes": 512,
    "log.recovery_point_interval_ms": 700,
    "log.retention_check_interval_ms": 500,
    "log.reserve_bytes": 65536,
    "log.min_free_bytes": 0,
    "logging.format": "json",
    "grpc.data_threads": 64,
}
NO_SETTINGS: Mapping[str, object] = {}
#: Statuses that say that nothing was done. With any other the caller does not know.
DEFINITE = frozenset(
    [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "OUT_OF_RANGE",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",
        "DATA_LOSS",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "UNIMPLEMENTED",
    ]
)
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Victim:
    """A server on 127.0.0.1; the address stays the same over restarts. Used by one thread at a time."""

    def __init__(
        self,
        data_dir: Path,
        log_file: Path,
        product: Path = REPOSITORY,
        mutant: str = "",
        settings: Mapping[str, object] = NO_SETTINGS,
    ) -> None:
        """``product`` is where the package lies. ``mutant`` names a planted bug: the server is then of the debug
        build, with that bug."""
        self.data_dir = data_dir
        self.log_file = log_file
        self._product, self._mutant, self._settings = product, mutant, settings
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = product
        self._environment: Mapping[str, str] = debug_environment(product)
        program = ["-m", "takhin"]
        if mutant:
            self._directory = debug_tree()
            self._environment = debug_environment(self._directory)
            program = ["-m", "tests.crash.mutant_server", mutant]
        sets = [f"--set={name}={value}" for name, value in {**SETTINGS, **settings}.items()]
        self._command = [sys.executable, *program, "serve", f"--data-dir={data_dir}", f"--addr={self.address}", *sets]

    @staticmethod
    def frozen_product(directory: Path) -> Path:
        """A copy of the package as it is built now: what is edited later does not come into a long run."""
        ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.html")
        shutil.copytree(REPOSITORY / "takhin", directory / "takhin", ignore=ignored, dirs_exist_ok=True)
        return directory

    def beside(self, data_dir: Path) -> Victim:
        """Another server of the same kind, on another directory."""
        log_file = self.log_file.with_name(f"{data_dir.name}-{self.log_file.name}")
        return Victim(data_dir, log_file, self._product, self._mutant, self._settings)

    def launch(self) -> None:
        """Start the process and do not wait until it serves."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self, timeout_s: float = 60.0) -> float:
        """Start it; gives the seconds until it served."""
        began = time.monotonic()
        self.launch()
        self.wait_until_serving(timeout_s)
        return time.monotonic() - began

    def wait_until_serving(self, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        host, port = self.address.split(":")
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                break
            self._look(end)
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                with contextlib.suppress(grpc.RpcError):
                    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                self._look(end)

    def _look(self, end: float) -> None:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"the server ended with {code} at its start:\n{self.last_words()}"
        assert time.monotonic() < end, f"the server did not serve in time:\n{self.last_words()}"
        time.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def terminate(self, timeout_s: float = 30.0) -> tuple[int, float]:
        """SIGTERM; gives the exit code and the seconds that it took. Killed, code -9, when it takes too long."""
        assert self.process is not None
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -9
        return code, time.monotonic() - began

    def last_words(self) -> str:
        return self.log_file.read_text(errors="replace")[-4000:] if self.log_file.exists() else ""


class Link:
    """A connection of one client."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stub: Any = takhin_pb2_grpc.TakhinServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()


@contextlib.contextmanager
def linked(address: str) -> Iterator[Any]:
    """A stub on a connection of its own."""
    link = Link(address)
    try:
        yield link.stub
    finally:
        link.close()


def status_of(error: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """(gRPC code, ErrorInfo reason, its metadata)."""
    call: Any = error
    info = error_details_pb2.ErrorInfo()
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    break
    return call.code().name, info.reason, dict(info.metadata)
