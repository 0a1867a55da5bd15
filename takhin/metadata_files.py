"""The files around the metadata database: made, looked at and set aside without SQLite."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import uuid
from pathlib import Path

from . import errors
from .metadata_schema import APPLICATION_ID, COUNTERS, FORMAT_VERSION, STATE, row_crc, schema_sql

#: Disk space kept for the write-ahead log, bytes, so that commits do not need any on a full disk.
WAL_RESERVE_BYTES = 4 * 1024 * 1024
#: Free pages that a new database begins with, bytes, for rows that are added on a full disk.
RESERVE_BYTES = 256 * 1024

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"

#: The counter that gives the next producer id.
NEXT_PRODUCER_ID = "next_producer_id"


def create_database(path: Path, now_ms: int) -> None:
    """Make an empty database, whole or not at all: aside, flushed, renamed, directory flushed.

    Raises ``MetadataDamaged`` when files of an older database lie there without it.
    """
    for suffix in ("-wal", "-commits"):
        left = path.with_name(path.name + suffix)
        if left.exists():
            raise errors.MetadataDamaged(
                f"{path} is missing, but {left.name} is there: put the database back, or move every file whose "
                f"name begins with {path.name} aside to start without topics and groups. Segments are untouched.",
                path=path,
            )
    aside = path.with_name("new-" + path.name)
    for suffix in ("", "-wal", "-shm", "-journal"):
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    server_id = uuid.uuid4().hex
    counter = (NEXT_PRODUCER_ID, 1)
    counter_crc = row_crc(COUNTERS, counter)
    state = (1, server_id, now_ms, 0, 1, counter_crc)
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        for statement in schema_sql():
            connection.execute(statement)
        connection.execute(COUNTERS.replace_sql, (*counter, counter_crc))
        connection.execute(STATE.replace_sql, (*state, row_crc(STATE, state)))
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (RESERVE_BYTES,))
        connection.execute("COMMIT")
        connection.execute("DELETE FROM reserve")
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    aside.rename(path)
    sync_directory(path.parent)


def check_header(path: Path) -> None:
    """Hold the database's first bytes against what this program writes.

    SQLite believes some of them too readily: a flipped bit can make it forget its log.
    Raises ``MetadataDamaged``; ``OSError``.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    advice = (
        f"Restore it from a backup, or move every file whose name begins with {path.name} aside to start "
        "without topics and groups. Segments are untouched."
    )
    if len(header) < _HEADER_BYTES or header[:16] != _MAGIC:
        raise errors.MetadataDamaged(f"{path} is not a database. {advice}", path=path)
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise errors.MetadataDamaged(f"{path} is not a database of this program, or damaged. {advice}", path=path)
    version = int.from_bytes(header[60:64], "big")
    if version > FORMAT_VERSION:
        raise errors.MetadataDamaged(
            f"{path} has format {version}, written by a newer version of this program, or is damaged; this one knows "
            f"formats up to {FORMAT_VERSION}. Start the newer version. {advice}",
            path=path,
            format=version,
        )
    # Bytes 18 and 19: write-ahead log. 21 to 23: constants of the format. 52: no auto-vacuum. 56: UTF-8.
    if version != FORMAT_VERSION or header[18:20] != b"\x02\x02" or header[21:24] != b"\x40\x20\x20":
        raise errors.MetadataDamaged(f"{path} has a damaged header. {advice}", path=path)
    if any(header[52:56]) or header[56:60] != b"\0\0\0\1" or any(header[64:68]):
        raise errors.MetadataDamaged(f"{path} has a damaged header. {advice}", path=path)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def drop_page_cache(path: Path) -> None:
    """Make the log be read from the disk: after a failed flush the cache may hold what the disk does not."""
    try:
        fd = os.open(_beside(path, "-wal"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def keep_write_ahead_log(path: Path) -> bool:
    """Give the log of an unclean stop a second name, so that SQLite cannot remove it; False: there is none."""
    wal, kept = _beside(path, "-wal"), _beside(path, "-wal.kept")
    if kept.exists():
        if not wal.exists():
            kept.rename(wal)  # a start before this one did not come to its end
        else:
            kept.unlink()
    if not wal.exists() or wal.stat().st_size == 0:
        return False
    try:
        os.link(wal, kept)
    except OSError:
        try:
            shutil.copyfile(wal, kept)  # a filesystem without hard links
        except OSError:
            kept.unlink(missing_ok=True)
            return False
    return True


def put_back_write_ahead_log(path: Path) -> None:
    os.replace(_beside(path, "-wal.kept"), _beside(path, "-wal"))


def release_write_ahead_log(path: Path) -> None:
    _beside(path, "-wal.kept").unlink(missing_ok=True)


def reserve_write_ahead_log(path: Path) -> None:
    """Take disk space for the log while there is some. SQLite reads the zeros as an empty log."""
    try:
        fd = os.open(_beside(path, "-wal"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(fd).st_size == 0:
            os.posix_fallocate(fd, 0, WAL_RESERVE_BYTES)
    except OSError:
        pass  # a full disk, or a filesystem that cannot: commits need space then
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
