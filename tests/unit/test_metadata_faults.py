"""What the metadata store does when the disk fails it, or the process dies."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from takhin import errors, metadata_files, metadata_store
from takhin.clock import ManualClock
from takhin.metadata import Metadata


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    store = Metadata(tmp_path / "metadata.db", ManualClock())
    store.open()
    yield store
    store.close()


class FailingConnection:
    """A connection whose statements fail as told."""

    def __init__(self, connection: sqlite3.Connection, statement: str, code: int | BaseException) -> None:
        self._connection = connection
        self._statement = statement
        self._code = code

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement.startswith(self._statement):
            if isinstance(self._code, BaseException):
                raise self._code
            error = sqlite3.OperationalError("made up")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextlib.contextmanager
def failing(metadata: Metadata, statement: str, code: int | BaseException) -> Iterator[None]:
    real = metadata._store._connection
    assert real is not None
    metadata._store._connection = FailingConnection(real, statement, code)  # type: ignore[assignment]
    try:
        yield
    finally:
        metadata._store._connection = real


@contextlib.contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Writes past it fail with EFBIG, which is an I/O error to SQLite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_commit_is_flushed_before_it_returns(metadata: Metadata) -> None:
    assert metadata._store._connection is not None
    assert metadata._store._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert metadata._store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_after_a_failed_commit_nothing_is_written_until_a_restart(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    metadata.commit_offsets("g", [(topic_id, 0, 1)])
    with largest_file(4096), pytest.raises(errors.DurabilityUnknown):
        metadata.commit_offsets("g", [(topic_id, 0, 2)])
    with pytest.raises(errors.LogOffline, match="restarted"):
        metadata.commit_offsets("g", [(topic_id, 0, 3)])
    with pytest.raises(errors.LogOffline):
        metadata.new_producer()
    assert metadata.offline_reason
    assert metadata.committed_offsets("g") == {(topic_id, 0): 1}
    metadata.close()
    metadata.open()
    assert not metadata.offline_reason
    assert metadata.committed_offsets("g")[topic_id, 0] in (1, 2)
    metadata.commit_offsets("g", [(topic_id, 0, 4)])


@pytest.mark.parametrize(
    ("statement", "code", "error"),
    [
        ("COMMIT", sqlite3.SQLITE_IOERR | 4 << 8, errors.DurabilityUnknown),
        ("COMMIT", sqlite3.SQLITE_CORRUPT, errors.LogOffline),
        ("COMMIT", MemoryError("made up"), errors.DurabilityUnknown),
        ("BEGIN", sqlite3.SQLITE_READONLY, errors.LogOffline),
        ("BEGIN", sqlite3.SQLITE_NOTADB, errors.LogOffline),
        ("REPLACE", sqlite3.SQLITE_IOERR, errors.LogOffline),
    ],
)
def test_a_failure_that_is_not_a_full_disk_ends_all_writing(
    metadata: Metadata, statement: str, code: int, error: type[errors.TakhinError]
) -> None:
    with failing(metadata, statement, code), pytest.raises(error) as caught:
        metadata.create_topic("logs", 1, {})
    assert "/" not in caught.value.message, "no path of this machine goes to callers"
    assert not caught.value.fields
    with pytest.raises(errors.LogOffline):
        metadata.create_topic("logs", 1, {})
    assert metadata.topics() == []


def test_a_failed_checkpoint_takes_no_commit_back_and_ends_all_writing(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_store, "CHECKPOINT_FRAMES", 1)
    with failing(metadata, "PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR):
        metadata.create_topic("logs", 1, {})
    with pytest.raises(errors.LogOffline, match="checkpoint"):
        metadata.create_topic("more", 1, {})
    assert len(metadata.topics()) == 1


def test_a_checkpoint_that_finds_the_disk_full_is_tried_again(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(metadata, "PRAGMA wal_checkpoint", sqlite3.SQLITE_FULL):
        metadata._store._frames = metadata_store.CHECKPOINT_FRAMES
        metadata.create_topic("logs", 1, {})
    assert metadata._store._frames == metadata_store.CHECKPOINT_FRAMES - metadata_store.CHECKPOINT_RETRY_FRAMES
    for number in range(metadata_store.CHECKPOINT_RETRY_FRAMES):
        metadata.create_topic(f"t{number}", 1, {})
    assert metadata._store._frames < metadata_store.CHECKPOINT_FRAMES - metadata_store.CHECKPOINT_RETRY_FRAMES


def test_on_a_full_disk_commits_fail_whole_and_resume_by_themselves(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic_id = metadata.create_topic("logs", 9000, {}).topic_id
    metadata.commit_offsets("g", [(topic_id, 0, 1)])
    many = [(topic_id, partition, 7) for partition in range(9000)]
    with monkeypatch.context() as full:
        full.setattr(metadata_store, "GROWTH_MARGIN_BYTES", 1 << 60)
        with pytest.raises(errors.DiskFull) as caught:
            metadata.commit_offsets("g", many)
        assert caught.value.retriable
        assert metadata.committed_offsets("g") == {(topic_id, 0): 1}
        metadata.commit_offsets("g", [(topic_id, 0, 2)])
    metadata.commit_offsets("g", many)
    metadata.close()
    metadata.open()
    assert metadata.committed_offsets("g") == {(topic_id, partition): 7 for partition in range(9000)}


def test_free_pages_for_a_full_disk_are_made_anew(metadata: Metadata) -> None:
    def free_pages() -> int:
        assert metadata._store._connection is not None
        (count,) = metadata._store._connection.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    topic_id = metadata.create_topic("logs", 2500, {}).topic_id
    assert free_pages() >= metadata_files.RESERVE_BYTES // 4096 // 2
    metadata.commit_offsets("g", [(topic_id, partition, 7) for partition in range(2500)])
    assert free_pages() < metadata_files.RESERVE_BYTES // 4096 // 2
    metadata.close()
    metadata.open()
    assert free_pages() >= metadata_files.RESERVE_BYTES // 4096 // 2
    assert len(metadata.committed_offsets("g")) == 2500


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(place: Path) -> Path:
    """Leave not one byte free."""
    with open(place / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    assert shutil.disk_usage(place).free == 0
    return place / "ballast"


@pytest.fixture
def on_small_disk(small_disk: Path) -> Iterator[Metadata]:
    metadata = Metadata(small_disk / "metadata.db", ManualClock())
    metadata.open()
    yield metadata
    metadata.close()


def test_on_a_full_file_system_commits_go_on_and_a_start_works(small_disk: Path, on_small_disk: Metadata) -> None:
    metadata = on_small_disk
    topic_id = metadata.create_topic("logs", 10, {}).topic_id
    metadata.commit_offsets("old", [(topic_id, 0, 1)])
    ballast = fill_up(small_disk)

    for offset in range(2000):  # several times the log's length
        metadata.commit_offsets("old", [(topic_id, offset % 10, offset)])
    for number in range(200):
        metadata.commit_offsets(f"new{number}", [(topic_id, 0, number)])
    added = []
    with contextlib.suppress(errors.DiskFull):
        for number in range(100_000):
            metadata.commit_offsets("many", [(topic_id, number % 10, number)])
            added.append(metadata.create_topic("x" * 200 + f"{number}", 1, {"retention.ms": "9" * 2000}).topic_id)
    assert len(added) < 10_000
    metadata.commit_offsets("old", [(topic_id, 0, 5000)])
    metadata.mark_deleting(added[0])
    metadata.forget_topic(added[0])
    contents = (metadata.topics(), metadata.committed_offsets("old"), metadata.committed_offsets("many"))
    metadata.close()

    fill_up(small_disk)
    metadata.open()
    assert contents == (metadata.topics(), metadata.committed_offsets("old"), metadata.committed_offsets("many"))
    assert len(metadata.group_ids()) == 202
    ballast.unlink()
    metadata.commit_offsets("old", [(topic_id, 0, 6000)])
    metadata.create_topic("after", 1, {"retention.ms": "9" * 2000})
    metadata.close()
    metadata.open()
    assert metadata.committed_offsets("old")[topic_id, 0] == 6000


COMMIT_IN_A_LOOP = """
import os, sys, threading
from pathlib import Path
from takhin.clock import Clock
from takhin.metadata import Metadata

