"""Room on the disk: produce is refused before it is full, the reserve is given up for what must go on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from takhin.errors import DiskFull
from takhin.storage import space as space_module
from takhin.storage.space import DiskSpace

from .storage_tools import QUIET, Store, append, stores

Make = Callable[..., Store]
MIB = 1 << 20


class Disk:
    """Stands for the filesystem: 1 GiB, of which ``free`` bytes are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 512 * MIB
        self.looks = 0
        monkeypatch.setattr(space_module, "os", SimpleNamespace(**{**vars(os), "statvfs": self._statvfs}))
        monkeypatch.setattr(space_module, "_LOOK_AGAIN", 0.0)

    def _statvfs(self, path: object) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(f_bavail=self.free, f_frsize=1, f_blocks=1024 * MIB)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def test_produce_is_refused_while_too_little_is_free_and_goes_on_by_itself(make: Make, disk: Disk) -> None:
    partition = make(log=msgspec.structs.replace(QUIET, min_free_bytes=10 * MIB)).open().partition()
    append(partition, b"before")
    disk.free = 10 * MIB - 1
    partition.environment.space.next_look = 0
    for _ in range(2):
        with pytest.raises(DiskFull) as caught:
            append(partition, b"refused")
        assert caught.value.retriable
        assert caught.value.fields["free_bytes"] == str(10 * MIB - 1)
    assert (partition.log_end_offset, partition.environment.space.low) == (1, True)
    disk.free = 10 * MIB
    assert append(partition, b"after").base_offset == 1
    assert not partition.environment.space.low


def test_a_small_disk_keeps_a_twentieth_at_most(tmp_path: Path, disk: Disk) -> None:
    space = DiskSpace(tmp_path, 1 << 40, 0)
    disk.free = 1024 * MIB // 20
    space.open()
    assert not space.low
    disk.free -= 1
    space.next_look = 0
    with pytest.raises(DiskFull):
        space.check(1)


def test_the_disk_is_looked_at_again_before_it_can_be_full(tmp_path: Path, disk: Disk) -> None:
    space = DiskSpace(tmp_path, 10 * MIB, 0)
    disk.free = 50 * MIB
    space.open()
    looks, appended = disk.looks, 0
    while not space.low and appended < 100 * MIB:
        appended += MIB
        disk.free -= MIB
        try:
            space.check(appended)
        except DiskFull:
            break
    assert space.low
    assert disk.free >= 8 * MIB
    assert disk.looks - looks < 30  # not at each append


def test_the_reserve_is_made_given_up_and_made_again(tmp_path: Path, disk: Disk) -> None:
    space = DiskSpace(tmp_path, 0, 8 * MIB)
    space.open()
    reserve = tmp_path / "reserve"
    assert reserve.stat().st_blocks * 512 >= 8 * MIB
    assert space.give_up_reserve()
    assert not reserve.exists()
    assert not space.give_up_reserve()
    disk.free = 4 * 8 * MIB - 1
    space.restore()
    assert not reserve.exists()
    disk.free = 4 * 8 * MIB
    space.restore()
    assert reserve.exists()


def test_many_senders_at_once_look_once_at_a_low_disk(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "_LOOK_AGAIN", 60.0)
    space = DiskSpace(tmp_path, 10 * MIB, 0)
    disk.free = 0
    space.open()
    looks, refused = disk.looks, []

    def send() -> None:
        try:
            space.check(1)
        except DiskFull as error:
            refused.append(error)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), disk.looks) == (20, looks)
