"""Writes that come up short, and calls that are interrupted: nobody may notice, as a process of its own.

    python -m tests.faults.rough_calls VICTIMS MARKS SCRATCH SHARD SHARDS

Runs under the shim with VICTIMS as its root, with the debug build.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from takhin import _os

from .backend import open_engine
from .forks import in_child
from .history import History, truth_of_marks
from .recover import check_recovery, empty
from .script import script
from .shim import DATABASE, LOG, Plan
from .trace import Marks, read_trace


def run(victim: Path, marks: Path, plan: Plan, short: tuple[int, int, int], interrupted: tuple[int, ...]) -> None:
    """``short``: every so-manyth write, by the seam, of the log and of the database; ``interrupted``: which
    writes, reads, opens, truncations are interrupted once."""
    seam, log, database = short
    _os.plan_faults(f"short:{seam}" if seam else "")
    plan.clear()
    plan.short_every(LOG, log)
    plan.short_every(DATABASE, database)
    for kind, (call, number) in itertools.product(
        (LOG, DATABASE), zip(("write", "read", "open", "truncate"), interrupted, strict=True)
    ):
        if number:
            plan.fail(kind, call, number, 2, errno.EINTR)
    writer = Marks(marks)
    engine = open_engine(victim)
    for _, step in script(engine, writer):
        step()
    engine.stop()
    writer.close()
    _os.plan_faults("")
    plan.clear()
    found = [event.mark for event in read_trace(marks)]
    history = History(found, truth_of_marks(found))
    history.binding_acks = (-1, 1)
    check_recovery(victim, history, history.at_end(), twice=True)


def main(victims: Path, marks: Path, shard: int, shards: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    assert _os.DEBUG
    plan = Plan()
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    victim, written = victims / f"victim-{shard}", marks / f"marks-{shard}"
    shorts = [(1, 0, 0), (0, 1, 1), (2, 3, 2), (0, 7, 5), (3, 0, 1)]
    interrupts = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 5, 9, 2), (7, 3, 14, 1), (25, 11, 20, 3)]
    for short, interrupted in list(itertools.product(shorts, interrupts))[shard::shards]:
        with empty(victim):
            written.unlink(missing_ok=True)
            ended = in_child(lambda s=short, i=interrupted: run(victim, written, plan, s, i))  # type: ignore[misc]
        counts["runs"] += 1
        if ended.code != 0 or "problem" in ended.result:
            failures.append({"short": short, "interrupted": interrupted, "hung": ended.hung, **ended.result})
    return {"counts": counts, "failures": failures}


if __name__ == "__main__":
    victims_, marks_, _scratch, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(victims_), Path(marks_), *map(int, numbers))))
