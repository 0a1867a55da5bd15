"""A power cut at any moment takes nothing that was acknowledged as durable, or seen.

A real workload runs under the shim, which writes down every change, every flush and what was promised
when. A simulated disk then loses what was not flushed, in many ways, and each result is recovered by the
engine and held against the promises. How many: ``TAKHIN_POWERCUT_STATES`` (0: every state of the
finite families, and as many random ones), which states: ``TAKHIN_SEED``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .disk import SIZE_ONLY, Content, Disk, FileChange, by_changes
from .shards import run_shards
from .shim import REPOSITORY, environment
from .trace import Event, Kind, read_trace

STATES = int(os.environ.get("TAKHIN_POWERCUT_STATES", "2000"))
SEED = int(os.environ.get("TAKHIN_SEED", "1"))


def record(shim: Path, scratch: Path, module: str, seed: int) -> tuple[Path, Path]:
    """Run all lives of a workload; gives the trace and the directory."""
    victim, trace = scratch / "victim", scratch / "trace"
    victim.mkdir()
    for life in ("a", "b", "c"):
        done = subprocess.run(
            [sys.executable, "-m", module, str(victim), str(trace), str(seed), life],
            cwd=REPOSITORY,
            env=environment(shim, victim, trace, flush_delay_us=1500),
            capture_output=True,
            timeout=60,
            check=False,
        )
        expected = -signal.SIGKILL if life == "a" else 0
        assert done.returncode == expected, f"life {life}: {done.stderr.decode()[-3000:]}"
    return trace, victim


def most_at_once(trace: Path) -> int:
    """How many flushes of a process had begun and not ended, at most."""
    begun: Counter[int] = Counter()
    most = 0
    for event in read_trace(trace):
        begun[event.pid] += (event.kind is Kind.FLUSH_BEGIN) - (event.kind is Kind.FLUSH_END)
        most = max(most, begun[event.pid])
    return most


@pytest.mark.timeout(0 if STATES == 0 or STATES > 5000 else 300)
@pytest.mark.parametrize(
    ("workload", "share"), [("workload", 0.75), ("server_workload", 0.25)], ids=["engine", "server"]
)
def test_no_power_cut_takes_back_what_was_promised(
    shim: Path, scratch: Path, workload: str, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, victim = record(shim, scratch, f"tests.faults.{workload}", SEED)
    assert most_at_once(trace) > 4, "no files were flushed side by side"
    states = int(STATES * share)
    found = run_shards("tests.faults.powercut", [str(trace), str(victim)], scratch, [str(states), str(SEED)])
    with capsys.disabled():
        print(f"\npower cuts ({workload}): {found}")
    found.demand_none(f"power-cuts-{workload}")
    assert found.counts.total() - found.counts["equal"] >= min(states, 800) * 0.6


# -- the simulated disk itself ----------------------------------------------------------------------


def test_the_simulated_disk_ends_as_the_real_one(shim: Path, scratch: Path) -> None:
    trace, victim = record(shim, scratch, "tests.faults.workload", SEED)
    disk = Disk(str(victim))
    for event in read_trace(trace):
        disk.apply(event)
    state = disk.state(lambda change: True)
    real = {str(path.relative_to(victim)): path for path in victim.rglob("*")}
    assert sorted([*state.files, *(path for _, path in state.links)]) == sorted(
        name for name, path in real.items() if path.is_file()
    )
    for name, content in state.files.items():
        assert content.read() == real[name].read_bytes(), name


class Tape:
    """Makes events as the shim would."""

    def __init__(self) -> None:
        self.disk = Disk("/d")
        self._next = 0

    def __call__(self, kind: Kind, fd: int = -1, a: int = 0, b: int = 0, data: bytes = b"", flag: int = 0) -> None:
        self.disk.apply(Event(self._next, kind, flag, 1, fd, a, b, data))
        self._next += 1

    def create(self, fd: int, path: str) -> None:
        self(Kind.OPEN, fd, data=path.encode(), flag=1)

    def write(self, fd: int, offset: int, data: bytes) -> None:
        self(Kind.WRITE, fd, offset, len(data), data)

    def flush(self, fd: int) -> None:
        self(Kind.FLUSH_BEGIN, fd, 1)
        self(Kind.FLUSH_END, fd, 1)

    def sync_root(self) -> None:
        self(Kind.OPEN, 99, data=b"/d")
        self.flush(99)

    def files(self, keep: bool = False) -> dict[str, bytes]:
        return {name: content.read() for name, content in self.disk.state(lambda change: keep).files.items()}


def test_a_file_survives_when_it_and_its_name_are_flushed() -> None:
    tape = Tape()
    tape.create(3, "/d/a")
    tape.write(3, 0, b"one")
    assert tape.files() == {}
    assert tape.files(keep=True) == {"a": b"one"}
    tape.flush(3)
    assert tape.files() == {}, "a flush of the file does not flush its name"
    tape.sync_root()
    assert tape.files() == {"a": b"one"}
    tape.write(3, 1, b"xx!")
    assert tape.files() == {"a": b"one"}


def test_a_flush_covers_only_what_was_written_before_it_began() -> None:
    tape = Tape()
    tape.create(3, "/d/a")
    tape.sync_root()
    tape.write(3, 0, b"before")
    tape(Kind.FLUSH_BEGIN, 3, 7)
    tape.write(3, 6, b" after")
    tape(Kind.FLUSH_END, 3, 7)
    assert tape.files() == {"a": b"before"}


def test_a_failed_flush_makes_nothing_durable() -> None:
    tape = Tape()
    tape.create(3, "/d/a")
    tape.sync_root()
    tape.write(3, 0, b"lost")
    tape(Kind.FLUSH_BEGIN, 3, 7)
    tape(Kind.FLUSH_END, 3, 7, flag=5)
    assert tape.files() == {"a": b""}


def test_a_rename_replaces_as_a_whole_and_needs_its_directory() -> None:
    tape = Tape()
    tape.create(3, "/d/a")
    tape.write(3, 0, b"old")
    tape.flush(3)
    tape.sync_root()
    tape.create(4, "/d/a.tmp")
    tape.write(4, 0, b"new")
    tape.flush(4)
    both = b"/d/a.tmp/d/a"
    tape(Kind.RENAME, a=len("/d/a.tmp"), data=both)
    assert tape.files() == {"a": b"old"}
    assert tape.files(keep=True) == {"a": b"new"}
    renames = {change.index for change in tape.disk.names if change.removes}
    assert {name: content.read() for name, content in tape.disk.state(lambda c: c.index in renames).files.items()} == {
        "a": b"new"
    }
    tape.sync_root()
    assert tape.files() == {"a": b"new"}


def test_what_lies_in_a_lost_directory_is_lost() -> None:
    tape = Tape()
    tape(Kind.MKDIR, data=b"/d/sub")
    tape.create(3, "/d/sub/a")
    tape.write(3, 0, b"x")
    tape.flush(3)
    tape(Kind.OPEN, 5, data=b"/d/sub")
    tape.flush(5)
    assert tape.files() == {}
    tape.sync_root()
    assert tape.files() == {"sub/a": b"x"}


def test_a_write_is_torn_at_sectors_of_the_file() -> None:
    tape = Tape()
    tape.create(3, "/d/a")
    tape.sync_root()
    tape.write(3, 500, b"y" * 600)
    (change,) = [change for change in tape.disk.pending() if isinstance(change, FileChange)]
    assert change.sectors() == [(0, 12), (12, 524), (524, 600)]
    kept = tape.disk.state(lambda change: [(0, 12)]).files["a"]
    assert kept.read() == bytes(500) + b"y" * 12
    assert tape.disk.state(lambda change: SIZE_ONLY).files["a"].read() == bytes(1100)


def test_sparse_contents_are_those_of_plain_bytes() -> None:
    random_ = random.Random(5)
    content, plain = Content(), bytearray()
    for _ in range(400):
        if random_.random() < 0.2:
            size = random_.randrange(20_000)
            content.resize(size)
            plain = bytearray(plain[:size].ljust(size, b"\0"))
        else:
            offset, data = random_.randrange(15_000), random_.randbytes(random_.randrange(1, 6000))
            content.write(offset, data)
            plain = plain.ljust(offset + len(data), b"\0")
            plain[offset : offset + len(data)] = data
        assert content.read() == plain


def test_the_fate_of_a_change_is_decided_once() -> None:
    keep = by_changes(random.Random(1), 0.5)
    change = FileChange(1, Disk("/d").root)
    assert len({keep(change) for _ in range(50)}) == 1


def test_syncfs_makes_everything_durable_that_was_done_before_it_began() -> None:
    tape = Tape()
    tape(Kind.MKDIR, data=b"/d/sub")
    tape.create(3, "/d/a")
    tape.create(4, "/d/sub/b")
    tape.write(3, 0, b"one")
    tape.write(4, 0, b"two")
    tape(Kind.OPEN, 9, data=b"/d")
    tape(Kind.SYNCFS_BEGIN, 9, 1)
    tape.write(3, 0, b"new")
    tape.create(5, "/d/c")
    tape(Kind.SYNCFS_END, 9, 1)
    assert tape.files() == {"a": b"one", "sub/b": b"two"}
    tape(Kind.SYNCFS_BEGIN, 9, 2)
    tape(Kind.SYNCFS_END, 9, 2, flag=5)
    assert tape.files() == {"a": b"one", "sub/b": b"two"}, "one that fails makes nothing durable"


@pytest.mark.timeout(120)
def test_the_workload_flushes_in_groups_too(shim: Path, scratch: Path) -> None:
    trace, _ = record(shim, scratch, "tests.faults.workload", SEED)
    kinds = [event.kind for event in read_trace(trace)]
    assert kinds.count(Kind.SYNCFS_BEGIN) >= 5
    assert kinds.count(Kind.FLUSH_BEGIN) >= 5
