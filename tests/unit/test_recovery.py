"""Opening a log after a clean stop, a kill, or with a torn tail: what was acknowledged is there, as it was."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from takhin import errors
from takhin.storage.manager import LogManager
from tests.reference import record_batch as reference

from .storage_tools import (
    NOW,
    TOPIC,
    TOPIC_ID,
    Store,
    append,
    configs,
    frame,
    killed,
    read_all,
    read_around,
    settle,
    stores,
    values,
    wait_until,
)

Make = Callable[..., Store]
SMALL = configs(segment_bytes=2000, index_interval_bytes=200)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def fill(store: Store, batches: int = 60, seed: int = 1) -> None:
    """Batches of different sizes and times, in several segments, all flushed and sealed."""
    chance = random.Random(seed)
    partition = store.partition()
    for _ in range(batches):
        names = [chance.randbytes(chance.randint(0, 60)) for _ in range(chance.randint(1, 4))]
        append(partition, *names, timestamp=NOW + chance.randint(0, 1000))
    wait_until(lambda: not any(segment.pinned for segment in partition.segments))


# -- after a clean stop and after a kill -----------------------------------------------------


def test_after_a_clean_stop_nothing_is_read_and_nothing_changes(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store)
    before, ends = read_all(store.partition()), (0, store.partition().log_end_offset)
    store.close()
    assert (store.path / "clean-shutdown").exists()
    files = store.contents()
    logs: list[object] = []
    for _ in range(2):
        store.open()
        partition = store.partition()
        assert not (store.path / "clean-shutdown").exists(), "gone before the first write"
        assert [segment.open_file for segment in partition.segments] == [None] * len(partition.segments)
        assert (partition.log_start_offset, partition.log_end_offset) == ends
        assert partition.flushed_offset == partition.high_watermark == ends[1]
        assert read_all(partition) == before
        logs.append(store.contents())
        store.close()
    assert logs == [files, files]


DERIVED = ["checkpoint", "flushed-offsets", "index", "timeindex", "seal"]


def harm(store: Store, what: str, how: str) -> None:
    """Remove, cut, zero or flip files that recovery does not depend on."""
    paths = [store.path / what] if what in ("checkpoint", "flushed-offsets") else store.files(f".{what}")
    for path in paths:
        data = path.read_bytes() if path.exists() else b""
        if how == "missing" or not data:
            path.unlink(missing_ok=True)
        elif how == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif how == "zeroed":
            path.write_bytes(bytes(len(data)))
        elif how == "longer":
            path.write_bytes(data + data)
        elif how == "flipped":
            changed = bytearray(data)
            for at in range(0, len(data), 7):
                changed[at] ^= 1
            path.write_bytes(changed)


@pytest.mark.parametrize("how", ["missing", "cut", "zeroed", "flipped", "longer"])
@pytest.mark.parametrize("stop", ["clean", "killed", "killed after a checkpoint"])
def test_answers_are_the_same_whatever_happens_to_files_that_can_be_had_again(make: Make, stop: str, how: str) -> None:
    origin = make("origin", configs=SMALL).open()
    fill(origin, 30)
    if stop == "killed after a checkpoint":
        assert origin.manager is not None
        origin.manager.write_checkpoint()
    fill(origin, 30, seed=2)
    expected = read_all(origin.partition())
    if stop == "clean":
        origin.close()
    for what in [*DERIVED, "all"]:
        store = killed(make, origin, what)
        for each in DERIVED if what == "all" else [what]:
            harm(store, each, how)
        store.open()
        partition = store.partition()
        assert read_all(partition) == expected, what
        assert (partition.log_start_offset, partition.log_end_offset) == (0, len(expected)), what
        for offset in range(0, len(expected), 9):
            assert read_all(partition, offset)[0] == expected[offset]
        append(partition, b"more")
        settle(partition)
        wait_until(lambda partition=partition: not any(segment.pinned for segment in partition.segments))
        store.reopen()
        assert read_all(store.partition())[:-1] == expected, what
        assert store.quarantine() == {}
        store.close()


def test_index_files_come_out_the_same_when_they_are_built_again(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store)
    store.close()
    files = store.contents()
    for suffix in (".index", ".timeindex", ".seal"):
        for path in store.files(suffix):
            path.unlink()
    store.open()
    for segment in store.partition().segments:
        segment.index()
    fill(store, 1)
    store.close()
    now = store.contents()
    active = max(name for name in files if name.endswith(".log"))[:20]
    assert {name: data for name, data in now.items() if active not in name} == {
        name: data for name, data in files.items() if active not in name
    }
    for suffix in (".index", ".timeindex"):
        assert now[active + suffix].startswith(files.get(active + suffix, b""))


def test_recovering_twice_gives_the_same_bytes(make: Make) -> None:
    origin = make("origin", configs=SMALL).open()
    fill(origin, 40)
    torn = killed(make, origin, "torn")
    last = torn.files(".log")[-1]
    last.write_bytes(last.read_bytes() + frame(b"torn").tobytes(origin.partition().log_end_offset)[:-1])
    (torn.path / "checkpoint").unlink(missing_ok=True)
    torn.open()
    once, kept = torn.contents(), torn.quarantine()
    twice = killed(make, torn, "twice").open()
    assert twice.contents() == once
    assert twice.quarantine() == kept
    assert len(kept) == 1


def test_records_that_were_written_but_not_flushed_are_kept_after_a_kill(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store, 5)
    partition = store.partition()
    partition.flush_state = 99  # as if no flush ever came
    for n in range(40):
        partition.append(frame(b"%d" % n * 20), None)
    end = partition.log_end_offset
    assert partition.flushed_offset < end
    assert len(partition.segments) > 1
    copy = killed(make, store, "copy").open()
    partition.flush_state = 0
    assert copy.partition().log_end_offset == copy.partition().flushed_offset == end
    assert read_all(copy.partition())[:-40] == read_all(partition)


# -- torn tails ------------------------------------------------------------------------------


@pytest.mark.parametrize(("checkpoint", "step"), [(False, 1), (True, 7)])
def test_a_torn_tail_is_cut_and_kept_wherever_it_is_torn(make: Make, checkpoint: bool, step: int) -> None:
    origin = make("origin", configs=configs()).open()
    fill(origin, 5)
    if checkpoint:
        assert origin.manager is not None
        origin.manager.write_checkpoint()
    expected = read_all(origin.partition())
    end = origin.partition().log_end_offset
    flushed = origin.files(".log")[0].read_bytes()
    tail = frame(b"first", b"second").tobytes(end)
    for size in range(0, len(tail), step):
        store = killed(make, origin, "torn")
        log = store.files(".log")[0]
        log.write_bytes(flushed + tail[:size])
        store.open()
        assert store.partition().log_end_offset == end, size
        assert log.read_bytes() == flushed, size
        assert list(store.quarantine().values()) == ([tail[:size]] if size else []), size
        if size % 20 == 0:
            assert read_all(store.partition()) == expected
            assert append(store.partition(), b"next").base_offset == end
            assert len(store.files(".log")) == 1, "the same segment goes on"
        store.close()
    log.write_bytes(flushed + tail)
    store.open()
    assert values(store.partition(), end) == [(end, b"first"), (end + 1, b"second")], "whole, so it is kept"


@pytest.mark.parametrize("garbage", [bytes(600), b"\xff" * 600, random.Random(8).randbytes(5000), b"\0" * 16 + b"\2"])
def test_garbage_behind_the_last_batch_is_cut(make: Make, garbage: bytes) -> None:
    origin = make("origin").open()
    fill(origin, 5)
    expected = read_all(origin.partition())
    store = killed(make, origin, "copy")
    log = store.files(".log")[0]
    log.write_bytes(log.read_bytes() + garbage)
    store.open()
    assert read_all(store.partition()) == expected
    assert list(store.quarantine().values()) == [garbage]


def test_what_survives_of_an_unflushed_tail_is_a_prefix(make: Make) -> None:
    # Pages reach the disk in any order: a hole in the middle, with good batches behind it.
    origin = make("origin").open()
    fill(origin, 5)
    end = origin.partition().log_end_offset
    flushed = origin.files(".log")[0].read_bytes()
    batches = [frame(b"%d" % n * 30).tobytes(end + n) for n in range(5)]
    for lost in range(5):
        store = killed(make, origin, f"lost {lost}")
        tail = b"".join(bytes(len(data)) if n == lost else data for n, data in enumerate(batches))
        store.files(".log")[0].write_bytes(flushed + tail)
        store.open()
        assert [offset for offset, _ in values(store.partition(), end)] == list(range(end, end + lost))
        assert store.files(".log")[0].read_bytes() == flushed + b"".join(batches[:lost])
        store.close()


def test_segments_behind_a_torn_one_go_with_the_tail(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store, 10)
    partition = store.partition()
    end = partition.flushed_offset
    partition.flush_state = 99  # as if no flush ever came
    for n in range(60):
        partition.append(frame(b"%d" % n * 30), None)
    torn = next(segment for segment in partition.segments if segment.base_offset > end)
    assert partition.segments[-1] is not torn
    copy = killed(make, store, "copy")
    partition.flush_state = 0
    path = copy.directory() / Path(torn.path(".log")).name
    path.write_bytes(path.read_bytes()[:-1])
    copy.open()
    last = values(copy.partition())[-1][0]
    chain = reference.decode_all(Path(torn.path(".log")).read_bytes())
    assert last == chain[-2].last_offset
    assert [int(name.stem) for name in copy.files(".log")][-1] <= last + 1
    assert append(copy.partition(), b"next").base_offset == last + 1
    copy.reopen()
    assert [offset for offset, _ in values(copy.partition())] == list(range(last + 2))


def test_a_hole_between_unflushed_segments_ends_the_log(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store, 10)
    partition = store.partition()
    partition.flush_state = 99  # as if no flush ever came
    for n in range(60):
        partition.append(frame(b"%d" % n * 30), None)
    later = [segment for segment in partition.segments if segment.base_offset > partition.flushed_offset]
    assert len(later) > 2
    copy = killed(make, store, "copy")
    partition.flush_state = 0
    (copy.directory() / Path(later[0].path(".log")).name).unlink()  # its directory entry was lost
    copy.open()
    end = copy.partition().log_end_offset
    assert end == later[0].base_offset
    assert [offset for offset, _ in values(copy.partition())] == list(range(end))
    assert append(copy.partition(), b"next").base_offset == end


# -- other hands -----------------------------------------------------------------------------


def kafka_directory(directory: Path, first: int = 1000, segments: int = 4) -> list[tuple[int, int, bytes | None]]:
    """Segments as Kafka would leave them, with leader epochs; gives (offset, timestamp, value)."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    chance = random.Random(9)
    offset = first
    written: list[tuple[int, int, bytes | None]] = []
    for number in range(segments):
        data, base = b"", offset
        for _ in range(10):
            content = [
                (b"k", chance.randbytes(chance.randint(0, 90)), [(b"h", None)], NOW + chance.randint(0, 99))
                for _ in range(chance.randint(1, 5))
            ]
            data += reference.encode(content, offset, leader_epoch=number + 3)
            written += [(offset + n, record[3], record[1]) for n, record in enumerate(content)]
            offset += len(content)
        (directory / f"{base:020d}.log").write_bytes(data)
    return written


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("remove", [True, False])
def test_segments_from_kafka_are_served_and_gone_on_with(make: Make, first: int, remove: bool) -> None:
    store = make(configs=SMALL).open()
    store.close()
    own = store.files(".log")[0]
    written = kafka_directory(store.directory(), first)
    if not remove and first:
        own.touch()  # the empty segment of the new topic was left there
    store.open()
    partition = store.partition()
    assert (partition.log_start_offset, partition.log_end_offset) == (first, written[-1][0] + 1)
    assert [(record[0], record[1], record[3]) for record in read_all(partition)] == written
    assert append(partition, b"ours").base_offset == written[-1][0] + 1
    for way in (store.reopen, lambda: killed(make, store, "killed").open()):
        opened = way().partition()
        assert (opened.log_start_offset, opened.log_end_offset) == (first, written[-1][0] + 2)
        assert [(record[0], record[1], record[3]) for record in read_all(opened)][:-1] == written


