"""One run: a server, its clients, what is done to it, and what became of the records.

``python -m tests.crash.driver --seconds 60 --seed 1``. Everything that a run does is drawn from its
seed; when its threads come to do it is up to the machine, so that a seed repeats a run in kind, not
to the letter. The history of a failed run is what tells.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from takhin.v1 import takhin_pb2 as pb
from tests.debug_build import REPOSITORY

from . import history
from .admin import Admin
from .checker import check, report
from .consumers import GroupReader, Rereader, Tailer
from .drain import digest, drain, get_settings, remove_derived
from .model import Violation
from .nemesis import Nemesis, Tally
from .producers import IdempotentProducer, UnaryProducer
from .streams import IdempotentStreamProducer, StreamProducer
from .victim import NO_SETTINGS, Victim, linked
from .worker import Run, Worker

#: Where failed runs are kept.
KEPT = REPOSITORY / "build" / "crash"
GROUPS: tuple[tuple[str, tuple[int, ...]], ...] = (("one", (0,)), ("all", (0, 1, 2)))
#: Seconds after the last fault within which all producers must have had an answer, with slack for a busy machine:
#: the checker judges by its own, stricter rule.
LAST_QUIET_S = 6.0


@dataclass(slots=True)
class Outcome:
    seed: str
    directory: Path
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    #: Operations by what they were and how they ended: ("produce", "ok") -> number.
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    records_acknowledged: int = 0
    records_drained: int = 0
    records_read: int = 0
    events: int = 0
    violations: list[Violation] = field(default_factory=list)

    def summary(self) -> str:
        kills = self.tally.faults["kill"] + self.tally.faults["kill in recovery"]
        faults = ", ".join(f"{number} x {what}" for what, number in sorted(self.tally.faults.items()))
        commits = self.operations["set", "ok"]
        lines = [
            f"seed {self.seed}: {self.seconds:.0f} s, {kills} kills ({faults})",
            f"{self.records_acknowledged} records acknowledged at 1 or -1, {self.records_drained} drained, "
            f"{self.records_read} read by consumers; {commits} commits and other settings; {self.events} events",
            "produce calls: "
            + ", ".join(f"{self.operations['produce', outcome]} {outcome}" for outcome in ("ok", "fail", "info")),
        ]
        recoveries = sorted(self.tally.recoveries)
        if recoveries:
            lines.append(
                f"serving again after a kill: median {statistics.median(recoveries):.2f} s, "
                f"longest {recoveries[-1]:.2f} s, of {len(recoveries)}"
            )
        if self.tally.stops:
            lines.append(f"stopping: longest {max(self.tally.stops):.2f} s, of {len(self.tally.stops)}")
        return "\n".join(lines)

    def complaint(self) -> str:
        return f"{self.summary()}\nkept in {self.directory}\n{report(self.violations)}"


def workers_of(run: Run) -> tuple[Admin, list[Worker]]:
    """The administrator, and all others."""
    producers: list[Worker] = [
        UnaryProducer(run, "p-durable", batch=False, acks=(-1, None), pause=0.01),
        UnaryProducer(run, "p-written", batch=False, acks=(1,), pause=0.01),
        UnaryProducer(run, "p-mixed", batch=True, acks=(-1, 1, 0, None), pause=0.02),
        StreamProducer(run, "p-messages", batch=False, acks=(-1, 1, 0), pause=0.01),
        StreamProducer(run, "p-batches", batch=True, acks=(-1, -1, 1), pause=0.02),
        IdempotentProducer(run, "p-once", pause=0.02),
        IdempotentProducer(run, "p-again", pause=0.02),
        IdempotentStreamProducer(run, "p-pipelined", partition=1, pause=0.02),
    ]
    tailers: list[Worker] = [
        Tailer(run, f"c-{topic.name}-{partition}", topic, partition)
        for topic in (run.keep, run.trim)
        for partition in range(topic.partitions)
    ]
    groups: list[Worker] = [GroupReader(run, f"c-group-{name}", name, partitions) for name, partitions in GROUPS]
    return Admin(run, "a-admin"), [*producers, *tailers, Rereader(run, "c-again"), *groups]


def run_once(
    seed: str, seconds: float, directory: Path, mutant: str = "", settings: Mapping[str, object] = NO_SETTINGS
) -> Outcome:
    """A run of ``seconds``, and about eight more for its end. ``directory`` gets the history, the data and the
    server's log; ``settings`` go to the server as --set does."""
    directory.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(seed, directory, seconds)
    written = history.History(directory / "history.jsonl")
    product = Victim.frozen_product(directory / "product")
    victim = Victim(directory / "data", directory / "server.log", product, mutant, settings)
    try:
        _run(outcome, written, victim)
    finally:
        victim.kill()
        written.close()
    events = history.read(written.path)
    _count(outcome, events)
    outcome.violations = check(events)
    return outcome


