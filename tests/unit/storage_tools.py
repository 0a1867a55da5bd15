"""A data directory with partitions for the tests of the log on disk, and short words for what they do with it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from takhin._fastlog import RecordBatch, RecordSpans
from takhin.clock import Clock, ManualClock
from takhin.config import LogConfig, TopicConfigs, TopicDefaults, topic_configs
from takhin.errors import DataLoss, TakhinError
from takhin.storage.manager import LogManager, PartitionSpec
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader
from takhin.storage.waiters import Placed

TOPIC = "orders"
TOPIC_ID = "00112233445566778899aabbccddeeff"
NOW = 1_700_000_000_000
#: Seconds that anything may take before a test gives up.
PATIENCE = 20.0

#: (offset, timestamp, key, value, headers), as ``Batches.records`` gives them.
Read = tuple[int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]

#: Nothing happens by itself; nothing is written beside the log.
QUIET = LogConfig(
    recovery_point_interval_ms=3_600_000,
    retention_check_interval_ms=2**31 - 1,
    min_free_bytes=0,
    reserve_bytes=0,
    scrub_bytes_per_second=0,
    flush_linger_ms=0,
)


def configs(**changes: Any) -> TopicConfigs:
    """A topic's configuration that keeps everything, in one segment, unless it says otherwise."""
    plain = topic_configs(QUIET, TopicDefaults(), {"retention.ms": "-1"})
    return msgspec.structs.replace(plain, **changes)


def frame(*values: bytes | None, timestamp: int = NOW, **more: Any) -> RecordBatch:
    return RecordSpans.from_records([(None, value, [], timestamp) for value in values]).frame(NOW, **more)


@dataclass
class Store:
    """One data directory, with the partitions of one topic. What the metadata would keep is kept here."""

    path: Path
    configs: TopicConfigs = field(default_factory=configs)
    partitions: int = 1
    log: LogConfig = QUIET
    clock: Clock = field(default_factory=lambda: ManualClock(NOW))
    #: Log start offsets by partition.
    starts: dict[int, int] = field(default_factory=dict)
    manager: LogManager | None = None

    def specs(self) -> list[PartitionSpec]:
        return [
            PartitionSpec(TOPIC, TOPIC_ID, number, self.configs, self.starts.get(number, 0))
            for number in range(self.partitions)
        ]

    def open(self) -> Store:
        manager = self.manager = LogManager(self.path, self.log, self.clock)
        manager.environment.save_log_start = self._save_log_start
        manager.lock()
        specs = self.specs()
        there = {spec.partition for spec in specs if self.directory(spec.partition).exists()}
        manager.open([spec for spec in specs if spec.partition in there])
        manager.create(spec for spec in specs if spec.partition not in there)
        return self

    def _save_log_start(self, topic_id: str, partition: int, offset: int) -> None:
        self.starts[partition] = offset

    def close(self) -> None:
        if self.manager is not None:
            self.manager.close()
            self.manager = None

    def reopen(self) -> Store:
        self.close()
        return self.open()

    def partition(self, number: int = 0) -> Partition:
        assert self.manager is not None
        found = self.manager.get(TOPIC_ID, number)
        assert found is not None
        return found

    def directory(self, number: int = 0) -> Path:
        return self.path / f"{TOPIC}-{number}"

    def files(self, suffix: str = "", number: int = 0) -> list[Path]:
        return sorted(path for path in self.directory(number).iterdir() if path.name.endswith(suffix))

    def contents(self, number: int = 0) -> dict[str, bytes]:
        """Every file of the partition, by name."""
        return {path.name: path.read_bytes() for path in self.files(number=number)}

    def quarantine(self) -> dict[str, bytes]:
        folder = self.path / "quarantine"
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}


def append(partition: Partition, *values: bytes | None, **more: Any) -> Placed:
    """One batch, on stable storage when it returns."""
    return append_batch(partition, frame(*values, **more))


def append_batch(partition: Partition, batch: RecordBatch) -> Placed:
    done = threading.Event()
    outcomes: list[Placed | TakhinError] = []

    def durable(outcome: Placed | TakhinError) -> None:
        outcomes.append(outcome)
        done.set()

    placed = partition.append(batch, durable)
    assert done.wait(PATIENCE), "nobody said that it is durable"
    (outcome,) = outcomes
    if isinstance(outcome, TakhinError):
        raise outcome
    assert outcome == placed
    return placed


def flush(partition: Partition) -> None:
    """What one round of the flusher does."""
    goal = partition.flush_goal()
    if goal is not None:
        partition.flush_to(goal)


def settle(partition: Partition) -> None:
    """Until everything appended is on stable storage."""
    wait_until(lambda: partition.flushed_offset == partition.log_end_offset)


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come to it in time"
        time.sleep(0.002)


def read_all(partition: Partition, offset: int = -1, max_bytes: int = 4096) -> list[Read]:
    """Everything readable from an offset (-1: the log start) on. Raises what reading raises."""
    reader = PartitionReader(partition, partition.log_start_offset if offset < 0 else offset)
    found: list[Read] = []
    while (batches := reader.read(max_bytes)) is not None:
        records = batches.records()
        assert records, "a read gives something"
        found += records
        reader.advance(batches.next_offset)
    reader.close()
    return found


def values(partition: Partition, offset: int = -1) -> list[tuple[int, bytes | None]]:
    return [(record[0], record[3]) for record in read_all(partition, offset)]


def read_around(partition: Partition, offset: int = -1) -> tuple[list[int], list[tuple[int, int]]]:
    """(offsets that can be read, ranges that are lost (first, last)), skipping as a consumer would."""
    reader = PartitionReader(partition, partition.log_start_offset if offset < 0 else offset)
    found: list[int] = []
    losses: list[tuple[int, int]] = []
    while True:
        try:
            batches = reader.read(4096)
        except DataLoss as loss:
            first, last = int(loss.fields["first_offset"]), int(loss.fields["last_offset"])
            assert first <= reader.next_offset <= last, "the place lies in the range to skip"
            losses.append((first, last))
            reader.advance(last + 1)
            continue
        if batches is None:
            assert reader.next_offset == partition.high_watermark, "nothing is passed over in silence"
            return found, losses
        found += [record[0] for record in batches.records()]
        reader.advance(batches.next_offset)


def flip(path: Path, position: int, mask: int = 0x20) -> None:
    """Change bits of one byte; a negative position counts from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def killed(make: Callable[..., Store], store: Store, name: str = "copy") -> Store:
    """A store on a copy of a live one's directory: what ``kill -9`` at this moment would leave."""
    path = store.path.parent / name
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store.path, path)
    kept = {each: getattr(store, each) for each in ("configs", "partitions", "log", "clock")}
    return make(name, starts=dict(store.starts), **kept)


def stores() -> Iterator[Callable[..., Store]]:
    """For a fixture: makes stores, in memory where there is a filesystem for that, and closes them at the end."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    made: list[Store] = []

    def make(name: str = "data", **changes: Any) -> Store:
        store = Store(**{"path": root / name, **changes})
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()
    shutil.rmtree(root)
