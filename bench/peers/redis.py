"""Redis Streams with an append-only file, by ``redis-benchmark``."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .peer import RECORD_BYTES, Figures, Peer, free_port, output_of, process

#: Records of one XRANGE: about a mebibyte.
_READ_AT_ONCE = 1000


class Redis(Peer):
    client = "redis-benchmark, 16 connections with 64 XADD in a pipeline each; reading: XRANGE COUNT 1000"

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.setting = "appendfsync always" if durable else "appendfsync everysec"
        version = re.search(r"v=([\d.]+)", output_of(["redis-server", "--version"])) if not self.missing() else None
        self.title = f"Redis Streams {version[1] if version else ''}"

    def missing(self) -> str:
        return ", ".join(name for name in ("redis-server", "redis-benchmark") if shutil.which(name) is None)

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[int]:
        self._port = free_port()
        fsync = "always" if self.durable else "everysec"
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(directory)]
        command += ["--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--auto-aof-rewrite-percentage", "0"]
        with process(command, directory / "redis.log", self._port) as pid:
            yield pid

    def _bench(self, connections: int, pipeline: int, calls: int, *command: str) -> tuple[float, float, float]:
        output = output_of(
            [
                "redis-benchmark",
                "-p",
                str(self._port),
                "-c",
                str(connections),
                "-P",
                str(pipeline),
                "-n",
                str(calls),
                "--csv",
                *command,
            ]
        )
        row = next(row for row in csv.reader(output.splitlines()) if len(row) == 8 and row[0] != "test")
        return float(row[1]), float(row[4]), float(row[6])

    def write(self, records: int) -> Figures:
        return Figures(*self._bench(16, 64, records, "XADD", "bench", "*", "v", "x" * RECORD_BYTES))

    def write_singly(self, records: int) -> Figures:
        return Figures(*self._bench(1, 1, records, "XADD", "bench", "*", "v", "x" * RECORD_BYTES))

    def read(self, records: int) -> Figures:
        calls = max(records // _READ_AT_ONCE, 1)
        rate, *_ = self._bench(1, 1, calls, "XRANGE", "bench", "-", "+", "COUNT", str(_READ_AT_ONCE))
        return Figures(rate * _READ_AT_ONCE)