def _run(outcome: Outcome, written: history.History, victim: Victim) -> None:
    victim.start()
    run = Run(outcome.seed, victim.address, written)
    admin, workers = workers_of(run)
    admin.set_up()
    workers.append(admin)
    for worker in workers:
        worker.start()
    nemesis = Nemesis(run, victim, time.monotonic() + outcome.seconds)
    nemesis.start()
    nemesis.join()
    outcome.tally = nemesis.tally
    if nemesis.problem is None:
        _wait_for_all(run, [worker.name for worker in workers if worker.name.startswith("p-")])
    written.note("stopping")
    # The last kill meets writers at work: what is on disk then is recovered twice, in a copy.
    victim.kill()
    written.note("down")
    run.stopping.set()
    for worker in workers:
        worker.link.close()
    for worker in workers:
        worker.join(40)
        if worker.is_alive():
            written.note("unexpected", text=f"{worker.name} did not end")
    try:
        _end(outcome, run, victim)
    except Exception as problem:
        written.note("unexpected", text=f"the end of the run failed: {problem!r}\n{victim.last_words()}")


def _wait_for_all(run: Run, producers: Sequence[str]) -> None:
    run.answered.clear()
    run.history.note("healed", what="the end")
    end = time.monotonic() + LAST_QUIET_S
    while time.monotonic() < end and not run.answered.issuperset(producers):
        time.sleep(0.02)


def _end(outcome: Outcome, run: Run, victim: Victim) -> None:
    data = victim.data_dir
    copy = victim.beside(data.with_name("data-copy"))
    shutil.copytree(data, copy.data_dir)
    try:
        for _ in range(2):
            copy.start()
            copy.kill()
            run.history.note("digest", name="the copy", files=digest(copy.data_dir))
    finally:
        copy.kill()
    shutil.rmtree(copy.data_dir)

    outcome.tally.recoveries.append(victim.start())
    with linked(victim.address) as stub:
        outcome.records_drained = drain(run, stub, "after the last kill")
        get_settings(run, stub, GROUPS)
    _stop(outcome, run, victim)
    remove_derived(data, (run.keep, run.trim))
    victim.start()
    with linked(victim.address) as stub:
        drain(run, stub, "indexes rebuilt")
        get_settings(run, stub, GROUPS)
        stub.HealthCheck(pb.HealthCheckRequest(), timeout=10)
    _stop(outcome, run, victim)


def _stop(outcome: Outcome, run: Run, victim: Victim) -> None:
    code, seconds = victim.terminate()
    outcome.tally.stops.append(seconds)
    run.history.note("exit", code=code, seconds=round(seconds, 3))


def _count(outcome: Outcome, events: Sequence[history.Event]) -> None:
    kinds: dict[int, history.Event] = {}
    ended: set[int] = set()
    for event in events:
        if event["e"] == "invoke":
            kinds[event["op"]] = event
        elif event["e"] in ("ok", "fail", "info"):
            invoke = kinds[event["op"]]
            ended.add(event["op"])
            outcome.operations[invoke["f"], event["e"]] += 1
            if invoke["f"] == "produce" and event["e"] == "ok" and event["base"] >= 0 and "repeat" not in invoke:
                outcome.records_acknowledged += len(invoke["values"])
        elif event["e"] == "read":
            outcome.records_read += len(event["records"])
    for op, invoke in kinds.items():
        if op not in ended:
            outcome.operations[invoke["f"], "info"] += 1
    outcome.events = len(events)


def new_seed() -> str:
    return uuid.uuid4().hex[:8]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run (60)")
    parser.add_argument("--seed", default="", help="of a run to be repeated; drawn when not given")
    parser.add_argument("--mutant", default="", help="a planted bug, by name: see tests/crash/mutants.py")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    given = parser.parse_args(arguments)
    seed = given.seed or new_seed()
    KEPT.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=KEPT))
    print(f"seed {seed}, in {directory}", flush=True)
    settings = dict(each.split("=", 1) for each in given.set)
    outcome = run_once(seed, given.seconds, directory, given.mutant, settings)
    if outcome.violations:
        print(outcome.complaint())
        return 1
    print(outcome.summary())
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
