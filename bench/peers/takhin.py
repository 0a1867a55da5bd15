"""Takhin, by the client of ``bench.system``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc

from bench.system import requests
from bench.system.processes import Server, build_client, run_client, takhin
from bench.system.requests import SERVICE, write_messages
from takhin.v1 import takhin_pb2 as pb

from .peer import RECORD_BYTES, Figures, Peer

_BATCH = 256


class Takhin(Peer):
    client = "the client of bench/system, 1 stream, batches of 256, 16 under way; ConsumeMessages, 1 MiB responses"
    title = "Takhin"

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.setting = "acks -1 (default)" if durable else "acks 1"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[int]:
        build_client()
        self._directory = directory
        with takhin(directory / "data") as server:
            self._server: Server = server
            with grpc.insecure_channel(server.address) as channel:
                create = channel.unary_unary(SERVICE + "CreateTopic")
                create(pb.CreateTopicRequest(name="bench").SerializeToString(), timeout=30)
            yield server.pid

    def _run(self, request: bytes, *flags: str) -> tuple[float, Figures]:
        path = write_messages(self._directory / "requests", [request])
        result = run_client(self._server, ["-messages", str(path), "-warmup", "0", *flags])
        rate, latency = result["messages"] / result["seconds"], result["latency_us"]
        return result["bytes_in"] / result["seconds"], Figures(rate, latency["p50"] / 1000, latency["p99"] / 1000)

    def _acks(self) -> int:
        return -1 if self.durable else 1

    def write(self, records: int) -> Figures:
        """By time: as long as so many records take at 300,000 a second."""
        request = requests.batch("bench", 0, _BATCH, RECORD_BYTES, self._acks())
        flags = ["-mode", "stream", "-method", SERVICE + "ProduceBatchStream", "-window", "16", "-error-field", "7"]
        _, figures = self._run(request, *flags, "-seconds", str(max(records / 300_000, 0.5)))
        return Figures(figures.records_per_second * _BATCH, figures.p50_ms, figures.p99_ms)

    def write_singly(self, records: int) -> Figures:
        request = requests.message("bench", 0, RECORD_BYTES, self._acks())
        flags = ["-mode", "unary", "-method", SERVICE + "ProduceMessage", "-window", "1", "-error-field", "5"]
        return self._run(request, *flags, "-seconds", str(max(records / 2000, 0.5)))[1]

    def read(self, records: int) -> Figures:
        request = requests.consume("bench", 0, 1 << 20)
        flags = ["-mode", "consume", "-method", SERVICE + "ConsumeMessages", "-error-field", "5"]
        bytes_a_second, _ = self._run(request, *flags, "-seconds", str(max(records / 600_000, 0.5)))
        return Figures(bytes_a_second / requests.consumed_record_bytes(RECORD_BYTES))
