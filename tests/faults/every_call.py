"""Every system call of a small workload fails, one in each run, as a process of its own.

    python -m tests.faults.every_call VICTIMS MARKS SCRATCH SHARD SHARDS CASES SEED

Runs under the shim with VICTIMS as its root, with the debug build. CASES: how many are tried; 0: all.

A run starts on a directory that a killed process left, torn tail included. The call fails once or
for good; what the engine says must be the documented outcome, nothing that was acknowledged may be
lost, and when the fault is gone the engine goes on by itself, unless the disk cannot be believed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from takhin import _os, errors
from takhin.engine.local import LocalEngine

from .backend import EngineBackend, open_engine
from .forks import Ended, in_child
from .history import History, demand, truth_of_marks
from .recover import check_recovery, empty, observe
from .script import script
from .shim import DATABASE, LOG, Plan
from .trace import Marks, read_trace

#: Seconds after which a produce call is given up, while the fault lasts.
GIVE_UP_S = 0.5
#: Seconds in which producers must proceed once the fault is gone.
PROCEEDS_S = 5.0
#: Processor time of one run, seconds; it takes a tenth. More means that something spins.
MOST_CPU_S = 3.0

#: How each call can fail.
ERRNOS = {
    "open": ("EIO", "EMFILE", "ENOSPC", "EROFS"),
    "read": ("EIO",),
    "write": ("EIO", "ENOSPC", "EROFS"),
    "flush": ("EIO", "ENOSPC", "EROFS"),
    "syncfs": ("EIO", "ENOSPC", "EROFS"),
    "sync_dir": ("EIO", "EMFILE", "EROFS"),
    "truncate": ("EIO", "EROFS"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "mkdir": ("EIO", "ENOSPC", "EROFS"),
    "allocate": ("EIO", "ENOSPC"),
}
#: Of the seam: what puts records on stable storage.
FLUSHES = ("flush", "syncfs")
#: SQLite opens nothing while it runs; what is opened beside the seam is there already.
IMPOSSIBLE = {"database": ("EMFILE", "EROFS"), "beside": ("ENOSPC",)}
DATABASE_CALLS = ("open", "read", "write", "flush", "truncate", "rename", "unlink", "allocate")
LOG_CALLS_BESIDE_THE_SEAM = ("open", "allocate")

#: What the engine may say, by errno.
OUTCOMES: dict[str, tuple[type[errors.TakhinError], ...]] = {
    "EMFILE": (errors.DescriptorsExhausted,),
    "ENOSPC": (errors.DiskFull,),
    "EIO": (errors.LogOffline, errors.DurabilityUnknown),
    "EROFS": (errors.LogOffline, errors.DurabilityUnknown),
}
#: What follows from a step that failed before.
CONSEQUENCES = (errors.TopicNotFound, errors.UnknownProducer, errors.OutOfOrderSequence)


@dataclass(frozen=True, slots=True)
class Case:
    #: ``seam``: the log's calls; ``database`` and ``beside``: those of SQLite, and of Python, by the shim.
    where: str
    call: str
    number: int
    error: str
    #: Once, or for good.
    for_good: bool

    @property
    def final(self) -> bool:
        """Whether nothing that the disk says may be believed until a restart."""
        return self.error in ("EIO", "EROFS") or self.call in FLUSHES


class Caller:
    def __init__(self, victims: Path, marks: Path, shard: int) -> None:
        self.base = victims / f"base-{shard}"
        self.victim = victims / f"victim-{shard}"
        self.base_marks = marks / f"base-{shard}"
        self.marks = marks / f"marks-{shard}"
        self.shim = Plan()
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []

    def prepare(self) -> None:
        """What a killed process leaves: nothing stopped, the last write torn."""

        def work() -> None:
            marks = Marks(self.base_marks)
            engine = open_engine(self.base)
            for _, step in script(engine, marks, "b"):
                step()
            last = max((self.base / "bn-0").glob("*.log"))
            with last.open("ab") as file:
                file.write(b"\0\0\0\0torn" * 13)

        with empty(self.base):
            pass
        ended = in_child(work)
        assert "problem" not in ended.result, ended.result

    def plan(self, case: Case | None) -> None:
        _os.plan_faults("")
        self.shim.clear()
        if case is None:
            return
        times = -1 if case.for_good else 1
        if case.where == "seam":
            # Some of a write may be there when it fails: then it comes in two halves.
            short = "short:1," if case.call == "write" and case.number % 2 == 0 else ""
            _os.plan_faults(f"{short}{case.call}:{case.number}:{case.error}:{times}")
        else:
            kind = DATABASE if case.where == "database" else LOG
            self.shim.fail(kind, case.call, case.number, times, getattr(errno, case.error))

    def seen(self, case: Case) -> int:
        if case.where == "seam":
            return _os.fault_counts()[case.call]
        return self.shim.seen(DATABASE if case.where == "database" else LOG, case.call)

    # -- one run ----------------------------------------------------------------------------------

    def all_cases(self) -> list[Case]:
        """Each call that a run without faults makes, each errno, once and for good."""

        def work() -> dict[str, Any]:
            self.plan(None)
            engine = open_engine(self.victim)
            for _, step in script(engine, Marks(None), "c"):
                step()
            engine.stop()
            return {
                "seam": _os.fault_counts(),
                "database": {call: self.shim.seen(DATABASE, call) for call in DATABASE_CALLS},
                "beside": {call: self.shim.seen(LOG, call) for call in LOG_CALLS_BESIDE_THE_SEAM},
            }

        self._copy_base()
        ended = in_child(work)
        assert "problem" not in ended.result, ended.result
        return [
            Case(where, call, number, error, for_good)
            for where, calls in ended.result.items()
            for call, count in calls.items()
            if call in ERRNOS
            for number in range(1, count + 1)
            for error in ERRNOS[call]
            if where == "seam" or error not in IMPOSSIBLE[where]
            for for_good in (False, True)
        ]

    def _copy_base(self) -> None:
        shutil.rmtree(self.victim, ignore_errors=True)
        shutil.copytree(self.base, self.victim)
        shutil.copyfile(self.base_marks, self.marks)

    def check(self, case: Case) -> None:
        self._copy_base()
        ended = in_child(lambda: self.run(case), timeout_s=30)
        problem = ended.result.get("problem")
        if ended.hung:
            problem = "it hung"
        elif ended.code != 0:
            problem = f"it ended with {ended.code}"
        elif problem is None and ended.cpu_seconds > MOST_CPU_S:
            problem = f"it took {ended.cpu_seconds} s of the processor"
        self.counts[ended.result.get("outcome", "failed")] += 1
        if problem is not None:
            self._fail(case, problem, ended)

    def _fail(self, case: Case, problem: str, ended: Ended) -> None:
        kept = self.victim.with_name(f"kept-{len(self.failures)}-{os.getpid()}")
        shutil.copytree(self.victim, kept)
        self.failures.append({"case": asdict(case), **ended.result, "problem": problem, "kept": str(kept)})

    def run(self, case: Case) -> dict[str, Any]:
        """In a child. Gives the outcome in a word; raises when it is not as documented."""
        self.plan(case)
        marks = Marks(self.marks)
        engine = open_engine(self.victim, start=False)
        outcome = "not reached"
        try:
            engine.start()
        except (OSError, errors.TakhinError) as problem:
            demand(str(problem) != "", "no reason is given")
            outcome = "refused to start"
        else:
            # A flush may tell of a write of before the start: then the disk alone is believed, and it is asked again.
            survived = case.call == "flush" and not case.for_good and self.seen(case) >= case.number
            said = self._take_steps(engine, marks, case)
            if self.seen(case) >= case.number:
                outcome = self._after(engine, case, said, survived)
            if case.error == "EMFILE":
                self.plan(None)  # when the server stops, its connections have gone
            engine.stop()
        self.plan(None)
        marks.close()
        found = [event.mark for event in read_trace(self.marks)]
        check_recovery(self.victim, *_promises(found), twice=True)
        return {"outcome": outcome}

    def _take_steps(self, engine: LocalEngine, marks: Marks, case: Case) -> set[str]:
        """Gives the names of the errors that there were."""
        allowed = OUTCOMES[case.error] + CONSEQUENCES
        if case.final:
            allowed += OUTCOMES["EIO"]
        if case.call == "read":
            allowed += (errors.DataLoss,)
        if case.error == "EMFILE" and case.for_good:
            allowed += (errors.Timeout,)
        said = set()
        for name, step in script(engine, marks, "c", GIVE_UP_S):
            try:
                step()
            except errors.TakhinError as error:
                wrong = f"{name}: {type(error).__name__}: {error.message}"
                demand(isinstance(error, allowed), f"not a documented outcome: {wrong}")
                demand(self.seen(case) >= case.number, f"before the fault: {wrong}")
                said.add(type(error).__name__)
        return said

    def _after(self, engine: LocalEngine, case: Case, said: set[str], survived: bool) -> str:
        backend = EngineBackend(engine, GIVE_UP_S)
        if engine._manager.environment.fault.reason:
            demand(case.final, f"offline after {case.error} in {case.call}")
            self._is_offline(engine, backend)
            return "offline"
        if engine.health().status == "healthy":
            # That there is no room for a checkpoint is no fault.
            believed = case.call == "syncfs" or (case.call == "flush" and case.error != "ENOSPC")
            demand(case.where != "seam" or not believed or survived, "a failed flush was believed")
        self.plan(None)
        observe(engine)
        for log in engine._manager.partitions():
            size = os.path.getsize(log.active.path(".log"))
            demand(size == log.active.size, f"{log.topic}-{log.partition} was not cut back to the batch's start")
        self._proceeds(engine, backend)
        if engine.health().status != "healthy":
            demand(case.final and case.where == "database", f"unhealthy: {engine.health().causes}")
            return "metadata offline"
        return "told, then went on" if said else "went on"

    def _is_offline(self, engine: LocalEngine, backend: EngineBackend) -> None:
        """Reads of what is known to be durable go on, nothing is written, and no flush is tried again."""
        demand(engine.health().status == "unhealthy", "offline, and healthy")
        flushes = self._flushes()
        for topic, partitions in backend.topics().items():
            for partition in range(partitions):
                try:
                    backend.produce(topic, partition, [(None, b"after", 1)], -1)
                except errors.LogOffline as error:
                    demand(error.code == "FAILED_PRECONDITION", error.code)
                else:
                    raise AssertionError(f"{topic}-{partition} took a record after the fault")
        time.sleep(0.03)
        demand(self._flushes() == flushes, "a flush was tried again")
        self.plan(None)
        observe(engine)
        time.sleep(0.03)
        demand(self._flushes() == 0, "a flush was tried again")

    def _flushes(self) -> int:
        return sum(_os.fault_counts()[call] for call in FLUSHES)

    def _proceeds(self, engine: LocalEngine, backend: EngineBackend) -> None:
        end = time.monotonic() + PROCEEDS_S
        for topic, partitions in backend.topics().items():
            for partition in range(partitions):
                while True:
                    try:
                        backend.produce(topic, partition, [(None, b"after", 1)], -1)
                        break
                    except errors.TakhinError as error:
                        demand(time.monotonic() < end, f"{topic}-{partition} does not proceed: {error!r}")
                        time.sleep(0.02)


def _promises(found: list[dict[str, Any]]) -> tuple[History, Any]:
    history = History(found, truth_of_marks(found))
    history.binding_acks = (-1, 1)
    for log in history.truth.values():
        log.maybe.add(b"after")  # type: ignore[attr-defined]
    return history, history.at_end()


def main(victims: Path, marks: Path, shard: int, shards: int, cases: int, seed: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    assert _os.DEBUG
    caller = Caller(victims, marks, shard)
    caller.prepare()
    everything = caller.all_cases()
    chosen = everything if cases == 0 else sample(everything, cases, seed)
    for case in chosen[shard::shards]:
        caller.check(case)
    return {"counts": caller.counts, "failures": caller.failures, "all": len(everything)}


def sample(everything: list[Case], cases: int, seed: int) -> list[Case]:
    """Each call first, with an errno by chance, then by chance."""
    random_ = random.Random(seed)
    shuffled = random_.sample(everything, len(everything))
    once = {(case.where, case.call, case.number): case for case in shuffled}
    first = list(once.values())
    rest = [case for case in shuffled if case not in set(first)]
    return [*random_.sample(first, len(first)), *rest][:cases]


if __name__ == "__main__":
    victims_, marks_, _scratch, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(victims_), Path(marks_), *map(int, numbers))))
