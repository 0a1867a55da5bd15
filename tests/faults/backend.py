"""What a workload runs against: the engine in this process, or a server over gRPC."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from takhin import errors
from takhin._fastlog import RecordSpans
from takhin.clock import Clock
from takhin.config import LimitsConfig, LogConfig, TopicDefaults
from takhin.engine.base import Appended, ProducerStamp
from takhin.engine.local import LocalEngine
from takhin.storage import flusher, others_writes

#: Seconds after which a call counts as hanging.
PATIENCE_S = 20.0

#: (key, value, timestamp)
Record = tuple[bytes | None, bytes, int]
Seen = list[tuple[int, bytes]]


class Backend(Protocol):
    def create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None: ...
    def delete_topic(self, name: str) -> None: ...
    def create_partitions(self, name: str, total: int) -> None: ...
    def topics(self) -> dict[str, int]: ...
    def produce(
        self, topic: str, partition: int, records: list[Record], acks: int, stamp: tuple[int, int, int] | None = None
    ) -> tuple[int, int]: ...
    def read(self, topic: str, partition: int, offset: int) -> Seen: ...
    def tail(self, topic: str, partition: int, offset: int, stop: threading.Event) -> Iterator[Seen]: ...
    def watermarks(self, topic: str, partition: int) -> tuple[int, int]: ...
    def commit(self, group: str, topic: str, partition: int, offset: int) -> None: ...
    def committed(self, group: str) -> dict[tuple[str, int], int]: ...
    def trim(self, topic: str, partition: int, offset: int) -> int: ...
    def new_producer(self) -> tuple[int, int]: ...


def open_engine(directory: Path, start: bool = True, **log: Any) -> LocalEngine:
    """An engine with few threads and small segments, in which two partitions that are due are a group,
    whatever others write, and every disk is a quick one. ``log`` are settings of ``LogConfig``."""
    flusher.FEWEST = 2
    flusher.QUICK_S = 60.0
    others_writes.FREE_BYTES = 1 << 60
    settings: dict[str, Any] = {
        "segment_bytes": 1024,
        "index_interval_bytes": 128,
        "flush_threads": 1,
        "recovery_threads": 1,
        "recovery_point_interval_ms": 3_600_000,
        "retention_check_interval_ms": 3_600_000,
        "reserve_bytes": 65536,
        "scrub_bytes_per_second": 0,
        **log,
    }
    engine = LocalEngine(
        directory, LogConfig(**settings), TopicDefaults(), LimitsConfig(), Clock(), CollectorRegistry()
    )
    if start:
        engine.start()
    return engine


class EngineBackend:
    def __init__(self, engine: LocalEngine, give_up_s: float = 0) -> None:
        """``give_up_s``: after so long a produce call is given up with ``Timeout``, as a server does it."""
        self.engine = engine
        self.give_up_s = give_up_s
        self._appends = 0

    def create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None:
        self.engine.create_topic(name, partitions, 0, configs)

    def delete_topic(self, name: str) -> None:
        self.engine.delete_topic(name)

    def create_partitions(self, name: str, total: int) -> None:
        self.engine.create_partitions(name, total)

    def topics(self) -> dict[str, int]:
        return {name: len(self.engine.describe_topic(name).partitions) for name in self.engine.topic_names()}

    def start_produce(
        self,
        topic: str,
        partition: int,
        records: list[Record],
        acks: int,
        stamp: tuple[int, int, int] | None = None,
    ) -> Callable[[], tuple[int, int]]:
        """Gives what waits for the answer."""
        done = threading.Event()
        outcomes: list[Appended | errors.TakhinError] = []

        def callback(outcome: Appended | errors.TakhinError) -> None:
            outcomes.append(outcome)
            done.set()

        spans = RecordSpans.from_records([(key, value, (), timestamp) for key, value, timestamp in records])
        # Flushed by this thread and by another, in turn; the one that is at it cannot give up.
        self._appends += 1
        alone = self._appends % 2 == 0 and not self.give_up_s
        self.engine.append(topic, partition, spans, acks, ProducerStamp(*stamp) if stamp else None, callback, alone)

        def wait() -> tuple[int, int]:
            if not done.wait(self.give_up_s or PATIENCE_S):
                assert self.give_up_s, "produce never came back"
                raise errors.Timeout("no answer in time")
            (outcome,) = outcomes
            if isinstance(outcome, errors.TakhinError):
                raise outcome
            return outcome.base_offset, outcome.last_offset

        return wait

    def produce(
        self, topic: str, partition: int, records: list[Record], acks: int, stamp: tuple[int, int, int] | None = None
    ) -> tuple[int, int]:
        return self.start_produce(topic, partition, records, acks, stamp)()

    def read(self, topic: str, partition: int, offset: int) -> Seen:
        reader = self.engine.open_reader(topic, partition, offset)
        try:
            batches = reader.read(2000)
            return [] if batches is None else [(record[0], record[3] or b"") for record in batches.records()]
        finally:
            reader.close()

    def tail(self, topic: str, partition: int, offset: int, stop: threading.Event) -> Iterator[Seen]:
        reader = self.engine.open_reader(topic, partition, offset)
        woken = threading.Event()
        with contextlib.closing(reader):
            while not stop.is_set():
                batches = reader.read(4000)
                if batches is not None:
                    yield [(record[0], record[3] or b"") for record in batches.records()]
                    reader.advance(batches.next_offset)
                    continue
                woken.clear()
                reader.park(woken.set)
                woken.wait(0.05)

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        found = self.engine.describe_partition(topic, partition)
        return found.log_start_offset, found.high_watermark

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        self.engine.commit_offsets(group, [(topic, partition, offset)])

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        return {(topic, number): offset for topic, number, offset in self.engine.committed_offsets(group, None)}

    def trim(self, topic: str, partition: int, offset: int) -> int:
        return self.engine.delete_records([(topic, partition, offset)])[0]

    def new_producer(self) -> tuple[int, int]:
        return self.engine.init_producer_id(0, 0)
