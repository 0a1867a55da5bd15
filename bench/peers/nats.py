"""NATS JetStream with a file store, by ``nats bench js``."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .peer import RECORD_BYTES, Figures, Peer, free_port, output_of, process

_UNITS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0, "ns": 1e-6}


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(Path.home() / "go" / "bin"))


class Nats(Peer):
    client = "nats bench js pub async --batch 500, 1 connection"

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.setting = "sync_interval: always" if durable else "sync_interval: 2m (default)"
        server = _tool("nats-server")
        version = output_of([server, "--version"]).split(":")[-1].strip() if server else ""
        self.title = f"NATS JetStream {version}"

    def missing(self) -> str:
        return ", ".join(name for name in ("nats-server", "nats") if _tool(name) is None)

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[int]:
        self._port = free_port()
        sync = "sync_interval: always" if self.durable else ""
        config = directory / "nats.conf"
        config.write_text(
            f'listen: 127.0.0.1:{self._port}\njetstream {{ store_dir: "{directory}", max_file_store: 40G\n {sync} }}\n'
        )
        with process([str(_tool("nats-server")), "-c", str(config)], directory / "nats.log", self._port) as pid:
            yield pid

    def _bench(self, *arguments: str) -> Figures:
        output = output_of(
            [str(_tool("nats")), "-s", f"nats://127.0.0.1:{self._port}", "bench", "js", *arguments, "--no-progress"]
        )
        rate = re.search(r"([\d,]+) msgs/sec", output)
        assert rate is not None, output
        p50, p99 = (re.search(rf"P{n}: ([\d,.]+)(\w+)", output) for n in (50, 99))
        return Figures(float(rate[1].replace(",", "")), _ms(p50), _ms(p99))

    def write(self, records: int) -> Figures:
        flags = ["--create", "--purge", "--maxbytes", "8GB", "--size", str(RECORD_BYTES), "--msgs", str(records)]
        figures = self._bench("pub", "async", "bench", *flags, "--batch", "500")
        # Its latency is that of a batch of 500, which is no record's.
        return Figures(figures.records_per_second)

    def write_singly(self, records: int) -> Figures:
        flags = ["--create", "--maxbytes", "8GB", "--size", str(RECORD_BYTES), "--msgs", str(records)]
        return self._bench("pub", "sync", "bench", *flags)

    def read(self, records: int) -> Figures:
        return self._bench("ordered", "--msgs", str(records), "--size", str(RECORD_BYTES))


def _ms(found: re.Match[str] | None) -> float:
    return float(found[1].replace(",", "")) * _UNITS[found[2]] if found else 0.0
