"""``python -m bench.system``: the table of the server against the bare transport."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from .footprint import measure_footprint
from .inprocess import measure_in_process
from .limits import measure_client_limit
from .machine import describe_machine, warm_page_cache
from .measure import Table
from .processes import REPOSITORY, Failed, build_client
from .report import RESULTS, save, table
from .rows import choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two pairs of each row")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--noisy-pairs", type=int, default=10, help="of the rows whose runs differ most")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run")
    parser.add_argument("--rows", default="", help="names, or beginnings of names, with commas; only these")
    parser.add_argument("--flood", type=float, default=60.0, help="seconds of the flood")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the server")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "build" / "bench", help="a directory on the disk")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    pairs, noisy_pairs, seconds = arguments.pairs, arguments.noisy_pairs, arguments.seconds
    if arguments.quick:
        pairs = noisy_pairs = 2
    chosen = choose(arguments.rows)
    build_client()
    arguments.data.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=arguments.data, prefix="system-"))
    report: dict[str, Any] = {
        "machine": describe_machine(arguments.data),
        "pairs": pairs,
        "noisy_pairs": noisy_pairs,
        "seconds": seconds,
    }
    try:
        warm_page_cache(directory)
        if not arguments.rows:
            report["in_process"] = measure_in_process(directory)
            report["client_limit"] = measure_client_limit(directory, seconds)
        with Table(directory, pairs, seconds, tuple(arguments.set), noisy_pairs=noisy_pairs) as measured:
            report["rows"] = []
            for row in chosen:
                try:
                    report["rows"].append(measured.measure(row))
                except Failed as failure:  # the others are worth having
                    print(f"{row.name}: {failure}", file=sys.stderr, flush=True)
        if not arguments.rows:
            report["footprint"] = measure_footprint(directory, 5.0 if arguments.quick else arguments.flood)
    finally:
        shutil.rmtree(directory)
    save(report, arguments.out)
    print(table(report))


if __name__ == "__main__":
    main()
