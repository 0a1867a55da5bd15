"""A small workload of one thread that makes every kind of system call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from takhin.engine.local import LocalEngine

from .backend import EngineBackend
from .session import UNKNOWN, Session
from .trace import Marks

Step = tuple[str, Callable[[], object]]


def script(engine: LocalEngine, marks: Marks, life: str = "a", give_up_s: float = 0) -> Iterator[Step]:
    """Steps by name, to be taken in order. ``life`` is part of the names of topics and producers."""
    session = Session(EngineBackend(engine, give_up_s), marks, life)
    n, d = life + "n", life + "d"
    session.marks_sends = True
    house = engine._manager
    stamp = (0, 0)

    def new_producer() -> None:
        nonlocal stamp
        stamp = session.new_producer()

    sequence = 0

    def idempotent(count: int, acks: int) -> None:
        nonlocal sequence
        first = sequence
        try:
            session.produce("p", n, 1, acks, count, 30, (*stamp, first))
        except UNKNOWN:
            sequence = first + count  # these may be in the log: others get other sequences
            raise
        sequence = first + count

    def checkpoint() -> None:
        # In a thread of its own, as in life: it waits until everything is flushed.
        thread = threading.Thread(target=house._safely, args=("checkpoint", house.write_checkpoint), daemon=True)
        thread.start()
        thread.join(2)

    def together() -> None:
        # Nobody waits, so they linger, and are flushed at once.
        for partition in (0, 1):
            session.produce("x", n, partition, 1)
        give_up = time.monotonic() + 1
        while any(log.flushed_offset < log.log_end_offset for log in house.partitions()):
            if house.environment.fault.reason or time.monotonic() > give_up:
                break
            time.sleep(0.002)

    yield "create", lambda: session.create(n, 2)
    yield "produce", lambda: session.produce("x", n, 0, -1)
    yield "produce", lambda: session.produce("x", n, 0, 1, 2, 330)
    yield "produce", lambda: session.produce("x", n, 0, -1, 5)
    yield "together", together
    yield "roll", lambda: session.produce("x", n, 0, -1, 1, 300)
    yield "producer", new_producer
    yield "produce", lambda: idempotent(2, -1)
    yield "commit", lambda: session.commit(n, 0, 3)
    yield "checkpoint", checkpoint
    yield "produce", lambda: idempotent(1, 1)
    yield "roll", lambda: session.produce("x", n, 0, 1, 1, 600)
    yield "produce", lambda: session.produce("x", n, 0, -1, 1, 500)
    yield "read", lambda: session.see(n, 0)
    yield "trim", lambda: session.trim(n, 0, min(9, session.backend.watermarks(n, 0)[1]))
    yield "retain", lambda: house._safely("retention", house.retain)
    yield "create", lambda: session.create(d, 1)
    yield "produce", lambda: session.produce("x", d, 0, -1)
    yield "delete", lambda: session.delete(d)
    yield "produce", lambda: idempotent(1, -1)
    yield "produce", lambda: session.produce("x", n, 0, -1, 2)
    yield "read", lambda: session.see(n, 1)
    yield "checkpoint", checkpoint
