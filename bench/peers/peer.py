"""What every server under test gives: how to start it, write to it, read from it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.system.processes import Failed

#: Bytes of a record.
RECORD_BYTES = 1024


@dataclass(frozen=True)
class Figures:
    records_per_second: float
    #: Milliseconds; 0 where the client does not say.
    p50_ms: float = 0.0
    p99_ms: float = 0.0


class Peer(ABC):
    """One server at one level of durability. Its processes listen on 127.0.0.1 only."""

    #: Server and version.
    title: str
    #: The settings that decide what an answer means.
    setting: str
    #: Whether an answer means that the record is on stable storage.
    durable: bool
    #: The client, and how it is used.
    client: str

    @abstractmethod
    def missing(self) -> str:
        """What is not installed; empty when nothing is."""

    @abstractmethod
    def started(self, directory: Path) -> contextlib.AbstractContextManager[int]:
        """Runs the server; gives its process id."""

    @abstractmethod
    def write(self, records: int) -> Figures:
        """Many records under way at once."""

    @abstractmethod
    def write_singly(self, records: int) -> Figures:
        """The next record when the last is answered."""

    @abstractmethod
    def read(self, records: int) -> Figures:
        """What was written, from the beginning."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, port: int, seconds: float = 60.0) -> Iterator[int]:
    """Until the port answers, and then until the block ends."""
    with log.open("w") as output:
        running = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=log.parent)
    try:
        _wait_for(port, running, seconds, log)
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for(port: int, running: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and running.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise Failed(f"{running.args} did not start: {log.read_text()[-2000:]}")


def output_of(command: Sequence[str], seconds: float = 300.0) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, env={**os.environ, "NO_COLOR": "1"}
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)[:200]}: {done.stderr[-1000:]}{done.stdout[-1000:]}")
    return done.stdout + done.stderr