metadata = Metadata(Path(sys.argv[1]), Clock())
metadata.open()
first = int(sys.argv[2])
topics = metadata.topics()
topic_id = (topics[0] if topics else metadata.create_topic("a", 8, {})).topic_id

def work(partition):
    offset = first
    while True:
        offset += 1
        metadata.commit_offsets(f"g{partition}", [(topic_id, partition, offset), (topic_id, 7, offset)])
        os.write(1, b"%d %d\\n" % (partition, offset))

threads = [threading.Thread(target=work, args=(partition,)) for partition in range(4)]
for thread in threads:
    thread.start()
while True:
    name = metadata.create_topic(f"t{os.getpid()}-{len(metadata.topics())}", 1, {}).name
    os.write(1, b"topic %s\\n" % name.encode())
"""


def test_kill_9_takes_nothing_back_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    acknowledged = [0] * 4
    topics: set[str] = set()
    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMIT_IN_A_LOOP, str(path), str(round_number * 1_000_000)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        timer = threading.Timer(10, process.kill)
        timer.start()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) == 400 + 131 * round_number:
                process.send_signal(signal.SIGKILL)
        timer.cancel()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        assert len(lines) >= 400
        for line in lines:
            what, value = line.split()
            if what == b"topic":
                topics.add(value.decode())
            else:
                acknowledged[int(what)] = max(acknowledged[int(what)], int(value))

        metadata = Metadata(path, ManualClock())
        metadata.open()
        names = {topic.name: topic.topic_id for topic in metadata.topics()}
        assert topics <= names.keys()
        for partition, offset in enumerate(acknowledged):
            committed = metadata.committed_offsets(f"g{partition}")
            assert committed[names["a"], partition] in (offset, offset + 1)
            assert committed[names["a"], partition] == committed[names["a"], 7], "all or none"
        metadata.close()
    assert topics
