"""Open files within their limit, hints, the checkpoint, and what an idle partition costs."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from takhin._fastlog import crc32c
from takhin._os import replace_tail
from takhin.errors import NewerFormat
from takhin.storage import checkpoint, checkpointer, files, segment
from takhin.storage.checkpoint import PartitionCheckpoint
from takhin.storage.files import OpenFiles, default_limit
from takhin.storage.hints import SLOT_BYTES, FlushedHints
from takhin.storage.partition import Partition
from takhin.storage.waiters import DurableDone

from .storage_tools import (
    QUIET,
    TOPIC_ID,
    Store,
    append,
    configs,
    flip,
    flush,
    frame,
    settle,
    stores,
    values,
    wait_until,
)  # fmt: skip

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


# -- open files ------------------------------------------------------------------------------


def test_no_more_files_are_open_than_allowed_and_everything_can_still_be_read(make: Make) -> None:
    store = make(partitions=60, log=msgspec.structs.replace(QUIET, max_open_segments=20)).open()
    for n in range(3):
        for number in range(60):
            append(store.partition(number), b"%d %d" % (number, n))
    assert store.manager is not None
    assert len(store.manager.environment.files) <= 20
    for number in range(60):
        assert [value for _, value in values(store.partition(number))] == [b"%d %d" % (number, n) for n in range(3)]
        assert len(store.manager.environment.files) <= 20
    # A thread that flushes may stay with a file for some milliseconds more.
    wait_until(lambda: sum(_is_log(fd, store.path) for fd in os.listdir("/proc/self/fd")) <= 20)
    store.reopen()
    assert [len(values(store.partition(number))) for number in range(60)] == [3] * 60


def _is_log(fd: str, root: Path) -> bool:
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    return target.startswith(str(root)) and target.endswith(".log")


class Holder:
    def __init__(self, files: OpenFiles) -> None:
        self.open_file: object | None = object()
        self.recently_used = False
        self.pinned = False
        files.opened(self)  # type: ignore[arg-type]

    def let_go(self) -> None:
        self.open_file = None


def test_the_one_that_was_used_stays_and_the_one_that_was_not_goes() -> None:
    files = OpenFiles(3)
    holders = [Holder(files) for _ in range(3)]
    holders[0].recently_used = True
    holders.append(Holder(files))
    assert [holder.open_file is not None for holder in holders] == [True, False, True, True]


def test_pinned_files_stay_even_above_the_limit() -> None:
    files = OpenFiles(2)
    holders = []
    for _ in range(5):
        holders.append(Holder(files))
        holders[-1].pinned = True
    assert all(holder.open_file is not None for holder in holders)
    assert len(files) == 5
    for holder in holders:
        holder.pinned = False
    Holder(files)
    assert len(files) == 2


def test_a_forgotten_file_counts_no_more() -> None:
    files = OpenFiles(4)
    holders = [Holder(files) for _ in range(4)]
    for holder in holders[:2]:
        files.forget(holder)  # type: ignore[arg-type]
        files.forget(holder)  # type: ignore[arg-type]
    assert len(files) == 2
    Holder(files)
    Holder(files)
    assert all(holder.open_file is not None for holder in holders[2:])


def test_the_limit_follows_the_processs_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert default_limit() == 200
        assert OpenFiles().limit == 200
        assert OpenFiles(7).limit == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_unflushed_files_are_not_closed(make: Make) -> None:
    store = make(partitions=10, log=msgspec.structs.replace(QUIET, max_open_segments=2)).open()
    partitions = [store.partition(number) for number in range(10)]
    from .storage_tools import frame

    for partition in partitions:
        partition.flush_state = 99  # as if no flush ever came
        partition.append(frame(b"v"), None)
    assert all(partition.active.open_file is not None for partition in partitions), "its descriptor learns of a failure"
    for partition in partitions:
        partition.flush_state = 0
        flush(partition)
        settle(partition)


# -- indexes ---------------------------------------------------------------------------------


def indexed(store: Store) -> list[int]:
    """Places of the segments whose index is in memory."""
    return [n for n, segment in enumerate(store.partition().segments) if segment.has_index()]


def test_the_index_of_a_segment_that_is_full_stays_on_disk_only(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1024, index_interval_bytes=0)).open()
    for _ in range(40):
        append(store.partition(), bytes(200))
    last = len(store.partition().segments) - 1
    assert last > 5
    wait_until(lambda: indexed(store) == [last])
    assert values(store.partition(), 17)[0] == (17, bytes(200))
    assert set(indexed(store)) - {last}, "it is read again for a place in between"


def test_an_index_that_could_not_be_written_stays_in_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(configs=configs(segment_bytes=1024, index_interval_bytes=0)).open()

    def full(path: str, position: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(segment, "_write_from", full)
    for _ in range(12):
        append(store.partition(), bytes(200))
    assert len(store.partition().segments) > 2
    wait_until(lambda: not any(each.pinned for each in store.partition().segments))
    assert indexed(store) == list(range(len(store.partition().segments)))


def test_of_indexes_that_were_read_again_the_last_ones_are_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(configs=configs(segment_bytes=1024, index_interval_bytes=0)).open()
    partition = store.partition()
    for _ in range(40):
        append(partition, bytes(200))
    last = len(partition.segments) - 1
    wait_until(lambda: indexed(store) == [last])
    each = partition.segments[0].index().size_bytes
    assert each > 0
    monkeypatch.setattr(files, "INDEX_BYTES", 3 * each)
    for each_segment in [*partition.segments[1:last], partition.segments[0]]:
        each_segment.index()
    assert indexed(store) == [0, last - 2, last - 1, last]
    partition.segments[0].let_go()
    partition.segments[0].index()
    assert indexed(store) == [0, last - 2, last - 1, last], "counted once"
    partition.raise_log_start(partition.segments[last].base_offset)
    for gone in partition.drop_segments_below(partition.log_start_offset):
        gone.close()
    assert store.manager is not None
    assert store.manager.environment.files._index_bytes == 0


# -- hints -----------------------------------------------------------------------------------


def topic(n: int) -> str:
    return f"{n:032x}"


def test_hints_come_back(tmp_path: Path) -> None:
    hints = FlushedHints(tmp_path / "h")
    assert hints.open() == {}
    expected = {}
    for n in range(200):
        hints.write([(topic(n), n % 5, n * 1000)])
        hints.write([(topic(n), n % 5, n * 1000 + 1)])
        expected[(topic(n), n % 5)] = n * 1000 + 1
    hints.close()
    again = FlushedHints(tmp_path / "h")
    assert again.open() == expected
    for n in range(0, 200, 2):
        again.forget(topic(n), n % 5)
    size = (tmp_path / "h").stat().st_size
    for n in range(1000, 1100):
        again.write([(topic(n), 0, n)])
    assert (tmp_path / "h").stat().st_size == size, "slots are used again"
    again.close()
    last = FlushedHints(tmp_path / "h")
    assert last.open() == {
        **{key: offset for n, (key, offset) in enumerate(expected.items()) if n % 2},
        **{(topic(n), 0): n for n in range(1000, 1100)},
    }
    last.close()


def test_many_are_written_at_once_in_runs_of_those_that_are_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = FlushedHints(tmp_path / "h")
    hints.open()
    hints.write([(topic(n), 0, n) for n in range(1000)])
    written: list[tuple[int, int]] = []

    def write_at(fd: int, data: bytes, position: int) -> None:
        written.append((position // SLOT_BYTES, len(data) // SLOT_BYTES))
        os.pwrite(fd, data, position)

    monkeypatch.setattr("takhin.storage.hints.write_at", write_at)
    hints.write([(topic(n), 0, 5000 + n) for n in (700, 3, 130, 600, 2, 701)])
    assert written == [(2, 129), (600, 102)]
    hints.close()
    expected = {(topic(n), 0): n + (5000 if n in (700, 3, 130, 600, 2, 701) else 0) for n in range(1000)}
    assert FlushedHints(tmp_path / "h").open() == expected


def test_writers_at_once_leave_the_newest_of_each(tmp_path: Path) -> None:
    hints = FlushedHints(tmp_path / "h")
    hints.open()

    def write(first: int) -> None:
        for n in range(300):
            hints.write([(topic(slot), 0, n) for slot in range(first, 64, 4)])

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hints.close()
    assert FlushedHints(tmp_path / "h").open() == {(topic(slot), 0): 299 for slot in range(64)}


def test_a_damaged_slot_counts_as_missing_and_is_used_again(tmp_path: Path) -> None:
    hints = FlushedHints(tmp_path / "h")
    hints.open()
    for n in range(4):
        hints.write([(topic(n), 0, n)])
    hints.close()
    for at in range(SLOT_BYTES, 2 * SLOT_BYTES):
        flip(tmp_path / "h", at)
        again = FlushedHints(tmp_path / "h")
        assert again.open() == {(topic(n), 0): n for n in (0, 2, 3)}, at
        again.close()
        flip(tmp_path / "h", at)
    flip(tmp_path / "h", SLOT_BYTES)
    size = (tmp_path / "h").stat().st_size
    again = FlushedHints(tmp_path / "h")
    again.open()
    for n in range(4, size // SLOT_BYTES + 1):
        again.write([(topic(n), 0, n)])
    again.close()
    assert (tmp_path / "h").stat().st_size == size, "used again"
    os.truncate(tmp_path / "h", 2 * SLOT_BYTES + 5)
    again = FlushedHints(tmp_path / "h")
    (first, second) = again.open().items()
    again.write([(topic(999), 0, 9)])
    again.close()
    again = FlushedHints(tmp_path / "h")
    assert again.open() == dict([first, second, ((topic(999), 0), 9)])
    again.close()


def test_a_topic_that_is_gone_gives_its_hint_back(make: Make) -> None:
    store = make(partitions=2).open()
    for number in range(2):
        append(store.partition(number), b"v")
    assert store.manager is not None
    store.manager.remove(store.specs()[1:])
    store.partitions = 1
    store.close()
    hints = FlushedHints(store.path / "flushed-offsets")
    assert hints.open() == {(TOPIC_ID, 0): 1}
    hints.close()


# -- checkpoint ------------------------------------------------------------------------------


def some_checkpoint() -> PartitionCheckpoint:
    return PartitionCheckpoint(
        TOPIC_ID, 3, [(0, 500), (7, 20)], 9, (1, 2, 3, 4, 5, 6), [(7, 0, 3, 99, [(0, 0, 2), (2, 5, 1)])]
    )


def test_a_checkpoint_comes_back_and_a_changed_one_does_not(tmp_path: Path) -> None:
    entry = some_checkpoint()
    checkpoint.write(tmp_path, {(TOPIC_ID, 3): entry})
    assert checkpoint.read(tmp_path) == {(TOPIC_ID, 3): entry}
    data = (tmp_path / "checkpoint").read_bytes()
    for at in range(len(data)):
        flip(tmp_path / "checkpoint", at)
        assert checkpoint.read(tmp_path) == {}, at
        (tmp_path / "checkpoint").write_bytes(data[:at])
        assert checkpoint.read(tmp_path) == {}, at
        (tmp_path / "checkpoint").write_bytes(data)
    (tmp_path / "checkpoint").unlink()
    assert checkpoint.read(tmp_path) == {}


def test_a_checkpoint_of_another_format_is_not_read(tmp_path: Path) -> None:
    for document in ([0, []], [1], {"format": 1}, "text", [1, [["x"]]]):
        data = msgspec.msgpack.encode(document)
        (tmp_path / "checkpoint").write_bytes(data + crc32c(data).to_bytes(4, "big"))
        assert checkpoint.read(tmp_path) == {}


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    data = msgspec.msgpack.encode([2, ["what", {"ever": 1}]])
    (tmp_path / "checkpoint").write_bytes(data + crc32c(data).to_bytes(4, "big"))
    with pytest.raises(NewerFormat, match="format 2"):
        checkpoint.read(tmp_path)


def test_the_clean_marker_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, {})
    assert not checkpoint.is_clean(tmp_path)
    checkpoint.mark_clean(tmp_path)
    assert checkpoint.is_clean(tmp_path)
    checkpoint.write(tmp_path, {(TOPIC_ID, 3): some_checkpoint()})
    assert not checkpoint.is_clean(tmp_path)
    checkpoint.mark_clean(tmp_path)
    checkpoint.unmark_clean(tmp_path)
    checkpoint.unmark_clean(tmp_path)
    assert not checkpoint.is_clean(tmp_path)


def test_the_checkpoint_is_written_now_and_then(make: Make) -> None:
    store = make(log=msgspec.structs.replace(QUIET, recovery_point_interval_ms=100)).open()
    append(store.partition(), b"v")
    wait_until(lambda: [entry.next_offset for entry in checkpoint.read(store.path).values()] == [1])
    append(store.partition(), b"w")
    wait_until(lambda: [entry.next_offset for entry in checkpoint.read(store.path).values()] == [2])


def test_a_checkpoint_flushes_a_few_partitions_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "AT_ONCE", 4)
    store = make(partitions=10, log=msgspec.structs.replace(QUIET, flush_linger_ms=3_600_000)).open()
    partitions = [store.partition(number) for number in range(10)]
    for partition in partitions:
        partition.append(frame(b"v"), None)
    flushed: list[int] = []
    original = Partition.checkpoint

    def counted(self: Partition, durable_done: DurableDone) -> PartitionCheckpoint:
        flushed.append(sum(each.flushed_offset for each in partitions))
        return original(self, durable_done)

    monkeypatch.setattr(Partition, "checkpoint", counted)
    assert store.manager is not None
    store.manager.write_checkpoint()
    assert flushed[0] == 0
    for nth, before in enumerate(flushed):
        assert nth // 4 * 4 <= before <= nth, "those of one go are flushed before the next, and nobody sooner"
    assert {entry.next_offset for entry in checkpoint.read(store.path).values()} == {1}
    store.manager.write_checkpoint()
    assert len(flushed) == 10, "those that did not change are passed over"


def test_a_checkpoint_leaves_out_what_could_not_be_flushed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "PATIENCE_S", 0.2)
    store = make(partitions=2).open()
    assert store.manager is not None
    for number in range(2):
        append(store.partition(number), b"v")
    store.manager.write_checkpoint()
    hung = threading.Event()
    original = FlushedHints.write

    def write(self: FlushedHints, flushed: Sequence[tuple[str, int, int]]) -> None:
        assert hung.wait(20)
        original(self, flushed)

    monkeypatch.setattr(FlushedHints, "write", write)
    store.partition(1).append(frame(b"w"), None)
    store.manager.write_checkpoint()
    assert {key[1]: entry.next_offset for key, entry in checkpoint.read(store.path).items()} == {0: 1, 1: 1}
    hung.set()
    wait_until(lambda: store.partition(1).flushed_offset == 2)
    store.manager.write_checkpoint()
    assert {key[1]: entry.next_offset for key, entry in checkpoint.read(store.path).items()} == {0: 1, 1: 2}


def test_a_tail_is_replaced_and_nothing_is_left_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for position, data, whole in [(0, b"abcdef", b"abcdef"), (3, b"XY", b"abcXY"), (5, b"", b"abcXY"), (0, b"", b"")]:
        replace_tail(path, data, position)
        assert path.read_bytes() == whole
    with pytest.raises(FileNotFoundError) as found:
        replace_tail(tmp_path / "missing" / "index", b"x", 0)
    assert found.value.filename == str(tmp_path / "missing" / "index")


# -- what an idle partition costs -------------------------------------------------------------

MEASURE = """
import gc
import sys
from pathlib import Path

import msgspec

from tests.unit.storage_tools import QUIET, Store

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

log = msgspec.structs.replace(QUIET, max_open_segments=500)
store = Store(Path(sys.argv[1]), partitions=0, log=log).open()
before = resident()
store.partitions = int(sys.argv[2])
store.manager.create(store.specs())
created = resident()
print((created - before) // store.partitions)
store.close()
"""


def test_an_idle_partition_takes_less_than_16_kib(make: Make) -> None:
    partitions = 2_000
    path = make("many").path
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), str(path), str(partitions)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 16 * 1024
