"""The real server as a process of its own, as an operator would run it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from takhin.v1 import takhin_pb2_grpc
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0, what: str = "a condition") -> None:
    """Look again and again; an AssertionError when it never became true."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


class ServerProcess:
    """A server on 127.0.0.1 with a directory of its own. The address stays the same over restarts."""

    def __init__(
        self, directory: Path, config: Mapping[str, Any] | None = None, descriptors: int | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = directory / "data"
        self.config_file = directory / "takhin.yaml"
        self.log_file = directory / "server.log"
        self.address = f"127.0.0.1:{free_port()}"
        self.http_address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._descriptors = descriptors
        #: In force from the next start on, in place of this process's own.
        self.environment: Mapping[str, str] = os.environ
        merged: dict[str, Any] = {"logging": {"format": "json"}, **dict(config or {})}
        merged.setdefault("data_dir", str(self.data_dir))
        merged["grpc"] = {"addr": self.address, **merged.get("grpc", {})}
        merged["http"] = {"addr": self.http_address, **merged.get("http", {})}
        self.config_file.write_text(yaml.safe_dump(merged))

    # -- life ---------------------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and do not wait until it serves."""
        limited = [] if self._descriptors is None else ["prlimit", f"--nofile={self._descriptors}"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*limited, sys.executable, "-m", "takhin", "serve", "--config", str(self.config_file)],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
            )
        return self.process

    def start(self, timeout_s: float = START_TIMEOUT_S) -> ServerProcess:
        """Start it, and return when it serves."""
        process = self.launch()
        end = time.monotonic() + timeout_s
        with grpc.insecure_channel(self.address, options=RECONNECT_SOON) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.log_text()}"
                try:
                    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return self
                except grpc.RpcError:
                    pass
                assert time.monotonic() < end, f"the server did not serve in {timeout_s} s:\n{self.log_text()}"
                time.sleep(0.02)

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed or closed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def restart(self) -> ServerProcess:
        assert self.stop() == 0, self.log_text()
        return self.start()

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # -- what it says -------------------------------------------------------------------------

    def log_text(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines that are JSON; a traceback, which nobody expects, is not."""
        lines = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    # -- talking to it ------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        """A connection of its own; the caller closes it."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), *RECONNECT_SOON]
        return grpc.insecure_channel(self.address, options=options)

    @contextlib.contextmanager
    def client(self) -> Any:
        """A stub on a connection of its own."""
        with self.channel() as channel:
            yield takhin_pb2_grpc.TakhinServiceStub(channel)

    def partition_dir(self, topic: str, partition: int = 0) -> Path:
        return self.data_dir / f"{topic}-{partition}"

    def keep_log(self, directory: Path, name: str) -> None:
        """Copy its log to where a person looks after a failed test."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists():
            shutil.copy(self.log_file, directory / f"{name}.log")


RECONNECT_SOON = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]
