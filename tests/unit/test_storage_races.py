"""Everything at once: senders, readers, retention, checkpoints, searches and closing files, on few descriptors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from takhin import errors
from takhin.clock import Clock
from takhin.storage import retention
from takhin.storage.reader import PartitionReader, find_time

from .storage_tools import NOW, QUIET, Store, append, configs, frame, read_all, settle, stores, wait_until

Make = Callable[..., Store]
SECONDS = 1.5


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


@pytest.mark.parametrize("mode", ["commit", "interval"])
def test_nothing_gets_in_the_way_of_anything(make: Make, mode: str) -> None:
    log = msgspec.structs.replace(QUIET, flush=mode, flush_interval_ms=20, max_open_segments=3)
    store = make(
        partitions=2,
        log=log,
        clock=Clock(),
        configs=configs(segment_bytes=3000, index_interval_bytes=200, retention_bytes=15_000),
    ).open()
    manager = store.manager
    assert manager is not None
    until = time.monotonic() + SECONDS
    problems: list[BaseException] = []
    sent = [0, 0]

    def going(work: Callable[[random.Random], None]) -> Callable[[], None]:
        def run() -> None:
            chance = random.Random(work.__name__)
            try:
                while time.monotonic() < until and not problems:
                    work(chance)
            except BaseException as problem:
                problems.append(problem)

        return run

    def send(number: int) -> Callable[[random.Random], None]:
        def work(chance: random.Random) -> None:
            partition = store.partition(number)
            batch = frame(*(b"%d" % (sent[number] + n) + bytes(chance.randint(0, 90)) for n in range(3)))
            if chance.random() < 0.1:
                append(partition, *([b"%d" % (sent[number] + n) for n in range(3)]))
            else:
                partition.append(batch, None)
            sent[number] += 3
            time.sleep(0.0005)

        return work

    def read(number: int) -> Callable[[random.Random], None]:
        partition = store.partition(number)
        readers = [PartitionReader(partition, 0)]

        def work(chance: random.Random) -> None:
            reader = readers[0]
            try:
                batches = reader.read(chance.choice([1, 1000, 1 << 20]))
            except errors.OffsetOutOfRange:
                assert reader.next_offset < partition.log_start_offset, "only what retention removed is gone"
                reader.advance(partition.log_start_offset)
                return
            if batches is None:
                woken = threading.Event()
                reader.park(woken.set)
                woken.wait(0.05)
                return
            for offset, _, _, value, _ in batches.records():
                assert offset == reader.next_offset
                assert int((value or b"").rstrip(b"\0")) == offset
                reader.advance(offset + 1)
            if chance.random() < 0.02:
                readers[0] = PartitionReader(partition, partition.log_start_offset)

        return work

    def search(chance: random.Random) -> None:
        partition = store.partition(0)
        found = find_time(partition, chance.choice([1, NOW]))
        assert found is None or found[0] <= partition.log_end_offset
        assert find_time(partition, NOW + 1) is None, "and no loss, however much is appended meanwhile"

    def retain(chance: random.Random) -> None:
        manager.retain()
        time.sleep(0.002)

    def remove(chance: random.Random) -> None:
        partition = store.partition(1)
        start, end = partition.log_start_offset, partition.high_watermark
        partition.raise_log_start(start + (end - start) // 2)
        retention.remove_unused(partition)
        time.sleep(0.01)

    def save(chance: random.Random) -> None:
        manager.write_checkpoint()
        time.sleep(0.005)

    def let_go(chance: random.Random) -> None:
        for number in range(2):
            for segment in store.partition(number).segments:
                if not segment.pinned:
                    segment.let_go()
        time.sleep(0.003)

    works = [send(0), send(1), read(0), read(0), read(1), search, retain, remove, save, let_go]
    threads = [threading.Thread(target=going(work)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert manager.environment.fault.reason == ""
    ends = []
    for number in range(2):
        partition = store.partition(number)
        assert partition.log_end_offset == sent[number] > 100
        assert partition.log_start_offset > 0
        append(partition, b"%d" % sent[number])
        settle(partition)
        wait_until(lambda partition=partition: not any(segment.pinned for segment in partition.segments[:-1]))
        ends.append(read_all(partition))
        logs = {path.stem for path in store.files(".log", number)}
        assert {path.stem for path in store.files("", number)} == logs, "no index is left without its log"
    store.reopen()
    assert [read_all(store.partition(number)) for number in range(2)] == ends