def test_a_directory_that_no_topic_has_is_kept_aside(make: Make) -> None:
    store = make().open()
    store.close()
    (store.path / "gone-0").mkdir()
    (store.path / "gone-0" / f"{0:020d}.log").write_bytes(b"something")
    (store.path / "notes").mkdir()  # not a partition's name
    store.open()
    assert not (store.path / "gone-0").exists()
    assert (store.path / "notes").exists()
    assert list(store.quarantine().values()) == [b"something"]


def test_a_topic_made_again_does_not_inherit_files(make: Make) -> None:
    store = make().open()
    store.close()
    leftover = store.directory(1)
    leftover.mkdir()
    (leftover / f"{0:020d}.log").write_bytes(frame(b"older").tobytes())
    (leftover / f"{0:020d}.index").write_bytes(b"older")
    store.open()
    assert store.manager is not None
    store.partitions = 2
    store.manager.create(store.specs()[1:])
    assert values(store.partition(1)) == []
    assert len(store.quarantine()) == 2


def test_many_partitions_recover_side_by_side(make: Make) -> None:
    origin = make("origin", partitions=12, configs=SMALL).open()
    for number, n in itertools.product(range(12), range(10)):
        append(origin.partition(number), b"%d %d" % (number, n) * 10)
    store = killed(make, origin, "copy").open()
    for number in range(12):
        assert [value for _, value in values(store.partition(number))] == [
            b"%d %d" % (number, n) * 10 for n in range(10)
        ]


def test_a_second_process_is_refused_and_writes_nothing(make: Make) -> None:
    store = make().open()
    append(store.partition(), b"a")
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    other = LogManager(store.path, store.log, store.clock)
    with pytest.raises(errors.DataDirLocked):
        other.lock()
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
    store.close()
    other.lock()
    other.release()
    store.open()


def test_hints_and_checkpoint_name_the_partition(make: Make) -> None:
    store = make().open()
    append(store.partition(), b"a", b"b")
    store.close()
    slot = (store.path / "flushed-offsets").read_bytes()[:28]
    assert slot == bytes.fromhex(TOPIC_ID) + (0).to_bytes(4, "big") + (2).to_bytes(8, "big")
    assert store.directory().name == f"{TOPIC}-0"


def test_read_around_a_whole_log_finds_no_loss(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store)
    assert read_around(store.partition()) == (list(range(store.partition().log_end_offset)), [])
