"""The workload that is cut off: topics, every kind of produce, rolls, commits, trims, retention,
deletions, a kill, a recovery, clean restarts. Run as a process under the shim:

    python -m tests.faults.workload DIRECTORY TRACE SEED LIFE

where LIFE is ``a`` (ends with kill -9), ``b`` (recovers, works on, stops cleanly) or ``c`` (a clean
start, a little work, a clean stop).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .backend import EngineBackend, open_engine
from .session import Session
from .trace import Marks


def at_once(*works: Callable[[], None]) -> None:
    """Run each in a thread; the first failure is raised."""
    problems: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def first_life(session: Session, seed: int, checkpoint: Callable[[], None]) -> None:
    session.create("t", 2)
    session.create("kept", 1, retention_bytes=2500)
    session.create("gone", 1)
    session.commit("t", 0, 0)
    stop = threading.Event()

    def checkpoints() -> None:
        while not stop.wait(0.01):
            checkpoint()

    tails = [
        threading.Thread(target=checkpoints, daemon=True),
        threading.Thread(target=session.keep_tailing, args=("t", 0, stop, 7), daemon=True),
        threading.Thread(target=session.keep_tailing, args=("kept", 0, stop, 15), daemon=True),
    ]
    for tail in tails:
        tail.start()
    places = [("t", 0), ("t", 1), ("kept", 0)]
    at_once(
        lambda: session.produce_many("x", places, 22, seed),
        lambda: session.produce_many("y", places, 22, seed + 1),
        lambda: session.produce_idempotent("p", "t", 0, 14, seed + 2),
        lambda: session.produce_many("z", [("gone", 0)], 6, seed + 3),
    )
    session.see("gone", 0)
    session.commit("gone", 0, 2)
    session.trim("t", 0, min(session.backend.watermarks("t", 0)[1], 9))
    session.delete("gone")
    session.create("gone", 1)
    session.grow("kept", 2)
    at_once(
        lambda: session.produce_idempotent("q", "t", 1, 8, seed + 4),
        lambda: session.produce_many("w", [*places, ("gone", 0), ("kept", 1)], 14, seed + 5),
    )
    session.see("kept", 0)
    stop.set()
    for tail in tails:
        tail.join()
    # Nobody reads or waits here: it is not flushed when the process is killed.
    session.produce("v", "t", 1, 1, 3, 300)
    session.produce("v", "t", 1, 0, 1, 50)


def second_life(session: Session, seed: int) -> None:
    for topic, partitions in session.backend.topics().items():
        for partition in range(partitions):
            session.see(topic, partition)
    session.produce_many("x", [("t", 0), ("t", 1)], 10, seed)
    session.commit("t", 0, session.backend.watermarks("t", 0)[1])
    session.trim("t", 1, session.backend.watermarks("t", 1)[1])
    session.produce_idempotent("p", "t", 1, 5, seed)
    session.delete("gone")
    session.produce_many("y", [("kept", 0)], 8, seed)


def third_life(session: Session, seed: int) -> None:
    session.create("late", 1)
    session.produce_many("x", [("t", 0), ("late", 0), ("kept", 1)], 6, seed)
    # To many at once, without a roll: their files are flushed side by side.
    session.create("wide", 16, segment_bytes=1 << 20)

    def durable(partition: int) -> None:
        for _ in range(5):
            session.produce(f"u{partition}", "wide", partition, -1)

    at_once(*(partial(durable, partition) for partition in range(16)))
    session.see("late", 0)
    session.commit("late", 0, session.backend.watermarks("late", 0)[1])


def main(directory: Path, trace: Path, seed: int, life: str) -> None:
    logging.disable(logging.CRITICAL)
    marks = Marks(trace)
    engine = open_engine(directory, recovery_point_interval_ms=100, retention_check_interval_ms=100, flush_threads=2)
    backend = EngineBackend(engine)
    if life == "a":
        first_life(Session(backend, marks, life), seed, engine._manager.write_checkpoint)
        os.kill(os.getpid(), signal.SIGKILL)
    session = Session(backend, marks, life, {"t": 1, "kept": 1, "gone": 2})
    (second_life if life == "b" else third_life)(session, seed)
    time.sleep(0.12)  # a checkpoint, and a look for what retention lets go
    engine.stop()
    marks("stopped")
    marks.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
