"""Runs the rows: Takhin and its yardsticks in turn, pair after pair."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from takhin.storage.lingering import LATEST_S
from takhin.v1 import takhin_pb2 as pb

from . import requests
from .processes import Server, bare, run_client, takhin
from .requests import SERVICE, write_messages
from .rows import ONE, TOPIC, Row

#: Seconds that data may take to get to the disk between two runs, so that one is not charged for the other's.
SETTLE_SECONDS = 0.3


class Table:
    """Measures rows against servers that stay up for all of them."""

    def __init__(
        self,
        directory: Path,
        pairs: int,
        seconds: float,
        settings: tuple[str, ...] = (),
        other: tuple[Path, tuple[str, ...]] | None = None,
        watch: Callable[[Server, str], contextlib.AbstractContextManager[None]] | None = None,
        noisy_pairs: int = 0,
    ) -> None:
        """``pairs``: best an even number, so that each side is first as often as last; ``noisy_pairs``: of noisy rows,
        if more. ``other``: in place of the bare servers, Takhin from this tree with these settings. ``watch``:
        around each run, with the server that is loaded and the name of the messages."""
        self._other = other
        self._watch = watch
        self._counting = True
        self.directory = directory
        self.pairs = pairs
        self.noisy_pairs = max(noisy_pairs, pairs)
        self.seconds = seconds
        self._settings = settings
        self._servers = contextlib.ExitStack()

    def __enter__(self) -> Table:
        directory = self.directory
        answer = write_messages(directory / "answer", [requests.ANSWER])
        # One response's worth of bytes: what is in it does not matter to a server that only passes it on.
        sent = write_messages(directory / "sent", [requests.value(1 << 20)])
        self.takhin = self._servers.enter_context(takhin(directory / "data", self._settings))
        self.tuned: Server | None = None
        if self._other is None:
            self.bare = self._servers.enter_context(bare(answer, sent))
            self.tuned = self._servers.enter_context(bare(answer, sent, tuned=True))
        else:
            tree, settings = self._other
            self.bare = self._servers.enter_context(takhin(directory / "other", settings, tree))
        self._channels = [
            self._servers.enter_context(grpc.insecure_channel(server.address))
            for server in (self.takhin, self.bare)[: 1 if self._other is None else 2]
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        self._servers.close()

    # -- one row ------------------------------------------------------------------------------

    def measure(self, row: Row) -> dict[str, Any]:
        """Runs of all sides, in turn, and what follows from them."""
        path = write_messages(self.directory / row.name, row.messages)
        sides: list[tuple[str, Callable[[], dict[str, Any]]]] = [("takhin", lambda: self._run_takhin(row, path))]
        if self._other is not None or row.against != "none":
            sides.append(("against", lambda: self._run_against(row, path)))
        tuned = self.tuned
        if tuned is not None and row.against == "bare":
            sides.append(("tuned", lambda: self._client(tuned, row, row.bare_method, path, 0)))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name, _ in sides}
        with contextlib.ExitStack() as stack:
            if row.fill:
                stack.enter_context(self._filled(row))
            elif row.against == "one-partition":
                # For all runs: a thousand partitions that go would be work for the next run's file system.
                stack.enter_context(self._topic(row.partitions))
                stack.enter_context(self._topic(1, ONE))
                self._counting = False  # the files are new, and so are the disk's blocks for them
                for _, run in sides:
                    run()
                self._counting = True
            for pair in range(self.noisy_pairs if row.noisy else self.pairs):
                # Who goes first changes, so that nobody always finds what the same other left.
                for name, run in sides if pair % 2 == 0 else reversed(sides):
                    if row.against == "one-partition":
                        # One run is not charged for what another left: no partition lingers longer unflushed.
                        os.sync()
                        time.sleep(LATEST_S)
                    runs[name].append(_figures(row, run()))
        return _summary(row, runs)

    def _run_takhin(self, row: Row, path: Path) -> dict[str, Any]:
        with self._own_topic(row):
            return self._client(self.takhin, row, row.method, path, row.error_field)

    def _run_against(self, row: Row, path: Path) -> dict[str, Any]:
        if self._other is not None:
            with self._own_topic(row):
                return self._client(self.bare, row, row.method, path, row.error_field)
        if row.against == "bare":
            return self._client(self.bare, row, row.bare_method, path, 0)
        one = write_messages(self.directory / f"{row.name}-one", row.one_partition)
        return self._client(self.takhin, row, row.method, one, row.error_field)

    def _client(self, server: Server, row: Row, method: str, path: Path, error_field: int) -> dict[str, Any]:
        flags = ["-mode", row.mode, "-method", method, "-messages", str(path), "-streams", str(row.streams)]
        flags += ["-window", str(row.window), "-error-field", str(error_field), "-rate", str(row.rate)]
        flags += ["-seconds", str(self.seconds), "-warmup", "0.5"]
        if row.consume_request:
            request = write_messages(self.directory / f"{row.name}-consume", [row.consume_request])
            flags += ["-consume-method", SERVICE + "ConsumeMessages", "-consume-request", str(request)]
        with self._watch(server, path.name) if self._watch and self._counting else contextlib.nullcontext():
            return run_client(server, flags)

    # -- topics -------------------------------------------------------------------------------

    def _call(self, method: str, request: Any) -> None:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        for channel in self._channels:
            channel.unary_unary(SERVICE + method)(data, timeout=60)

    def _own_topic(self, row: Row) -> contextlib.AbstractContextManager[None]:
        """Of one run, unless there is one for all."""
        stays = row.fill or row.against == "one-partition"
        return contextlib.nullcontext() if stays else self._topic(row.partitions)

    @contextlib.contextmanager
    def _topic(self, partitions: int, name: str = TOPIC) -> Iterator[None]:
        """An empty one. With the topic go its files, so that they need not be written to the disk."""
        self._call("CreateTopic", pb.CreateTopicRequest(name=name, num_partitions=partitions))
        try:
            yield
        finally:
            self._call("DeleteTopic", pb.DeleteTopicRequest(name=name))
            time.sleep(SETTLE_SECONDS)

    @contextlib.contextmanager
    def _filled(self, row: Row) -> Iterator[None]:
        with self._topic(row.partitions):
            for n in range(row.fill_times):
                self._call("ProduceBatch", row.fill[n % len(row.fill)])
            time.sleep(1.5)  # until all of it is flushed, and so readable
            yield


def _figures(row: Row, result: dict[str, Any]) -> dict[str, float]:
    """What counts, of one run."""
    messages, seconds = result["messages"], result["seconds"]
    transferred = result["bytes_in"] if row.mode in ("consume", "tail") else result["bytes_out"]
    return {
        "messages_per_second": messages / seconds,
        "records_per_second": (transferred if row.mode == "consume" else messages) * row.records / seconds,
        "megabytes_per_second": transferred / seconds / 1e6,
        "mean_us": result["latency_us"]["mean"],
        "p50_us": result["latency_us"]["p50"],
        "p99_us": result["latency_us"]["p99"],
        "p999_us": result["latency_us"]["p999"],
        "max_us": result["latency_us"]["max"],
        "client_cores": result["client_cpu_seconds"] / result["wall_seconds"],
        "server_cores": result["server_cpu_seconds"] / result["run_seconds"],
        "server_cpu_us_per_message": 1e6 * result["server_cpu_seconds"] / result["run_seconds"] * seconds / messages,
    }


def _summary(row: Row, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """``runs``: of Takhin, of what it is held against, and of the tuned bare server."""
    median = _medians(runs["takhin"])
    summary: dict[str, Any] = {
        "name": row.name,
        "title": row.title,
        "against": row.against,
        "goal": row.goal,
        "takhin": median,
        "runs": runs,
    }
    # The same requests on all sides; responses may be of another size.
    figure = "megabytes_per_second" if row.mode == "consume" else "messages_per_second"
    if "against" in runs:
        summary["yardstick"] = _medians(runs["against"])
        summary["ratio"], summary["ratio_spread"] = _ratio(runs["takhin"], runs["against"], figure)
        if row.goal is not None:
            summary["met"] = summary["ratio"] >= row.goal
    if "tuned" in runs:
        summary["tuned"] = _medians(runs["tuned"])
        summary["tuned_ratio"], summary["tuned_ratio_spread"] = _ratio(runs["takhin"], runs["tuned"], figure)
        if row.goal is not None:
            summary["tuned_met"] = summary["tuned_ratio"] >= row.goal
    if row.absolute is not None:
        figure, order, value = row.absolute
        reached = median[figure] >= value if order == ">=" else median[figure] <= value
        summary["absolute"] = {"figure": figure, "order": order, "value": value, "reached": median[figure]}
        summary["met"] = summary.get("met", True) and reached
    print(f"{row.name}: {line(summary)}", file=sys.stderr, flush=True)
    return summary


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _ratio(
    runs: list[dict[str, float]], others: list[dict[str, float]], figure: str
) -> tuple[float, tuple[float, float]]:
    """The median over the pairs, and the smallest and the largest."""
    ratios = [run[figure] / other[figure] for run, other in zip(runs, others, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))


def line(summary: dict[str, Any]) -> str:
    """One row in words."""
    own = summary["takhin"]
    parts = [f"{own['messages_per_second']:.0f} messages/s", f"{own['megabytes_per_second']:.0f} MB/s"]
    parts.append(f"{own['server_cpu_us_per_message']:.0f} us CPU a message")
    parts.append(f"p50 {own['p50_us']:.0f} us, p99 {own['p99_us']:.0f} us, client {own['client_cores']:.2f} cores")
    if "ratio" in summary:
        low, high = summary["ratio_spread"]
        other = summary["yardstick"]
        parts.append(
            f"ratio {summary['ratio']:.2f} ({low:.2f} to {high:.2f}) of {other['messages_per_second']:.0f}/s"
            f" at {other['server_cpu_us_per_message']:.0f} us, client {other['client_cores']:.2f} cores"
        )
    if "tuned_ratio" in summary:
        low, high = summary["tuned_ratio_spread"]
        parts.append(f"{summary['tuned_ratio']:.2f} ({low:.2f} to {high:.2f}) of the tuned")
    return ", ".join(parts)
