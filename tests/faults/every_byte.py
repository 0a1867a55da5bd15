"""A small workload, killed at one byte that it writes after the other, as a process of its own.

    python -m tests.faults.every_byte VICTIMS MARKS SCRATCH SHARD SHARDS KILLS SEED

Runs under the shim with VICTIMS as its root. KILLS of the log's bytes, and half as many of the
database's; 0: each of the log's, and as many of the database's.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .backend import open_engine
from .forks import Ended, in_child
from .history import History, truth_of_marks
from .recover import check_recovery, empty, engine_on
from .script import script
from .shim import DATABASE, LOG, Plan
from .trace import Marks, read_trace

NAMES = {LOG: "log", DATABASE: "database"}
#: Of the recoveries, one in so many is killed too.
KILL_RECOVERY = 3


class Killer:
    def __init__(self, victims: Path, marks: Path, shard: int) -> None:
        self.base = victims / f"base-{shard}"
        self.victim = victims / f"victim-{shard}"
        self.marks = marks / f"marks-{shard}"
        self.plan = Plan()
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []

    def prepare(self) -> None:
        """A directory with a database, stopped cleanly."""

        def work() -> None:
            with engine_on(self.base):
                pass

        with empty(self.base):
            pass
        self._must(in_child(work))

    def _must(self, ended: Ended) -> Ended:
        assert ended.code == 0, ended
        assert "problem" not in ended.result, ended.result
        return ended

    def run(self, kind: int, byte: int) -> Ended:
        """The workload in a copy of the base, killed once it has written so many bytes (-1: never)."""
        shutil.rmtree(self.victim, ignore_errors=True)
        shutil.copytree(self.base, self.victim)
        self.marks.unlink(missing_ok=True)

        def work() -> dict[str, Any]:
            self.plan.clear()
            self.plan.kill_at(kind, byte)
            marks = Marks(self.marks)
            engine = open_engine(self.victim)
            for _, step in script(engine, marks):
                step()
            engine.stop()
            return {name: self.plan.written(number) for number, name in NAMES.items()}

        return in_child(work)

    def kill_recovery(self, kind: int, byte: int) -> Ended:
        def work() -> None:
            self.plan.clear()
            self.plan.kill_at(kind, byte)
            with engine_on(self.victim):
                pass

        return in_child(work)

    def recover(self) -> Ended:
        """Recover, held against the marks."""
        marks = [event.mark for event in read_trace(self.marks)]

        def work() -> None:
            self.plan.clear()
            history = History(marks, truth_of_marks(marks))
            history.binding_acks = (-1, 1)
            check_recovery(self.victim, history, history.at_end(), twice=True)

        return in_child(work)

    def check(self, kind: int, byte: int, random_: random.Random) -> None:
        ended = self.run(kind, byte)
        self.counts[f"killed in the {NAMES[kind]}" if ended.code == -signal.SIGKILL else "too late"] += 1
        if ended.hung or "problem" in ended.result:
            self._fail(kind, byte, "the workload", ended)
            return
        if random_.randrange(KILL_RECOVERY) == 0:
            which = random_.choice((LOG, DATABASE))
            first = self.kill_recovery(which, random_.randrange(1, 150 if which == LOG else 20_000))
            self.counts["killed in recovery" if first.code == -signal.SIGKILL else "recovered, then"] += 1
        ended = self.recover()
        if ended.code != 0 or "problem" in ended.result:
            self._fail(kind, byte, "recovery", ended)

    def _fail(self, kind: int, byte: int, what: str, ended: Ended) -> None:
        kept = self.victim.with_name(f"kept-{kind}-{byte}-{os.getpid()}")
        shutil.copytree(self.victim, kept)
        self.failures.append(
            {"bytes": f"{byte} of the {NAMES[kind]}", "in": what, "hung": ended.hung, **ended.result, "kept": str(kept)}
        )


def main(victims: Path, marks: Path, shard: int, shards: int, kills: int, seed: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    killer = Killer(victims, marks, shard)
    killer.prepare()
    written = killer._must(killer.run(LOG, -1)).result
    killer._must(killer.recover())
    random_ = random.Random(seed)
    plans: list[tuple[int, int]] = []
    for kind, name in NAMES.items():
        everything = range(1, written[name] + 1)
        wanted = written["log"] if kills == 0 else kills if kind == LOG else kills // 2
        plans += [(kind, byte) for byte in random_.sample(everything, min(wanted, len(everything)))]
    random_ = random.Random(seed + shard)
    for kind, byte in sorted(plans)[shard::shards]:
        killer.check(kind, byte, random_)
    return {"counts": killer.counts, "failures": killer.failures}


if __name__ == "__main__":
    victims_, marks_, _scratch, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(victims_), Path(marks_), *map(int, numbers))))
