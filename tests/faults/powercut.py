"""Crash states of a trace: made, recovered and checked, as a process of its own.

    python -m tests.faults.powercut TRACE ROOT SCRATCH SHARD SHARDS STATES SEED

Prints one JSON object: how many states of each family were checked, and what broke.

======== ====================================================================================
family   state
======== ====================================================================================
lost     right before a flush has an effect: nothing that was not flushed survives
kept     after each change: everything survives, as after kill -9
torn     the last write survives up to one of its sectors, all else survives
tornlost the same, and nothing else survives that was not flushed
one      all survives but one change, seen right before that would have become durable
only     of what was not flushed, only one change survives
size     of one write, only the new size of its file survives
random   each change, or each sector of each write, survives or not; the place is random too
nested   as random, of a recovery from one of the above
======== ====================================================================================
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from takhin import metadata_files

from .disk import SIZE_ONLY, Change, Disk, Fate, FileChange, Keep, State, by_changes, by_sectors
from .history import History
from .recover import check_recovery, empty
from .trace import Event, Kind, read_trace

#: Of the states asked for, the share of each family; what a family does not need is random.
SHARES = {"lost": 0.14, "kept": 0.2, "torn": 0.08, "tornlost": 0.05, "one": 0.2, "only": 0.08, "size": 0.07}
#: Bases of nested states, of each shard.
NESTED_BASES = 2
NESTED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    #: The power fails before the event with this index.
    at: int
    family: str
    #: Index of the change concerned, or a seed.
    what: int = -1
    #: Sectors that survive.
    sectors: int = 0

    def keep(self) -> Keep:
        if self.family == "random":
            random_ = random.Random(self.what)
            survive = random_.choice((0.1, 0.5, 0.5, 0.9, 0.97))
            return random_.choice((by_sectors, by_changes))(random_, survive)
        rest = self.family in ("kept", "torn", "one")

        def keep(change: Change) -> Fate:
            if change.index != self.what:
                return rest
            if self.family in ("torn", "tornlost"):
                assert isinstance(change, FileChange)
                return change.sectors()[: self.sectors]
            return {"one": False, "only": True, "size": SIZE_ONLY}.get(self.family, rest)

        return keep


def all_cases(events: list[Event], root: str) -> dict[str, list[Case]]:
    """Every case of the families that are finite."""
    disk = Disk(root)
    cases: dict[str, list[Case]] = {family: [] for family in SHARES}
    changes: dict[int, Change] = {}

    def ends(change: Change, at: int) -> None:
        # Index files and seals are most of all changes, and no evidence of anything.
        dull = isinstance(change, FileChange) and change.inode.path.endswith(("index", ".seal"))
        if dull and change.index % 8:
            return
        cases["one"].append(Case(at, "one", change.index))
        cases["only"].append(Case(at, "only", change.index))
        if isinstance(change, FileChange) and change.size < 0:
            cases["size"].append(Case(at, "size", change.index))

    for event in events:
        change = disk.apply(event)
        if change is not None:
            changes[change.index] = change
            cases["kept"].append(Case(event.index + 1, "kept"))
            if isinstance(change, FileChange) and change.size < 0:
                for sectors in range(1, len(change.sectors())):
                    cases["torn"].append(Case(event.index + 1, "torn", change.index, sectors))
                    cases["tornlost"].append(Case(event.index + 1, "tornlost", change.index, sectors))
        if disk.made_durable:
            cases["lost"].append(Case(event.index, "lost"))
        for done in disk.made_durable:
            ends(done, event.index)
    cases["lost"].append(Case(len(events), "lost"))
    for left in disk.pending():
        ends(left, len(events))
    return cases


def choose(events: list[Event], root: str, states: int, seed: int) -> list[Case]:
    """So many cases, the same for the same trace and seed. 0: all, and as many random ones."""
    random_ = random.Random(seed)
    chosen: list[Case] = []
    for family, cases in all_cases(events, root).items():
        wanted = len(cases) if states == 0 else min(len(cases), int(states * SHARES[family]))
        chosen += random_.sample(cases, wanted)
    first = next((event.index for event in events if event.kind == Kind.MARK), 0)
    left = len(chosen) if states == 0 else states - len(chosen)
    for _ in range(left):
        # The time before the first promise is short of interest.
        at = random_.randrange(first if random_.random() < 0.95 else 0, len(events) + 1)
        chosen.append(Case(at, "random", random_.randrange(1 << 30)))
    return sorted(chosen, key=lambda case: (case.at, case.family, case.what, case.sectors))


class Shard:
    def __init__(self, events: list[Event], root: str, scratch: Path) -> None:
        self.events = events
        self.root = root
        self.scratch = scratch
        self.history = History.of_trace(events, root)
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self._seen: set[tuple[object, ...]] = set()

    def states(self, cases: list[Case]) -> Iterator[tuple[Case, State]]:
        """Cases in the order of their places, with their states; equal states are given once."""
        disk, at = Disk(self.root), 0
        for case in cases:
            while at < case.at:
                disk.apply(self.events[at])
                at += 1
            state = disk.state(case.keep())
            key = (self._promised(case.at), state.key())
            if key in self._seen:
                self.counts["equal"] += 1
                continue
            self._seen.add(key)
            yield case, state

    def _promised(self, at: int) -> int:
        return sum(index < at for index in self.history.indexes)

    def check(self, case: Case, state: State, number: int) -> None:
        self.counts[case.family] += 1
        directory = self.scratch / "state"
        with empty(directory):
            state.put(directory)
            self._recover(case, state, directory, twice=number % 3 == 0)

    def _recover(self, case: Case, state: State, directory: Path, twice: bool) -> None:
        try:
            check_recovery(directory, self.history, self.history.at(case.at), twice)
        except Exception as problem:
            kept = self.scratch / "kept" / f"{case.family}-{case.at}-{case.what}-{case.sectors}"
            with empty(kept):
                pass
            kept.mkdir(parents=True)
            state.put(kept)
            problem_text = "".join(traceback.format_exception_only(problem)).strip()
            where = traceback.extract_tb(problem.__traceback__)[-1]
            self.failures.append(
                {
                    "case": asdict(case),
                    "problem": problem_text,
                    "where": f"{where.filename}:{where.lineno}",
                    "kept": str(kept),
                }
            )

    # -- cut off again while it recovers ----------------------------------------------------------

    def check_nested(self, bases: list[tuple[Case, State]], states: int, seed: int) -> None:
        """Recover from these states under the shim, and cut those recoveries off."""
        inner, before = self.scratch / "inner", self.scratch / "before"
        trace = self.scratch / "inner-trace"
        trace.unlink(missing_ok=True)
        with empty(inner), empty(before):
            for number, (_, state) in enumerate(bases):
                for place in (inner, before):
                    (place / str(number)).mkdir()
                    state.put(place / str(number))
            _recover_traced(inner, trace)
            events = read_trace(trace)
            starts = [event.index for event in events if event.kind == Kind.MARK]
            random_ = random.Random(seed)
            cases = []
            for _ in range(states):
                number = random_.randrange(len(bases))
                end = starts[number + 1] if number + 1 < len(starts) else len(events)
                cases.append((random_.randrange(starts[number], end + 1), number, random_.randrange(1 << 30)))
            disk, at = Disk(str(inner), before), 0
            for until, number, what in sorted(cases):
                while at < until:
                    disk.apply(events[at])
                    at += 1
                state = disk.state(Case(until, "random", what).keep()).below(str(number))
                base = bases[number][0]
                self.counts["nested"] += 1
                with empty(self.scratch / "state") as directory:
                    state.put(directory)
                    self._recover(Case(base.at, f"nested-{base.family}", base.what), state, directory, twice=True)


def _recover_traced(inner: Path, trace: Path) -> None:
    from .shim import build_shim, environment

    command = [sys.executable, "-m", "tests.faults.recover_traced", str(inner), str(trace)]
    subprocess.run(command, env=environment(build_shim(), inner, trace), check=True, timeout=60)


def main(trace: Path, root: str, scratch: Path, shard: int, shards: int, states: int, seed: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    metadata_files.WAL_RESERVE_BYTES = 1 << 16  # each start would fill 4 MiB with zeros
    started = time.monotonic()
    events = read_trace(trace)
    cases = choose(events, root, states, seed)[shard::shards]
    work = Shard(events, root, scratch)
    random_ = random.Random(seed + shard)
    wanted = set(random_.sample(range(len(cases)), min(len(cases), NESTED_BASES if states else 10 * NESTED_BASES)))
    bases = []
    for number, (case, state) in enumerate(work.states(cases)):
        work.check(case, state, number)
        if number in wanted:
            bases.append((case, state.copy()))
    if bases:
        work.check_nested(bases, max(int(len(cases) * NESTED_SHARE), 10), seed + shard)
    shutil.rmtree(scratch / "state", ignore_errors=True)
    return {"counts": work.counts, "failures": work.failures, "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    trace_, root_, scratch_, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(trace_), root_, Path(scratch_), *map(int, numbers))))
