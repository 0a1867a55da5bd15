"""Several partitions that are due are flushed with one call where there are no groups."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from takhin import _os, errors
from takhin._segment import SegmentFile
from takhin.storage import file_flush, flusher, group_flush
from takhin.storage.hints import FlushedHints
from takhin.storage.manager import HINTS_NAME
from takhin.storage.waiters import Placed

from .flush_loop_tools import loop_in_python  # noqa: F401 (a fixture)
from .storage_tools import QUIET, TOPIC_ID, Store, append, configs, frame, stores, values, wait_until
from .test_storage_flush import Gate

Make = Callable[..., Store]

pytestmark = pytest.mark.usefixtures("loop_in_python")
MANY = 12
#: One thread flushes: while it is held, the others' requests gather.
ONE_THREAD = msgspec.structs.replace(QUIET, flush_threads=1)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


class Calls:
    def __init__(self) -> None:
        self.paths: list[list[str]] = []
        self.error: OSError | None = None
        self.open = threading.Event()
        self.open.set()

    def flush_files(self, files: list[SegmentFile]) -> None:
        self.paths.append([file.path for file in files])
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(group_flush, "kernel_release", lambda: (0, 0))
    monkeypatch.setattr(file_flush, "flush_files", calls.flush_files)
    # As where nobody stays: of those that somebody waits for all the time.
    monkeypatch.setattr(flusher.Flusher, "_may_stay", False)
    # However slow this disk is, and quick:
    monkeypatch.setattr(flusher, "TOGETHER_S", 1e9)
    monkeypatch.setattr(flusher, "QUICK_S", 0.0)
    monkeypatch.setattr(flusher, "LATE_S", 60.0)
    return calls


def hold(store: Store) -> Gate:
    """The only flusher waits for the gate."""
    gate = Gate(store.partition(0))
    store.partition(0).append(frame(b"first"), lambda outcome: None)
    assert gate.entered.acquire(timeout=20)
    return gate


def test_several_that_wait_are_flushed_with_one_call(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    for n in range(MANY):
        append(store.partition(n), b"its file is new no more")
    calls.paths.clear()
    counters = store.partition().environment.counters
    before = counters.flushes
    gate = hold(store)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"%d" % n), told.append)
    calls.open.clear()
    gate.open.set()
    wait_until(lambda: calls.paths)
    assert told == []
    assert all(store.partition(n).flushed_offset == 1 for n in range(1, MANY))
    calls.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert all(isinstance(outcome, Placed) for outcome in told)
    assert [sorted(each) for each in calls.paths] == [
        sorted(store.partition(n).active.path(".log") for n in range(1, MANY))
    ]
    assert counters.flushes - before == MANY
    noted = FlushedHints(store.path / HINTS_NAME).open()
    assert [noted[TOPIC_ID, n] for n in range(1, MANY)] == [2] * (MANY - 1)
    for n in range(1, MANY):
        assert values(store.partition(n))[1:] == [(1, b"%d" % n)]


def test_those_that_come_meanwhile_gather_for_the_next_call(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=msgspec.structs.replace(QUIET, flush_threads=4)).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    calls.paths.clear()
    gates = [Gate(store.partition(n)) for n in range(4)]
    told: list[Any] = []
    for gate in gates:
        store.partition(gates.index(gate)).append(frame(b"v"), told.append)
        assert gate.entered.acquire(timeout=20)
    calls.open.clear()
    for n in (4, 5):
        store.partition(n).append(frame(b"v"), told.append)
    gates[0].open.set()
    wait_until(lambda: calls.paths)
    for gate in gates[1:]:
        gate.open.set()
    wait_until(lambda: len(told) == 4)
    for n in range(6, MANY):
        store.partition(n).append(frame(b"v"), told.append)
    assert len(calls.paths) == 1, "three threads are free, and wait all the same"
    calls.open.set()
    wait_until(lambda: len(told) == MANY)
    assert [len(each) for each in calls.paths] == [2, MANY - 6]


def held_on_a_quick_disk(make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Gate]:
    """Four threads, one of which is at the flush of the first partition."""
    monkeypatch.setattr(flusher, "QUICK_S", 10.0)
    store = make(partitions=MANY, log=msgspec.structs.replace(QUIET, flush_threads=4)).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    calls.paths.clear()
    return store, hold(store)


def test_on_a_quick_disk_those_that_come_wait_for_a_single_flush_too(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = held_on_a_quick_disk(make, calls, monkeypatch)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"v"), told.append)
    time.sleep(0.1)
    assert (told, calls.paths) == ([], [])
    gate.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert [len(each) for each in calls.paths] == [MANY - 1]


def test_nobody_waits_for_a_flush_that_has_become_slow(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = held_on_a_quick_disk(make, calls, monkeypatch)
    monkeypatch.setattr(flusher, "LATE_S", 0.05)
    time.sleep(0.1)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"v"), told.append)
    wait_until(lambda: len(told) == MANY - 1)
    assert store.partition().flushed_offset == 1
    gate.open.set()
    wait_until(lambda: store.partition().flushed_offset == 2)


def test_nobody_waits_for_a_flush_that_hangs_when_no_other_comes(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = held_on_a_quick_disk(make, calls, monkeypatch)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"v"), told.append)
    monkeypatch.setattr(flusher, "LATE_S", 0.0)
    wait_until(lambda: len(told) == MANY - 1)
    gate.open.set()
    wait_until(lambda: store.partition().flushed_offset == 2)


def test_no_more_than_a_bound_with_one_call_and_others_go_on_beside(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "MOST_TOGETHER", 3)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    calls.paths.clear()
    gate = hold(store)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"v"), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert max(len(each) for each in calls.paths) == 3


def test_one_with_much_to_write_is_flushed_alone(make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "LITTLE_BYTES", 10_000)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    calls.paths.clear()
    gate = hold(store)
    much = Gate(store.partition(5))
    much.open.set()
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(bytes(20_000) if n == 5 else b"v"), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert much.flushes == 1
    assert store.partition(5).active.path(".log") not in {path for each in calls.paths for path in each}
    assert sum(len(each) for each in calls.paths) >= MANY - 3


def test_new_files_are_flushed_with_their_names(make: Make, calls: Calls) -> None:
    """The one call knows segments only: where a name has to be flushed, it is not used."""
    store = make(partitions=MANY, log=ONE_THREAD, configs=configs(segment_bytes=1024)).open()
    for n in range(MANY):
        append(store.partition(n), bytes(600))
    calls.paths.clear()
    gate = hold(store)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(bytes(600 if n % 2 else 10)), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert [len(each) for each in calls.paths] == [MANY // 2 - 1]
    for n in range(1, MANY):
        assert len(store.partition(n).segments) == 1 + n % 2
        assert store.partition(n).flushed_offset == 2


def test_when_one_fails_all_are_told_that_nobody_knows(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    gate = hold(store)
    told: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"w"), told.append)
    calls.error = OSError(errno.EIO, os.strerror(errno.EIO), "/data/the-file")
    gate.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert all(isinstance(outcome, errors.DurabilityUnknown) for outcome in told)
    assert store.partition().environment.fault.reason == f"{os.strerror(errno.EIO)} on /data/the-file"
    for n in range(1, MANY):
        assert values(store.partition(n)) == [(0, b"v")], "what was flushed before can be read, no more"
        with pytest.raises(errors.LogOffline):
            store.partition(n).append(frame(b"x"), None)


def test_a_stop_flushes_what_is_queued_behind_a_call(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=msgspec.structs.replace(QUIET, flush_threads=3)).open()
    for n in range(MANY):
        append(store.partition(n), b"v")
    gate = hold(store)
    told: list[Any] = []
    calls.open.clear()
    for n in range(1, MANY):
        store.partition(n).append(frame(b"w"), told.append)
    stopper = threading.Thread(target=store.close)
    stopper.start()
    gate.open.set()
    calls.open.set()
    stopper.join(30)
    assert not stopper.is_alive()
    assert len(told) == MANY - 1
    assert all(isinstance(outcome, Placed) for outcome in told)


def test_no_request_is_lost_whatever_the_timing(make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "MOST_TOGETHER", 4)
    store = make(partitions=MANY, log=msgspec.structs.replace(QUIET, flush_threads=3)).open()
    rounds, lost = 60, []

    def send(n: int) -> None:
        for _ in range(rounds):
            told = threading.Event()
            store.partition(n).append(frame(b"v"), lambda outcome, told=told: told.set())  # type: ignore[misc]
            if not told.wait(20):
                lost.append(n)
                return

    threads = [threading.Thread(target=send, args=(n,)) for n in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lost == []
    assert calls.paths, "some were flushed with one call"
    assert all(store.partition(n).flushed_offset == rounds for n in range(MANY))


@dataclass
class File:
    fd: int
    path: str


def test_the_call_names_the_file_that_failed(tmp_path: Path) -> None:
    with (tmp_path / "good").open("wb") as good:
        ours = File(good.fileno(), "good")
        _os.flush_files([ours, ours])  # type: ignore[list-item]
        with pytest.raises(OSError, match="bad") as failed:
            _os.flush_files([ours, File(-1, "bad"), ours])  # type: ignore[list-item]
    assert (failed.value.errno, failed.value.filename) == (errno.EBADF, "bad")
    _os.flush_files([])
