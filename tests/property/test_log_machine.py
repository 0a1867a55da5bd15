"""The log on disk against a list: appends, reads, times, retention, rolls, stops, kills and lost helper files."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from takhin import errors
from takhin._fastlog import RecordSpans
from takhin.clock import ManualClock
from takhin.storage import retention
from takhin.storage.flusher import IDLE
from takhin.storage.reader import find_time
from tests.reference.log_model import Content, LogModel
from tests.unit.storage_tools import (
    NOW,
    QUIET,
    Store,
    append_batch,
    configs,
    flip,
    read_all,
    settle,
    wait_until,
)

contents = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=5),
        st.none() | st.binary(max_size=40) | st.integers(100, 900).map(bytes),
        st.integers(NOW - 60, NOW + 60) | st.integers(1, 50),
    ),
    min_size=1,
    max_size=4,
)
WHOLE_DAY = 86_400_000


class LogMachine(RuleBasedStateMachine):
    @initialize(
        segment_bytes=st.sampled_from([1024, 3000, 1 << 20]),
        interval=st.sampled_from([0, 200, 4096]),
        mode=st.sampled_from(["commit", "commit", "interval"]),
    )
    def begin(self, segment_bytes: int, interval: int, mode: str) -> None:
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.generation = 0
        self.model = LogModel()
        self.clock = ManualClock(NOW)
        self.log = msgspec.structs.replace(QUIET, flush=mode, flush_interval_ms=60_000, flush_linger_ms=60_000)
        self.store = Store(
            self.root / "0",
            configs(segment_bytes=segment_bytes, index_interval_bytes=interval),
            log=self.log,
            clock=self.clock,
        ).open()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.root)

    # -- what callers do ----------------------------------------------------------------------

    @rule(contents=contents, wait=st.booleans())
    def append(self, contents: list[Content], wait: bool) -> None:
        batch = RecordSpans.from_records([(key, value, [], time) for key, value, time in contents]).frame(NOW)
        partition = self.store.partition()
        placed = append_batch(partition, batch) if wait else partition.append(batch, None)
        base_offset = self.model.append(contents)
        assert (placed.base_offset, placed.last_offset) == (base_offset, self.model.log_end_offset - 1)

    # What is known of producers whose records are gone depends on the checkpoint.
    @precondition(lambda self: self.model.log_start_offset == 0)
    @rule(
        contents=contents,
        producer=st.integers(1, 3),
        epoch=st.sampled_from([0, 0, 0, 0, 1, 2]),
        back=st.sampled_from([0, 0, 0, 1, 2, 5, -1]),
    )
    def produce(self, contents: list[Content], producer: int, epoch: int, back: int) -> None:
        known_epoch, offsets = self.model.producer(producer)
        sequence = max(len(offsets) - back, 0) if known_epoch == epoch else 0
        batch = RecordSpans.from_records([(key, value, [], time) for key, value, time in contents]).frame(
            NOW, producer_id=producer, producer_epoch=epoch, base_sequence=sequence
        )
        end = self.model.log_end_offset
        expected = self.model.produce(producer, epoch, sequence, contents)
        try:
            found: int | str = self.store.partition().append(batch, None).base_offset
        except errors.ProducerFenced:
            found = "fenced"
        except errors.OutOfOrderSequence:
            found = "gap"
        assert found == expected
        assert self.store.partition().log_end_offset == self.model.log_end_offset >= end

    @rule(place=st.floats(0, 1), max_bytes=st.sampled_from([1, 500, 1 << 20]))
    def read(self, place: float, max_bytes: int) -> None:
        settle_now(self.store)
        start, end = self.model.log_start_offset, self.model.log_end_offset
        offset = start + int(place * (end - start))
        found = read_all(self.store.partition(), offset, max_bytes)
        assert [(n, (key, value, time)) for n, time, key, value, _ in found] == self.model.read(offset)

    @rule(time=st.integers(NOW - 62, NOW + 62) | st.integers(0, 52))
    def search(self, time: int) -> None:
        settle_now(self.store)
        assert find_time(self.store.partition(), time) == self.model.offset_at_time(time)

    @rule(place=st.floats(0, 1))
    def delete_records(self, place: float) -> None:
        settle_now(self.store)
        offset = int(place * self.model.log_end_offset)
        self.model.log_start_offset = max(self.model.log_start_offset, offset)
        assert self.store.partition().raise_log_start(offset) == self.model.log_start_offset
        retention.remove_unused(self.store.partition())

    @rule(keep=st.integers(0, 8000))
    def retain_by_size(self, keep: int) -> None:
        settle_now(self.store)
        self.retain(retention_bytes=keep)
        partition = self.store.partition()
        assert partition.size_bytes() >= min(keep, partition.size_bytes())
        assert len(partition.segments) == 1 or partition.size_bytes() - partition.segments[0].size < keep

    @rule(age=st.integers(0, 130))
    def retain_by_age(self, age: int) -> None:
        settle_now(self.store)
        self.clock.set_wall(NOW + 65)
        before = self.model.read(0)
        self.retain(retention_ms=age)
        self.clock.set_wall(NOW)
        gone = [content for n, content in before if n < self.model.log_start_offset]
        assert all(time < NOW + 65 - age for _, _, time in gone)

    def retain(self, **changes: int) -> None:
        partition = self.store.partition()
        kept, partition.configs = partition.configs, msgspec.structs.replace(partition.configs, **changes)
        retention.retain(partition)
        partition.configs = kept
        settle_now(self.store)
        assert self.model.log_start_offset <= partition.log_start_offset <= self.model.log_end_offset
        self.model.log_start_offset = partition.log_start_offset

    @rule()
    def roll(self) -> None:
        self.store.partition().roll()
        settle_now(self.store)

    @rule()
    def checkpoint(self) -> None:
        assert self.store.manager is not None
        self.store.manager.write_checkpoint()

    # -- what happens to servers ----------------------------------------------------------------

    @rule(harm=st.booleans(), seed=st.integers(0, 2**32))
    def stop_and_start(self, harm: bool, seed: int) -> None:
        self.store.close()
        if harm:
            self.harm(random.Random(seed))
        self.store.open()

    @rule(cut=st.booleans(), harm=st.booleans(), seed=st.integers(0, 2**32))
    def kill_and_start(self, cut: bool, harm: bool, seed: int) -> None:
        chance = random.Random(seed)
        flushed = self.store.partition().flushed_offset
        end = self.store.partition().log_end_offset
        self.generation += 1
        path = self.root / str(self.generation)
        shutil.copytree(self.store.path, path)
        old, self.store = (
            self.store,
            Store(path, self.store.configs, log=self.log, clock=self.clock, starts=self.store.starts),
        )
        old.close()
        shutil.rmtree(old.path)
        if cut and flushed < end:
            self.cut_tail(flushed, chance)
        if harm:
            self.harm(chance)
        self.store.open()
        survived = self.store.partition().log_end_offset
        assert flushed <= survived <= end
        assert cut or survived == end
        self.model.cut(survived)
        self.model.log_start_offset = min(self.model.log_start_offset, survived)

    def cut_tail(self, flushed: int, chance: random.Random) -> None:
        """Cut a segment that holds unflushed records, at a byte behind the flushed ones."""
        logs = [path for path in self.store.files(".log") if path.stat().st_size]
        unflushed = [path for n, path in enumerate(logs) if n + 1 == len(logs) or int(logs[n + 1].stem) > flushed]
        path = chance.choice(unflushed)
        data = path.read_bytes()
        position = 0
        while position < len(data) and int.from_bytes(data[position : position + 8], "big") < flushed:
            position += int.from_bytes(data[position + 8 : position + 12], "big") + 12
        if position < len(data):
            path.write_bytes(data[: chance.randrange(position, len(data))])

    def harm(self, chance: random.Random) -> None:
        """Files that can be had again: removed, cut or flipped."""
        paths = [path for path in self.store.files() if path.suffix != ".log"]
        paths += [self.store.path / name for name in ("checkpoint", "flushed-offsets")]
        for path in paths:
            if not path.exists() or path.stat().st_size == 0 or chance.random() < 0.4:
                continue
            kind = chance.choice(["remove", "cut", "flip"])
            if kind == "remove":
                path.unlink()
            elif kind == "cut":
                path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
            else:
                flip(path, chance.randrange(path.stat().st_size), 1 << chance.randrange(8))

    # -- what always holds ----------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def offsets_are_in_order(self) -> None:
        partition = self.store.partition()
        assert partition.log_end_offset == self.model.log_end_offset
        assert partition.log_start_offset == self.model.log_start_offset
        assert partition.log_start_offset <= partition.high_watermark <= partition.log_end_offset
        assert partition.flushed_offset <= partition.log_end_offset
        if self.log.flush == "commit":
            assert partition.high_watermark <= partition.flushed_offset
        else:
            assert partition.high_watermark == partition.log_end_offset
        bases = [segment.base_offset for segment in partition.segments]
        assert bases == sorted(set(bases))
        assert [int(path.stem) for path in self.store.files(".log")] == bases


def settle_now(store: Store) -> None:
    """Flush, without waiting for the linger; and until sealed segments have their files, so that each run is alike."""
    partition = store.partition()
    with partition._lock:
        partition.environment.flusher.request(partition, urgent=True)
    settle(partition)
    wait_until(lambda: partition.flush_state == IDLE)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
