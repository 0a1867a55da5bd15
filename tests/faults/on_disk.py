"""An engine on a disk that is about to fail, as a process of its own.

    python -m tests.faults.on_disk produce DIRECTORY MARKS SIZE   until a line comes, or the log is offline
    python -m tests.faults.on_disk check DIRECTORY MARKS          recover, and hold it against the marks

SIZE is that of a record's value, bytes.

``produce`` prints ``ready`` once it produces, and at its end a JSON object: the errors that there were, whether
the log is offline, and the health. Nothing is stopped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from takhin import errors
from takhin.engine.local import LocalEngine

from .backend import EngineBackend, open_engine
from .history import History, demand, truth_of_marks
from .recover import check_recovery
from .session import Session
from .trace import Marks, read_trace

#: Nobody is without an answer for longer, seconds.
GIVE_UP_S = 10.0
#: Producers and their acks.
WORKERS = {"x": -1, "y": -1, "z": 1}


def produce(directory: Path, marks: Path, size: int) -> dict[str, object]:
    engine = open_engine(
        directory, segment_bytes=1 << 20, flush_threads=2, recovery_point_interval_ms=100, min_free_bytes=0
    )
    session = Session(EngineBackend(engine, GIVE_UP_S), Marks(marks), "a")
    session.marks_sends = True
    session.create("t", 2, segment_bytes=1 << 20)
    over = threading.Event()
    said: list[str] = []

    def work(name: str, acks: int) -> None:
        n = 0
        while not over.is_set():
            n += 1
            try:
                session.produce(name, "t", n % 2, acks, 8, size)
                time.sleep(0.003)
            except errors.LogOffline as error:
                said.append(type(error).__name__)
                return
            except errors.TakhinError as error:
                said.append(type(error).__name__)
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(name, acks), daemon=True) for name, acks in WORKERS.items()]
    for thread in threads:
        thread.start()
    while engine.describe_partition("t", 0).high_watermark < 16:
        assert any(thread.is_alive() for thread in threads), said
        time.sleep(0.005)
    print("ready", flush=True)

    def wait_for_the_end() -> None:
        if sys.stdin.readline():
            over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    for thread in threads:
        thread.join()
    offline = bool(engine._manager.environment.fault.reason)
    unreadable = stays_offline(engine) if offline else 0
    return {
        "said": sorted(set(said)),
        "offline": engine._manager.environment.fault.reason if offline else "",
        "health": engine.health().status,
        "unreadable": unreadable,
    }


def stays_offline(engine: LocalEngine) -> int:
    """Nothing is taken any more. Gives how many partitions cannot be read."""
    backend = EngineBackend(engine, GIVE_UP_S)
    unreadable = 0
    for partition in (0, 1):
        try:
            backend.produce("t", partition, [(None, b"after", 1)], -1)
        except errors.LogOffline:
            pass
        else:
            raise AssertionError("a record was taken after the fault")
        start, end = backend.watermarks("t", partition)
        try:
            while start < end:
                seen = backend.read("t", partition, start)
                demand(bool(seen), f"nothing at {start}")
                start = seen[-1][0] + 1
        except errors.DataLoss:
            unreadable += 1
    return unreadable


def check(directory: Path, marks: Path) -> dict[str, object]:
    found = [event.mark for event in read_trace(marks)]
    history = History(found, truth_of_marks(found))
    check_recovery(directory, history, history.at_end(), twice=True)
    return {"acknowledged": sum(len(mark["vals"]) for mark in found if mark["m"] == "ack" and mark["acks"] == -1)}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    what, directory_, marks_, *size_ = sys.argv[1:]
    work_ = {"produce": produce, "check": check}[what]
    result = work_(Path(directory_), Path(marks_), *map(int, size_))
    print(json.dumps(result), flush=True)
    os._exit(0)
