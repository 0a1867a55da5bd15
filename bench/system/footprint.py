"""Memory and start of the server: idle, with many partitions, and under a flood."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from . import requests
from .processes import rss_bytes, run_client, takhin
from .requests import SERVICE, write_messages

_MB = 1e6


def measure_footprint(directory: Path, flood_seconds: float, starts: int = 5) -> list[dict[str, Any]]:
    return [
        _idle(directory / "idle"),
        _start(directory / "start", starts),
        _partitions(directory / "partitions"),
        _flood(directory / "flood", flood_seconds),
    ]


def _idle(directory: Path) -> dict[str, Any]:
    with takhin(directory) as server:
        time.sleep(1)
        return _row("idle", "memory, idle", "MB", rss_bytes(server.pid) / _MB, 80)


def _create(address: str, name: str, partitions: int) -> None:
    with grpc.insecure_channel(address) as channel:
        request = pb.CreateTopicRequest(name=name, num_partitions=partitions)
        channel.unary_unary(SERVICE + "CreateTopic")(request.SerializeToString(), timeout=300)


def _start(directory: Path, starts: int) -> dict[str, Any]:
    """From the start of the process until it says that it serves; the interpreter and its imports are in it."""
    with takhin(directory) as server:
        _create(server.address, "bench", 1000)
        with grpc.insecure_channel(server.address) as channel:
            produce = channel.unary_unary(SERVICE + "ProduceBatch")
            for n in range(1000):
                produce(requests.batch("bench", n, 10, 1024, 1), timeout=30)
    times = []
    for _ in range(starts):
        began = time.monotonic()
        with takhin(directory):
            times.append(time.monotonic() - began)
    row = _row("start-1000", "start with 1,000 partitions after a clean stop", "s", statistics.median(times), 1.0)
    return row | {"spread": [min(times), max(times)]}


def _partitions(directory: Path) -> dict[str, Any]:
    with takhin(directory) as server:
        time.sleep(0.5)
        before = rss_bytes(server.pid)
        _create(server.address, "bench", 10_000)
        time.sleep(1)
        each = (rss_bytes(server.pid) - before) / 10_000
    shutil.rmtree(directory)
    return _row("partition-memory", "memory of one of 10,000 partitions", "KiB", each / 1024, 16)


def _flood(directory: Path, seconds: float) -> dict[str, Any]:
    """Batches at acks 1 as fast as they go, with little kept; memory in the first tenth and the last."""
    seen: list[tuple[float, int]] = []
    with takhin(directory) as server:
        with grpc.insecure_channel(server.address) as channel:
            request = pb.CreateTopicRequest(
                name="bench", configs={"retention.bytes": str(256 << 20), "segment.bytes": str(64 << 20)}
            )
            channel.unary_unary(SERVICE + "CreateTopic")(request.SerializeToString(), timeout=60)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                seen.append((time.monotonic(), rss_bytes(server.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        messages = write_messages(directory / "requests", [requests.batch("bench", 0, 64, 1024, 1)])
        flags = ["-mode", "stream", "-method", SERVICE + "ProduceBatchStream", "-messages", str(messages)]
        flags += ["-streams", "2", "-window", "8", "-error-field", "7", "-seconds", str(seconds)]
        # As much as a disk of 200 MB/s takes, so that the flood does not fill it up before retention comes.
        result = run_client(server, [*flags, "-rate", "1000"], seconds + 60)
        over.set()
        watcher.join()
    part = max(len(seen) // 10, 1)
    first = statistics.median(size for _, size in seen[part : 2 * part])
    last = statistics.median(size for _, size in seen[-part:])
    row = _row("flood-growth", f"memory after a flood of {seconds:.0f} s, to its beginning", "", last / first, 1.1)
    return row | {"megabytes": [first / _MB, last / _MB], "messages": result["messages"]}


def _row(name: str, title: str, unit: str, value: float, goal: float) -> dict[str, Any]:
    return {"name": name, "title": title, "unit": unit, "value": value, "goal_at_most": goal, "met": value <= goal}
