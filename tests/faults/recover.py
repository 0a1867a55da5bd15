"""Starts an engine on what a crash left, and looks at all of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from takhin.engine.base import ACKS_DURABLE
from takhin.engine.local import LocalEngine

from .backend import EngineBackend, open_engine
from .history import Broken, History, Observed, Promises, demand
from .records import timestamp_of
from .session import GROUP


def observe(engine: LocalEngine) -> Observed:
    """Raises ``TakhinError`` where something cannot be read."""
    observed = Observed()
    backend = EngineBackend(engine)
    observed.topics = backend.topics()
    for topic, partitions in observed.topics.items():
        for partition in range(partitions):
            start, end = backend.watermarks(topic, partition)
            records: list[tuple[int, bytes, int]] = []
            reader = engine.open_reader(topic, partition, start)
            while (batches := reader.read(5000)) is not None:
                records += [(offset, value or b"", time) for offset, time, _, value, _ in batches.records()]
                reader.advance(batches.next_offset)
            reader.close()
            observed.logs[topic, partition] = (start, end, records)
    observed.committed = backend.committed(GROUP)
    return observed


def log_bytes(directory: Path) -> dict[str, bytes]:
    """Everything that is evidence: the segments, and what was set aside."""
    found = {path for pattern in ("*/*.log", "quarantine/**/*") for path in directory.glob(pattern)}
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(found) if path.is_file()}


@contextmanager
def engine_on(directory: Path) -> Iterator[LocalEngine]:
    engine = open_engine(directory)
    try:
        yield engine
    finally:
        engine.stop()


def check_recovery(directory: Path, history: History, promises: Promises, twice: bool) -> None:
    """Recover what is in ``directory``, which is changed; ``twice``: and again, and go on working.

    Raises ``Broken``, or what the engine raises.
    """
    with engine_on(directory) as engine:
        observed = observe(engine)
        promises.check(observed)
        if not twice:
            return
        check_times(engine, history, promises, observed)
        saved = log_bytes(directory)
    with engine_on(directory) as engine:
        demand(observe(engine) == observed, "the second start gives other answers than the first")
        demand(log_bytes(directory) == saved, "the second start changed segments")
        go_on(engine, promises, observed)


def check_times(engine: LocalEngine, history: History, promises: Promises, observed: Observed) -> None:
    for (topic, partition), (start, end, records) in observed.logs.items():
        for number in range(0, len(records), 7):
            wanted = records[number][2] + (number % 3) - 1
            found = engine.offset_at_time(topic, partition, wanted).offset
            expected = next((offset for offset, _, time in records if time >= wanted), -1)
            demand(found == expected, f"{topic}-{partition} ({start} to {end}) at {wanted}: {found}, not {expected}")


def go_on(engine: LocalEngine, promises: Promises, observed: Observed) -> None:
    """A repeat gets its first answer, new work new offsets and ids."""
    backend = EngineBackend(engine)
    for place, base, values, stamp in promises.newest.values():
        topic, _, partition = place
        if not promises.is_current(place) or observed.logs[topic, partition][0] > base:
            continue
        records = [
            (None, value.encode(), timestamp_of(value.split(".")[0], int(value.split(".")[1]))) for value in values
        ]
        again = backend.produce(topic, partition, records, ACKS_DURABLE, stamp)
        demand(again[0] == base, f"a repeat of {stamp} in {topic}-{partition} went to {again[0]}, not to {base}")
    for (topic, partition), (_, end, _) in observed.logs.items():
        got, _ = backend.produce(topic, partition, [(None, b"new", 1)], ACKS_DURABLE)
        demand(got == end, f"{topic}-{partition}: a new record went to {got}, not to {end}")
    producer_id, _ = backend.new_producer()
    demand(producer_id > promises.last_producer_id, f"producer id {producer_id} was given out before")


@contextmanager
def empty(directory: Path) -> Iterator[Path]:
    """An empty directory, removed at the end."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


__all__ = ["Broken", "check_recovery", "empty", "engine_on", "log_bytes", "observe"]
