"""Writes that fail: cut back to the batch's start, and gone on with when there is room or a descriptor again."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from takhin import errors
from takhin.storage import retention
from takhin.storage.partition import Partition
from tests.conftest import missing
from tests.reference import record_batch as reference

from .storage_tools import Store, append, configs, flush, frame, killed, stores, values, wait_until

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        missing("a small filesystem cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


class Failing:
    """Stands in for a segment's file: writes fail after some bytes are there."""

    def __init__(self, partition: Partition, number: int, written: int) -> None:
        self._segment, self._file = partition.active, partition.active.file()
        self._number, self._written = number, written
        self._segment.open_file = self  # type: ignore[assignment]

    def append(self, batch: Any, position: int, base_offset: int) -> None:
        descriptor = os.open(self._file.path, os.O_WRONLY)
        os.pwrite(descriptor, batch.tobytes(base_offset)[: self._written], position)
        os.close(descriptor)
        raise OSError(self._number, os.strerror(self._number), self._file.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def mend(self) -> None:
        self._segment.open_file = self._file


@pytest.mark.parametrize("written", [0, 1, 60, 75])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_without_room_is_cut_back_to_the_batchs_start(make: Make, number: int, written: int) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"before")
    size = partition.active.size
    failing = Failing(partition, number, written)
    told: list[object] = []
    with pytest.raises(errors.DiskFull) as caught:
        partition.append(frame(b"lost" * 30), told.append)
    assert caught.value.retriable
    assert store.files(".log")[0].stat().st_size == partition.active.size == size
    assert (partition.log_end_offset, told) == (1, []), "the error is the answer"
    failing.mend()
    assert append(partition, b"after").base_offset == 1
    assert values(partition) == [(0, b"before"), (1, b"after")]
    assert values(killed(make, store).open().partition()) == [(0, b"before"), (1, b"after")]


def test_a_write_error_takes_the_log_offline_and_keeps_what_was_there(make: Make) -> None:
    store = make(partitions=2).open()
    partition = store.partition()
    append(partition, b"before")
    Failing(partition, errno.EIO, 20)
    with pytest.raises(errors.LogOffline):
        partition.append(frame(b"lost"), None)
    with pytest.raises(errors.LogOffline) as caught:
        store.partition(1).append(frame(b"elsewhere"), None)
    assert "Input/output error" in caught.value.message
    assert values(partition) == [(0, b"before")]
    again = killed(make, store).open()
    assert values(again.partition()) == [(0, b"before")]
    assert append(again.partition(), b"after").base_offset == 1


def test_a_write_that_cannot_be_cut_back_takes_the_log_offline(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"before")
    failing = Failing(partition, errno.ENOSPC, 30)

    def truncate(size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    failing.truncate = truncate  # type: ignore[attr-defined]
    with pytest.raises(errors.LogOffline):
        partition.append(frame(b"lost"), None)
    with pytest.raises(errors.LogOffline):
        partition.append(frame(b"more"), None)
    again = killed(make, store).open()
    assert values(again.partition()) == [(0, b"before")], "the rest of the write is a torn tail"
    assert append(again.partition(), b"after").base_offset == 1


def test_a_limit_on_file_size_is_met_in_the_middle_of_a_batch(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    append(partition, b"before")
    size = partition.active.size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        for _ in range(3):
            with pytest.raises(errors.DiskFull):
                partition.append(frame(bytes(500)), None)
            assert store.files(".log")[0].stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert append(partition, bytes(500)).base_offset == 1
    assert len(reference.decode_all(store.files(".log")[0].read_bytes())) == 2


# -- a disk that is really full --------------------------------------------------------------


def fill_up(disk: Path) -> Path:
    """Leave no byte free."""
    hog = disk / "hog"
    descriptor = os.open(hog, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (65536, 4096, 1):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    assert os.statvfs(disk).f_bavail == 0
    return hog


def test_produce_fails_and_everything_else_goes_on_while_the_disk_is_full(make: Make, small_disk: Path) -> None:
    store = make(path=small_disk / "data", partitions=2, configs=configs(segment_bytes=50_000)).open()
    partition, other = store.partition(0), store.partition(1)
    append(other, b"elsewhere")
    sent = 0
    with suppress(errors.DiskFull):
        while True:
            append(partition, b"%06d" % sent + bytes(5000))
            sent += 1
    assert sent > 100
    with pytest.raises(errors.DiskFull):
        append(partition, bytes(5000))
    assert [int((value or b"")[:6]) for _, value in values(partition)] == list(range(sent))
    assert values(other) == [(0, b"elsewhere")]
    assert partition.environment.fault.reason == ""
    # Deleting makes room, and writing goes on by itself.
    wait_until(lambda: not any(segment.pinned for segment in partition.segments[:-1]))
    partition.raise_log_start(sent // 2)
    assert retention.remove_unused(partition) > 0
    assert append(partition, bytes(5000)).base_offset == sent
    store.reopen()
    assert store.partition().log_end_offset == sent + 1


@pytest.mark.parametrize("torn", [False, True])
def test_the_log_opens_on_a_disk_without_a_free_byte(make: Make, small_disk: Path, torn: bool) -> None:
    store = make(path=small_disk / "data", configs=configs(segment_bytes=20_000)).open()
    for n in range(50):
        append(store.partition(), b"%d" % n * 500)
    expected = values(store.partition())
    store.close()
    log = store.files(".log")[-1]
    if torn:
        with log.open("ab") as file:
            file.write(frame(bytes(9000)).tobytes(50)[:-1])
    for name in ("checkpoint", "clean-shutdown"):
        (store.path / name).unlink()
    hog = fill_up(small_disk)
    store.open()
    assert values(store.partition()) == expected
    if torn:
        assert store.quarantine() == {}, "there was no room to keep it"
    store.close()
    hog.unlink()
    store.open()
    assert append(store.partition(), b"room").base_offset == 50


# -- descriptors -----------------------------------------------------------------------------


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    held = []
    with suppress(OSError):
        while True:
            held.append(os.dup(0))
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_calls_fail_and_go_on_when_there_are_some(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1024)).open()
    partition = store.partition()
    for n in range(5):
        append(partition, b"%d" % n + bytes(600))
    wait_until(lambda: not any(segment.pinned for segment in partition.segments[:-1]))
    for segment in partition.segments:
        segment.let_go()
    with no_descriptors():
        with pytest.raises(errors.DescriptorsExhausted):
            partition.append(frame(bytes(600)), None)
        with pytest.raises(errors.DescriptorsExhausted):
            values(partition)
    assert len(values(partition)) == 5
    assert append(partition, b"more").base_offset == 5
    assert partition.environment.fault.reason == ""


def test_a_flush_that_finds_no_descriptor_is_made_later(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1024)).open()
    partition = store.partition()
    append(partition, bytes(600))
    told = threading.Event()
    partition.flush_state = 99  # as if no flush ever came
    partition.append(frame(bytes(600)), lambda outcome: told.set())  # in a new segment: its directory is to be flushed
    with no_descriptors():
        partition.flush_state = 3
        flush(partition)
        assert not told.is_set()
    partition.flush_ended()
    partition.flush_state = 0
    flush(partition)
    assert told.wait(20)
    assert partition.environment.fault.reason == ""
    assert partition.flushed_offset == 2
    assert [record[0] for record in values(partition)] == [0, 1]
