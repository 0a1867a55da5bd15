"""Servers and clients as processes, and what they cost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from takhin.server.transport import GRPC_EXPERIMENTS

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT_SOURCE = Path(__file__).parent / "client"
CLIENT = REPOSITORY / "build" / "bench" / "client"
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A process did not do what it was started for."""


def build_client() -> Path:
    """The client in Go: Python's would be slower than the server. Built again when its source has changed."""
    go = shutil.which("go")
    if go is None:
        raise Failed("the client of this benchmark is written in Go: install Go 1.23 or newer")
    CLIENT.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([go, "build", "-o", str(CLIENT), "."], cwd=CLIENT_SOURCE, check=True)
    return CLIENT


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, its threads included, not its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server:
    """A running server on a port of this machine."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def takhin(directory: Path, settings: Sequence[str] = (), tree: Path = REPOSITORY) -> Iterator[Server]:
    """The real server of a source tree, with its data in ``directory``, on a free port."""
    sets = [argument for setting in ("http.addr=", *settings) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "takhin", "serve", "--data-dir", str(directory), "--addr", "127.0.0.1:0", *sets]
    log_path = directory.parent / f"{directory.name}.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(command, cwd=tree, stdout=log, stderr=log, text=True)
    server = Server(process, _port_from_log(process, log_path))
    try:
        yield server
    finally:
        server.stop()


def _port_from_log(process: subprocess.Popen[str], path: Path) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"\bserving\b.*\bport=(\d+)", path.read_text())
        if found:
            return int(found[1])
        time.sleep(0.01)
    process.kill()
    process.wait()
    raise Failed(f"the server did not start: {path.read_text()}")


@contextlib.contextmanager
def bare(answer: Path, sent: Path, tuned: bool = False) -> Iterator[Server]:
    """grpcio as it comes; tuned, with the settings of the real server."""
    command = [sys.executable, "-m", "bench.system.bare", "--answer", str(answer), "--sent", str(sent)]
    environment = dict(os.environ)
    if tuned:
        command.append("--tuned")
        environment.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout:
        server = Server(process, int(process.stdout.readline()))
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def go_echo(answers: Path) -> Iterator[Server]:
    """The client's own server: how fast the client is when nothing in Python is in the way."""
    command = [str(CLIENT), "-mode", "echo", "-addr", "127.0.0.1:0", "-messages", str(answers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        server = Server(process, int(json.loads(process.stdout.readline())["port"]))
        try:
            yield server
        finally:
            server.stop()


def run_client(server: Server, flags: Sequence[str], deadline_seconds: float = 120) -> dict[str, Any]:
    """One load. What the client reports, and the server's CPU time beside it."""
    before, began = cpu_seconds(server.pid), time.monotonic()
    done = subprocess.run(
        [str(CLIENT), "-addr", server.address, *flags],
        capture_output=True,
        text=True,
        timeout=deadline_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"client {' '.join(flags)}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    result["server_cpu_seconds"] = cpu_seconds(server.pid) - before
    result["run_seconds"] = time.monotonic() - began
    return result
