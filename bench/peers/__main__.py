"""``python -m bench.peers``: every server that is installed, in turn, at both levels of durability."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.system.machine import describe_machine, warm_page_cache
from bench.system.processes import REPOSITORY, cpu_seconds

from .kafka_broker import Kafka
from .nats import Nats
from .peer import RECORD_BYTES, Figures, Peer
from .redis import Redis
from .takhin import Takhin

KINDS: dict[str, type[Peer]] = {"takhin": Takhin, "nats": Nats, "redis": Redis, "kafka": Kafka}


def measure(peer: Peer, directory: Path, records: int) -> dict[str, Any]:
    """One turn: a fresh server, written to and read from."""
    with peer.started(directory) as pid:
        before = cpu_seconds(pid)
        wrote = peer.write(records)
        # A run by time has another number of records: its rate tells which.
        cpu = cpu_seconds(pid) - before
        return {
            "write": asdict(wrote),
            "server_cpu_seconds": cpu,
            "single": asdict(peer.write_singly(max(records // 100, 200))),
            "read": asdict(peer.read(records)),
        }


def _count(name: str, durable: bool, records: int) -> int:
    """A server that flushes for each record gets fewer of them: the rate does not depend on it."""
    return {"nats": records // 50, "kafka": records // 5}.get(name, records) if durable else records


def median(turns: list[dict[str, Any]], work: str) -> Figures:
    return Figures(*(statistics.median(turn[work][field] for turn in turns) for field in asdict(Figures(0.0))))


def table(report: dict[str, Any]) -> str:
    lines = []
    for durable in (False, True):
        lines += [
            "",
            "Answered when on stable storage:" if durable else "Answered before it is on stable storage:",
            "",
            "| server | setting | write, records/s | read, records/s | one at a time: p50 / p99 ms |",
            "| --- | --- | --: | --: | --: |",
        ]
        for peer in report["peers"]:
            if peer["durable"] is durable:
                write, read, single = peer["median"]["write"], peer["median"]["read"], peer["median"]["single"]
                lines.append(
                    f"| {peer['title']} | {peer['setting']} | {write['records_per_second']:,.0f} "
                    f"| {read['records_per_second']:,.0f} | {single['p50_ms']:.2f} / {single['p99_ms']:.2f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=",".join(KINDS))
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "build" / "bench", help="a directory on the disk")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "bench" / "results" / "peers.json")
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    peers: list[tuple[str, Peer]] = []
    for name in arguments.peers.split(","):
        for durable in (False, True):
            peer = KINDS[name](durable)
            if peer.missing():
                print(f"{name}: not installed: {peer.missing()}", file=sys.stderr)
                break
            peers.append((name, peer))
    machine = describe_machine(arguments.data)
    turns: dict[int, list[dict[str, Any]]] = {n: [] for n in range(len(peers))}
    for _ in range(arguments.turns):
        for n, (name, peer) in enumerate(peers):
            directory = Path(tempfile.mkdtemp(dir=arguments.data, prefix=f"peer-{name}-"))
            try:
                warm_page_cache(directory, 1 << 30)
                turn = measure(peer, directory, _count(name, peer.durable, arguments.records))
            finally:
                shutil.rmtree(directory)
            turns[n].append(turn)
            print(f"{peer.title} {peer.setting}: {turn}", file=sys.stderr, flush=True)
    report = {
        "machine": machine,
        "record_bytes": RECORD_BYTES,
        "turns": arguments.turns,
        "peers": [
            {
                "title": peer.title,
                "setting": peer.setting,
                "durable": peer.durable,
                "client": peer.client,
                "median": {work: asdict(median(turns[n], work)) for work in ("write", "single", "read")},
                "runs": turns[n],
            }
            for n, (_, peer) in enumerate(peers)
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
