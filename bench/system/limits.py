"""How fast the client is, when the server is not what it waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import requests
from .processes import go_echo, run_client
from .requests import write_messages
from .rows import rows

#: The rows whose requests and flags are tried.
_TRIED = ("batch-256x1k-acks1", "message-acks1", "unary-acks1", "consume-1k")


def measure_client_limit(directory: Path, seconds: float) -> list[dict[str, Any]]:
    results = []
    for row in rows():
        if row.name not in _TRIED:
            continue
        answers = [requests.value(1 << 20)] if row.mode == "consume" else [requests.ANSWER]
        messages = write_messages(directory / "limit-requests", row.messages)
        with go_echo(write_messages(directory / "limit-answers", answers)) as server:
            flags = ["-mode", row.mode, "-method", row.bare_method, "-messages", str(messages)]
            flags += ["-streams", str(row.streams), "-window", str(row.window), "-seconds", str(seconds)]
            result = run_client(server, flags)
        size = result["bytes_in"] if row.mode == "consume" else result["bytes_out"]
        results.append(
            {
                "name": row.name,
                "title": row.title,
                "messages_per_second": result["messages"] / result["seconds"],
                "megabytes_per_second": size / result["seconds"] / 1e6,
                "client_cores": result["client_cpu_seconds"] / result["wall_seconds"],
            }
        )
    return results
