"""Many partitions that are due are flushed with one call: what it covers, who is told, and when there is none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from takhin import errors
from takhin.storage import flush_goal, flusher, group_flush, others_writes
from takhin.storage.others_writes import OthersWrites
from takhin.storage.waiters import Placed

from .storage_tools import QUIET, Store, append, configs, frame, stores, values, wait_until
from .test_storage_flush import Gate

Make = Callable[..., Store]
MANY = 20
#: One thread flushes: while it is held, the others' requests gather.
ONE_THREAD = msgspec.structs.replace(QUIET, flush_threads=1)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


class Calls:
    """Stands before ``syncfs``: counts, waits when it is told to, and may fail."""

    def __init__(self) -> None:
        self.count = 0
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()
        self.error: OSError | None = None
        #: Other flushes: of segments and directories, and of the group's witness.
        self.files = 0
        self.witnesses = 0
        self.witness_error: OSError | None = None

    def syncfs(self, fd: int) -> None:
        self.count += 1
        self.entered.release()
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        os.fstat(fd)

    def witness(self, fd: int) -> None:
        self.witnesses += 1
        if self.witness_error is not None:
            raise self.witness_error


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(group_flush, "kernel_release", lambda: (6, 1))
    monkeypatch.setattr(group_flush, "syncfs", calls.syncfs)
    monkeypatch.setattr(group_flush, "flush", calls.witness)
    monkeypatch.setattr(others_writes, "FREE_BYTES", 1 << 60)
    # As where nobody stays: of those that somebody waits for all the time.
    monkeypatch.setattr(flusher.Flusher, "_may_stay", False)
    return calls


def send_to_all(store: Store, told: list[Any], partitions: range = range(1, MANY)) -> None:
    """While partition 0 keeps the only flusher busy, a batch to each other; then it is let go."""
    gate = Gate(store.partition(0))
    store.partition(0).append(frame(b"first"), lambda outcome: None)
    assert gate.entered.acquire(timeout=20)
    for n in partitions:
        store.partition(n).append(frame(b"%d" % n), told.append)
    gate.open.set()


def test_many_that_wait_are_flushed_with_one_call(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    gates = [Gate(store.partition(n)) for n in range(1, MANY)]
    told: list[Any] = []
    send_to_all(store, told)
    wait_until(lambda: len(told) == MANY - 1)
    assert all(isinstance(outcome, Placed) for outcome in told)
    assert (calls.count, calls.witnesses) == (1, 1)
    assert sum(gate.flushes for gate in gates) == 0
    for n in range(1, MANY):
        assert values(store.partition(n)) == [(0, b"%d" % n)]
    counters = store.partition().environment.counters
    assert counters.flushes == 2


@pytest.mark.parametrize("journal", [True, False])
def test_ext4_is_believed_with_a_journal_only(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch, journal: bool
) -> None:
    monkeypatch.setattr(group_flush, "filesystem", lambda fd: group_flush.EXT4)
    monkeypatch.setattr(group_flush, "has_journal", lambda device: journal)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    told: list[Any] = []
    send_to_all(store, told)
    wait_until(lambda: len(told) == MANY - 1)
    assert (calls.count > 0) == journal


def test_a_journal_is_known_by_the_name_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: f"/devices/block/dm-1 of {path}".split(" of ")[0])
    listed: list[str] = []
    monkeypatch.setattr(os, "listdir", lambda path: listed)
    assert not group_flush.has_journal(0x801)
    for name, known in (("dm-10-8", False), ("dm-1-8", True)):
        listed.append(name)
        assert group_flush.has_journal(0x801) == known


def test_few_are_flushed_each_for_itself(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    told: list[Any] = []
    send_to_all(store, told, range(1, 8))
    wait_until(lambda: len(told) == 7)
    assert calls.count == 0


def test_partitions_that_nobody_waits_for_are_flushed_together_when_the_first_is_due(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=msgspec.structs.replace(QUIET, flush_linger_ms=150)).open()
    begun = time.monotonic()
    for n in range(MANY):
        store.partition(n).append(frame(b"v"), None)
        time.sleep(0.003)
    assert all(store.partition(n).high_watermark == 0 for n in range(MANY))
    wait_until(lambda: all(store.partition(n).high_watermark == 1 for n in range(MANY)))
    assert time.monotonic() - begun > 0.14
    assert calls.count == 1


def test_nobody_is_told_before_the_call_has_returned_and_only_what_came_before_it(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    calls.open.clear()
    told: list[Any] = []
    send_to_all(store, told)
    assert calls.entered.acquire(timeout=20)
    behind: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"behind"), behind.append)
    time.sleep(0.05)
    assert (told, behind) == ([], [])
    assert [store.partition(n).flushed_offset for n in range(1, MANY)] == [0] * (MANY - 1)
    hints = (store.path / "flushed-offsets").read_bytes()
    calls.open.set()
    calls.open = threading.Event()  # the next one waits again
    wait_until(lambda: len(told) == MANY - 1)
    assert calls.entered.acquire(timeout=20), "who came meanwhile is the next group"
    assert (calls.count, behind) == (2, [])
    assert {store.partition(n).high_watermark for n in range(1, MANY)} == {1}
    assert (store.path / "flushed-offsets").read_bytes() != hints, "noted after the call"
    calls.open.set()
    wait_until(lambda: len(behind) == MANY - 1)


def test_while_a_group_is_flushed_others_gather_for_the_next(make: Make, calls: Calls) -> None:
    store = make(partitions=2 * MANY, log=msgspec.structs.replace(QUIET, flush_threads=2)).open()
    calls.open.clear()
    gates = [Gate(store.partition(n)) for n in (0, MANY)]
    for n in (0, MANY):
        store.partition(n).append(frame(b"first"), lambda outcome: None)
    assert all(gate.entered.acquire(timeout=20) for gate in gates)
    together: list[Any] = []
    for n in range(1, MANY):
        store.partition(n).append(frame(b"together"), together.append)
    gates[0].open.set()
    assert calls.entered.acquire(timeout=20)
    gathered: list[Any] = []
    for n in range(MANY + 1, MANY + 4):  # too few to begin with
        store.partition(n).append(frame(b"gathered"), gathered.append)
    gates[1].open.set()
    time.sleep(0.05)
    assert (calls.count, together, gathered) == (1, [], [])
    calls.open.set()
    wait_until(lambda: len(together) == MANY - 1 and len(gathered) == 3)
    assert calls.count == 2
    # And when it gets quiet, one by one again.
    for n in (1, 2):
        append(store.partition(n), b"alone")
    assert calls.count == 2


def test_rolled_segments_and_new_names_are_covered(make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(partitions=MANY, log=ONE_THREAD, configs=configs(segment_bytes=1024)).open()
    synced: list[str] = []
    monkeypatch.setattr(flush_goal, "sync_dir", synced.append)
    gate = Gate(store.partition(0))
    store.partition(0).append(frame(b"first"), lambda outcome: None)
    assert gate.entered.acquire(timeout=20)
    told: list[Any] = []
    for n in range(1, MANY):
        for _ in range(3):
            store.partition(n).append(frame(bytes(900)), told.append)
    gate.open.set()
    wait_until(lambda: len(told) == 3 * (MANY - 1))
    assert calls.count == 1
    assert synced == [str(store.directory(0))]
    wait_until(lambda: all(len(store.files(".seal", n)) == 2 for n in range(1, MANY)))
    assert [store.partition(n).unflushed_bytes for n in range(1, MANY)] == [0] * (MANY - 1)


# -- a call that fails -------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["call", "witness"])
def test_after_a_failed_call_nothing_is_believed_again(make: Make, calls: Calls, which: str) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    append(store.partition(1), b"before")
    if which == "call":
        calls.error = OSError(5, "Input/output error")
    else:  # a filesystem that has turned read-only: syncfs has nothing to say
        calls.witness_error = OSError(30, "Read-only file system")
    told: list[Any] = []
    send_to_all(store, told)
    wait_until(lambda: len(told) == MANY - 1)
    assert {type(outcome) for outcome in told} == {errors.DurabilityUnknown}
    assert [store.partition(n).flushed_offset for n in (1, 2)] == [1, 0]
    calls.error = calls.witness_error = None
    for n in range(MANY):
        with pytest.raises(errors.LogOffline):
            store.partition(n).append(frame(b"x"), None)
    assert values(store.partition(1)) == [(0, b"before")]
    assert str(store.path) in store.partition().environment.fault.reason
    store.close()
    assert calls.count == 1, "not tried again"
    assert not (store.path / "clean-shutdown").exists()


def test_a_partition_that_is_deleted_meanwhile_holds_up_nobody(make: Make, calls: Calls) -> None:
    store = make(partitions=MANY, log=ONE_THREAD).open()
    assert store.manager is not None
    calls.open.clear()
    told: list[Any] = []
    send_to_all(store, told)
    assert calls.entered.acquire(timeout=20)
    deleted = store.partition(5)
    store.manager.remove([store.specs()[5]])
    assert [type(outcome) for outcome in told] == [errors.TopicNotFound]
    calls.open.set()
    wait_until(lambda: len(told) == MANY - 1)
    assert sum(isinstance(outcome, Placed) for outcome in told) == MANY - 2
    assert deleted.environment.fault.reason == ""
    store.close()
    assert store.open().partition(5).log_end_offset == 0, "made anew"


def test_a_stop_flushes_all_at_once(make: Make, calls: Calls) -> None:
    log = msgspec.structs.replace(ONE_THREAD, flush_linger_ms=60_000)
    store = make(partitions=100, log=log).open()
    for n in range(100):
        store.partition(n).append(frame(b"%d" % n), None)
    flushes = store.partition().environment.counters
    store.close()
    assert 1 <= calls.count <= 2
    assert flushes.flushes < 20
    assert (store.path / "clean-shutdown").exists()
    store.open()
    assert [values(store.partition(n)) for n in (0, 99)] == [[(0, b"0")], [(0, b"99")]]


# -- where there is none -----------------------------------------------------------------------


@pytest.mark.parametrize("why", ["kernel", "filesystem", "proc"])
def test_where_its_answer_would_mean_nothing_each_is_flushed_for_itself(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def missing(self: OthersWrites) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    if why == "kernel":
        monkeypatch.setattr(group_flush, "kernel_release", lambda: (5, 15))
    elif why == "filesystem":
        monkeypatch.setattr(group_flush, "filesystem", lambda fd: 0x794C7630)  # overlayfs
    else:
        monkeypatch.setattr(OthersWrites, "open", missing)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    told: list[Any] = []
    send_to_all(store, told)
    wait_until(lambda: len(told) == MANY - 1)
    assert (calls.count, {type(outcome) for outcome in told}) == (0, {Placed})


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.18.44-fc-v657", (6, 18)), ("5.8.0", (5, 8)), ("4.4", (4, 4)), ("odd", (0, 0))],
)
def test_the_kernel_release_is_read(monkeypatch: pytest.MonkeyPatch, release: str, expected: tuple[int, int]) -> None:
    monkeypatch.undo()
    name = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((name[0], name[1], release, name[3], name[4])))
    assert group_flush.kernel_release() == expected


def test_beside_a_neighbour_who_writes_much_each_is_flushed_for_itself(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others_writes, "FREE_BYTES", 0)
    monkeypatch.setattr(OthersWrites, "unwritten", lambda self: 1 << 30)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    told: list[Any] = []
    send_to_all(store, told)
    wait_until(lambda: len(told) == MANY - 1)
    assert (calls.count, {type(outcome) for outcome in told}) == (0, {Placed})


def test_after_a_group_that_was_slow_there_is_none_for_a_while(
    make: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_flush, "SLOW_S", -1.0)
    monkeypatch.setattr(group_flush, "LONG_PAUSE_S", 0.5)
    store = make(partitions=MANY, log=ONE_THREAD).open()
    for wait_s, expected in ((0, 1), (0, 1), (0.6, 2)):
        time.sleep(wait_s)
        told: list[Any] = []
        send_to_all(store, told)
        wait_until(lambda told=told: len(told) == MANY - 1)  # type: ignore[misc]
        assert calls.count == expected


class Meter(OthersWrites):
    """With a clock and a page cache of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.mebibytes = 0
        monkeypatch.setattr(others_writes.time, "monotonic", lambda: self.now)
        super().__init__()

    def unwritten(self) -> int:
        return self.mebibytes << 20

    def group(self, seconds: float, left: int = 0) -> None:
        """It takes so long, and leaves so many mebibytes, which are elsewhere."""
        self.now += seconds
        self.mebibytes = left
        self.ended(seconds)


