"""A short play in one process: an engine, one who calls it, and a history of what was answered.

A kill is a copy of the data directory as it is, on which the next engine starts; a power cut is a copy
with only what was flushed.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from takhin._fastlog import RecordSpans
from takhin.clock import Clock
from takhin.config import LimitsConfig, LogConfig, TopicDefaults
from takhin.engine.base import ACKS_DURABLE, Appended, ProducerStamp
from takhin.engine.local import LocalEngine
from takhin.errors import TakhinError

from . import values
from .disk import Disk
from .drain import digest
from .history import History
from .victim import DEFINITE

#: Seconds for which an answer, or a stop, is waited for.
PATIENCE = 1.5
TOPIC = "t"
#: Timestamps begin here and go up by 10 a record.
FIRST_MS = 1_700_000_000_000


class Stage:
    def __init__(self, directory: Path, disk: Disk, **log: Any) -> None:
        self.directory = directory
        self.disk = disk
        self.history = History(directory / "history.jsonl")
        self.engine: LocalEngine
        self.data = directory / "data-0"
        self._log = LogConfig(
            **{
                "segment_bytes": 1024,
                "index_interval_bytes": 128,
                "recovery_point_interval_ms": 3_600_000,
                "reserve_bytes": 0,
                "min_free_bytes": 0,
                **log,
            }
        )
        self._life = 0
        self._sequence = 0

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self.disk.begin(self.data)
        self.engine = LocalEngine(self.data, self._log, TopicDefaults(), LimitsConfig(), Clock(), CollectorRegistry())
        self.engine.start()

    def create(self, topic: str = TOPIC, partitions: int = 1) -> None:
        self.engine.create_topic(topic, partitions, 1, {"retention.ms": "-1"})

    def stop(self) -> None:
        self.disk.delay = 0.0
        # A planted bug may keep it from stopping.
        thread = threading.Thread(target=self.engine.stop, daemon=True)
        thread.start()
        thread.join(PATIENCE)

    def end_abruptly(self, *, power_cut: bool = False) -> None:
        """``start`` goes on from what is left."""
        self._life += 1
        target = self.directory / f"data-{self._life}"
        self.disk.image(target, power_cut=power_cut)
        self.history.note("down")
        if power_cut:
            self.history.note("power_cut")
        # What the old one still does, it does to the old directory.
        self.stop()
        self.data = target

    def kill(self) -> None:
        self.end_abruptly()

    def recovered_digest(self, name: str) -> None:
        """Of a recovery of a copy of the data directory; the engine does not run."""
        copy, data = self.directory / "copy", self.data
        if not copy.exists():
            shutil.copytree(data, copy)
        self.data = copy
        self.start()
        self._life += 1
        after = self.directory / f"after-{self._life}"
        self.disk.image(after, power_cut=False)
        self.stop()
        self.history.note("digest", name=name, files=digest(after))
        shutil.rmtree(copy)
        after.rename(copy)
        self.data = data

    # -- producing ----------------------------------------------------------------------------

    def produce(
        self,
        count: int = 1,
        *,
        acks: int = ACKS_DURABLE,
        partition: int = 0,
        stamp: ProducerStamp | None = None,
        wait: bool = True,
        **noted: Any,
    ) -> int:
        """One batch of so many records; gives the operation. ``noted`` goes into the history."""
        first = self._sequence
        self._sequence += count
        return self.send(first, count, acks=acks, partition=partition, stamp=stamp, wait=wait, **noted)

    def send(
        self,
        first: int,
        count: int,
        *,
        acks: int = ACKS_DURABLE,
        partition: int = 0,
        stamp: ProducerStamp | None = None,
        wait: bool = True,
        **noted: Any,
    ) -> int:
        """The values from ``first`` on, also once more."""
        made = [values.make("p", first + n, b"%040d" % n) for n in range(count)]
        stamps = {"idempotent": True} if stamp else {}
        op = self.history.invoke(
            "p",
            "produce",
            topic=TOPIC,
            partition=partition,
            acks=acks,
            values=[identity for identity, _ in made],
            **stamps,
            **noted,
        )
        records = RecordSpans.from_records(
            [(None, value, (), FIRST_MS + 10 * (first + n)) for n, (_, value) in enumerate(made)]
        )
        answered = threading.Event()
        life = self._life

        def done(outcome: Appended | TakhinError) -> None:
            if self._life != life:
                return  # whoever asked has gone down with that life
            if isinstance(outcome, Appended):
                self.history.ok(op, partition=outcome.partition, base=outcome.base_offset)
            else:
                self._failed(op, outcome)
            answered.set()

        self.engine.append(TOPIC, partition, records, acks, stamp, done)
        if wait:
            answered.wait(PATIENCE)
        return op

    def _failed(self, op: int, error: TakhinError) -> None:
        (self.history.fail if error.code in DEFINITE else self.history.info)(op, error.code, error.reason)

    # -- looking ------------------------------------------------------------------------------

    def offsets(self, partition: int = 0) -> tuple[int, int]:
        """(log start, high watermark)."""
        op = self.history.invoke("c", "offsets", topic=TOPIC, partition=partition)
        at = self.engine.describe_partition(TOPIC, partition)
        self.history.ok(op, hw=at.high_watermark, start=at.log_start_offset)
        return at.log_start_offset, at.high_watermark

    def read(self, offset: int, partition: int = 0, max_bytes: int = 200) -> None:
        """To the end, in small parts, as one stream; over damage, as another."""
        while offset >= 0:
            op = self.history.invoke("c", "stream", topic=TOPIC, partition=partition, offset=offset, until_end=True)
            reader = self.engine.open_reader(TOPIC, partition, offset)
            offset = -1
            try:
                while (batches := reader.read(max_bytes)) is not None:
                    start, hw = reader.watermarks()
                    records = _listed(batches)
                    self.history.note("read", op=op, records=records, hw=hw, start=start)
                    reader.advance(batches.next_offset)
                self.history.ok(op, position=reader.next_offset)
            except TakhinError as error:
                self._failed(op, error)
                if error.code == "DATA_LOSS":
                    offset = int(error.fields["last_offset"]) + 1
            finally:
                reader.close()

    def drain(self, name: str = "end", partitions: Sequence[int] = (0,)) -> None:
        for partition in partitions:
            at = self.engine.describe_partition(TOPIC, partition)
            records: list[list[Any]] = []
            losses: list[list[int]] = []
            reader = self.engine.open_reader(TOPIC, partition, at.log_start_offset)
            while reader.next_offset < at.high_watermark:
                try:
                    batches = reader.read(1 << 20)
                except TakhinError as error:
                    losses.append([int(error.fields["first_offset"]), int(error.fields["last_offset"])])
                    reader.advance(losses[-1][1] + 1)
                    continue
                if batches is None:
                    break
                records += _listed(batches)
                reader.advance(batches.next_offset)
            reader.close()
            place = {"topic": TOPIC, "partition": partition}
            self.history.note(
                "drain",
                name=name,
                **place,
                records=records,
                losses=losses,
                hw=at.high_watermark,
                start=at.log_start_offset,
            )
            self._ask_times(name, partition, records)

    def _ask_times(self, name: str, partition: int, records: list[list[Any]]) -> None:
        asked = sorted({record[2] + shift for record in records for shift in (-1, 0, 1)})
        answers = []
        for timestamp in asked:
            try:
                found = self.engine.offset_at_time(TOPIC, partition, timestamp)
            except TakhinError:
                continue  # damage, which the drain has told of
            answers.append([timestamp, found.offset, found.timestamp])
        self.history.note("times", name=name, topic=TOPIC, partition=partition, answers=answers)

    # -- settings -----------------------------------------------------------------------------

    def commit(self, offsets: Sequence[int]) -> None:
        """By partition, all at once."""
        ops = [self.history.invoke("g", "set", key=f"commit/{n}", value=at) for n, at in enumerate(offsets)]
        self.engine.commit_offsets("g", [(TOPIC, n, at) for n, at in enumerate(offsets)])
        for op in ops:
            self.history.ok(op)

    def fetch(self, partitions: int) -> None:
        for n in range(partitions):
            op = self.history.invoke("g", "get", key=f"commit/{n}")
            [(_, _, found)] = self.engine.committed_offsets("g", [(TOPIC, n)])
            self.history.ok(op, value=found if found >= 0 else None)

    def delete_records(self, offset: int) -> None:
        op = self.history.invoke("a", "delete_records", topic=TOPIC, partition=0, offset=offset)
        [start] = self.engine.delete_records([(TOPIC, 0, offset)])
        self.history.ok(op, start=start)

    def set_topic(self, name: str, change: Callable[[str], Any], value: object) -> None:
        op = self.history.invoke("a", "set", key=f"topic/{name}", value=value)
        change(name)
        self.history.ok(op)

    def get_topic(self, name: str) -> None:
        op = self.history.invoke("a", "get", key=f"topic/{name}")
        self.history.ok(op, value=True if name in self.engine.topic_names() else None)

    # -- the files ----------------------------------------------------------------------------

    def segments(self) -> list[Path]:
        """Of partition 0, by base offset."""
        return sorted((self.data / f"{TOPIC}-0").glob("*.log"))

    def settle(self) -> None:
        """Let what is under way in the background come to its end."""
        time.sleep(0.05)


def _listed(batches: Any) -> list[list[Any]]:
    return [[offset, values.identity_of(value), at] for offset, at, _, value, _ in batches.records()]
