"""``python -m bench.system.compare``: two states of the server in turn, for judging a change.

The first is this tree; the second another tree (a git worktree of the commit before, say, with its modules
built) or other settings. The CPU time of a message is the figure to look at when the machine is not quiet.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from .measure import Table
from .processes import REPOSITORY, build_client
from .rows import choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", help="names, or beginnings of names, with commas")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="of the second")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the second")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    chosen = choose(arguments.rows)
    build_client()
    data = REPOSITORY / "build" / "bench"
    directory = Path(tempfile.mkdtemp(dir=data, prefix="compare-"))
    try:
        with Table(
            directory, arguments.pairs, arguments.seconds, other=(arguments.tree.resolve(), tuple(arguments.set))
        ) as table:
            for row in chosen:
                runs = table.measure(row)["runs"]
                cpu = [
                    one["server_cpu_us_per_message"] / other["server_cpu_us_per_message"]
                    for one, other in zip(runs["takhin"], runs["against"], strict=True)
                ]
                print(f"{row.name}: CPU of a message {statistics.median(cpu):.2f} of the second's")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