def test_what_others_left_once_is_written_once_and_not_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others_writes, "FREE_BYTES", 4 << 20)
    meter = Meter(monkeypatch)
    meter.mebibytes = 105
    assert meter.bearable(8, 0), "about a quarter of a second"
    meter.group(0.25)
    for _ in range(20):
        meter.mebibytes = 4
        assert meter.bearable(8, 0), "a little is free"
        meter.group(0.002)
    meter.mebibytes = 105
    assert not meter.bearable(8, 0), "not so soon again"
    assert meter.bearable(8, 102 << 20), "these are ours"
    meter.now += 10
    assert meter.bearable(8, 0)
    meter.mebibytes = 1000
    meter.now += 10
    assert not meter.bearable(8, 0), "never so much"


def test_what_lies_on_other_filesystems_is_not_counted_and_the_speed_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(others_writes, "FREE_BYTES", 4 << 20)
    meter = Meter(monkeypatch)
    meter.mebibytes = 90
    assert meter.bearable(8, 0)
    meter.group(0.001, left=90)
    for _ in range(50):
        assert meter.bearable(8, 0), "none of it was written, so it is elsewhere"
        meter.group(0.002, left=90)
    meter.now += 60
    meter.mebibytes = 100
    assert meter.bearable(8, 0)
    meter.group(2.0)  # 50 MB/s
    meter.now += 60
    meter.mebibytes = 100
    assert not meter.bearable(8, 0), "the disk is slower than it was taken for"


def test_the_page_cache_of_this_machine_can_be_read() -> None:
    meter = OthersWrites()
    meter.open()
    try:
        assert 0 <= meter.unwritten() < 1 << 45
    finally:
        meter.close()
