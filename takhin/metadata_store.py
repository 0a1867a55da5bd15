"""The metadata database file: made, checked, read and committed to.

``metadata.db`` is SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives
a power cut. Beside it lie ``metadata.db-wal`` while the server runs, and ``metadata.db-commits``,
the witness (see ``metadata_witness``). One process has the database open, exclusively: that
also keeps SQLite from needing a shared-memory file, which a full disk could refuse.

Used by one thread at a time: the commit queue's leader.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import errors
from .clock import Clock
from .metadata_files import (
    RESERVE_BYTES,
    check_header,
    create_database,
    drop_page_cache,
    keep_write_ahead_log,
    put_back_write_ahead_log,
    release_write_ahead_log,
    reserve_write_ahead_log,
    sync_directory,
)
from .metadata_schema import CRC_SUM_MODULUS, STATE, TABLES, Key, Row, Table, row_crc, schema_sql
from .metadata_witness import Witness

log = logging.getLogger(__name__)

#: Frames (pages) in the write-ahead log, about, from which on a commit is followed by a checkpoint.
#: Two thirds of what is reserved for it on disk: so commits go on for a while when the disk is full.
CHECKPOINT_FRAMES = 640
#: After a checkpoint that found the disk full, this many frames more until the next try.
CHECKPOINT_RETRY_FRAMES = 64

#: Disk space that must be left, bytes, for the database file to be made longer.
GROWTH_MARGIN_BYTES = 1024 * 1024
#: SQLite's own bound on the pages of a file.
MOST_PAGES = 1073741823

#: A change of one row: its key, what it was, what it becomes. None: no such row.
Change = tuple[Key, Row | None, Row | None]


@dataclass(frozen=True, slots=True)
class State:
    """The ``state`` row."""

    server_id: str
    created_ms: int
    commits: int
    row_count: int
    crc_sum: int

    def to_row(self) -> Row:
        return (1, self.server_id, self.created_ms, self.commits, self.row_count, self.crc_sum)

    @classmethod
    def from_row(cls, row: Row) -> State:
        _, server_id, created_ms, commits, row_count, crc_sum = row
        return cls(str(server_id), int(created_ms), int(commits), int(row_count), int(crc_sum))

    def after(self, changes: Sequence[Change]) -> State:
        """The state once these changes are committed."""
        row_count, crc_sum = self.row_count, self.crc_sum
        for key, old, new in changes:
            table = TABLES[str(key[0])]
            if old is not None:
                row_count -= 1
                crc_sum -= row_crc(table, old)
            if new is not None:
                row_count += 1
                crc_sum += row_crc(table, new)
        return State(self.server_id, self.created_ms, self.commits + 1, row_count, crc_sum % CRC_SUM_MODULUS)


class MetadataStore:
    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.state = State("", 0, 0, 0, 0)
        #: Why nothing is written any more; empty while all is well.
        self.offline_reason = ""
        self._clock = clock
        self._witness = Witness(path.with_name(path.name + "-commits"))
        self._connection: sqlite3.Connection | None = None
        self._frames = 0

    # -- opening ------------------------------------------------------------------------------

    def open(self) -> list[tuple[Key, Row]]:
        """Check the whole database, made first where there is none, and give all of its rows.

        Raises ``MetadataDamaged``, ``DataDirLocked``, ``DiskFull`` (while making a new one).
        """
        started = time.monotonic()
        self.offline_reason = ""
        try:
            if not self.path.exists():
                create_database(self.path, self._clock.now_ms())
            check_header(self.path)
            drop_page_cache(self.path)
            kept = keep_write_ahead_log(self.path)
            try:
                rows = self._check_and_read()
            except BaseException:
                self._disconnect()
                # Closing made SQLite fold the log's readable part into the database and remove it:
                # the log is put back, because what follows the damage may still be of use to somebody.
                if kept:
                    put_back_write_ahead_log(self.path)
                raise
            release_write_ahead_log(self.path)
            self._settle()
        except sqlite3.Error as error:
            self._disconnect()
            raise self._refusal(error) from error
        except (ValueError, TypeError, OverflowError) as error:
            # The binding's own complaints, about text that is not UTF-8 for example.
            self._disconnect()
            raise self._damaged(str(error)) from error
        except OSError as error:
            self._disconnect()
            raise self._unusable(str(error)) from error
        log.info(
            "metadata opened",
            extra={
                "fields": {
                    "path": str(self.path),
                    "rows": len(rows),
                    "commits": self.state.commits,
                    "seconds": round(time.monotonic() - started, 3),
                }
            },
        )
        return rows

    def _check_and_read(self) -> list[tuple[Key, Row]]:
        """Reads only: a database that is refused is left as it is."""
        connection = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        found = {str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if found != set(schema_sql()):
            raise self._damaged("its tables are not the ones that they should be")
        (verdict, *_) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise self._damaged(f"SQLite's integrity check says: {str(verdict).strip()}")
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise self._damaged(f"its journal mode is {mode}, not wal")

        states = [row for _, row, _ in self._read(STATE)]
        if len(states) != 1:
            raise self._damaged(f"it has {len(states)} rows of state, not one")
        self.state = State.from_row(states[0])

        rows: list[tuple[Key, Row]] = []
        crc_sum = 0
        for table in TABLES.values():
            for key, row, crc in self._read(table):
                rows.append((key, row))
                crc_sum += crc
        if (len(rows), crc_sum % CRC_SUM_MODULUS) != (self.state.row_count, self.state.crc_sum):
            raise self._damaged("its rows are not the ones that were committed last")
        self._check_witness()
        return rows

    def _read(self, table: Table) -> Iterator[tuple[Key, Row, int]]:
        """All rows of a table, by a full scan, each held against its checksum, which comes last."""
        assert self._connection is not None
        for *values, crc in self._connection.execute(table.select_sql):
            row = tuple(values)
            try:
                intact = row_crc(table, row) == crc
            except (TypeError, UnicodeEncodeError):
                intact = False
            if not intact:
                raise self._damaged(f"a row of its table {table.name} does not match its checksum")
            yield table.key_of(row), row, crc

    def _check_witness(self) -> None:
        witnessed = self._witness.read(bytes.fromhex(self.state.server_id))
        if witnessed > self.state.commits:
            raise errors.MetadataDamaged(
                f"{self.path} holds {self.state.commits} commits, but {witnessed} were acknowledged: the newest are "
                f"missing, as when {self.path.name}-wal is damaged or lost, or the file is an older copy. "
                f"To go on with the state that it holds, after restoring a backup for example, remove "
                f"{self._witness.path}. Segments are untouched.",
                path=self.path,
                commits=self.state.commits,
                acknowledged=witnessed,
            )

    def _settle(self) -> None:
        """From here on the file is written: everything into the database, the log reserved and empty."""
        assert self._connection is not None
        # After an unclean stop this makes durable whatever the log holds, before anybody is told of it.
        self._checkpoint("TRUNCATE")
        self._reserve_pages()
        if self.offline_reason:
            raise self._unusable(self.offline_reason)
        reserve_write_ahead_log(self.path)
        self._witness.open(bytes.fromhex(self.state.server_id), self.state.commits)
        sync_directory(self.path.parent)

    def _reserve_pages(self) -> None:
        """Have some free pages in the file, so that rows can be added on a full disk."""
        assert self._connection is not None
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        self._limit_pages()
        if free * page_bytes < RESERVE_BYTES // 2:
            self._grow(RESERVE_BYTES)

    def _limit_pages(self) -> None:
        """Let no commit make the file longer.

        A commit that did could fit in the log and then not in the file: the log could never be
        emptied again, and on a full disk no commit at all would be possible, not even in place.
        """
        assert self._connection is not None
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def _grow(self, size_bytes: int) -> bool:
        """Add free pages to the file if the disk has room to spare; False when it has not."""
        assert self._connection is not None
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * size_bytes + GROWTH_MARGIN_BYTES:
            return False
        try:
            self._connection.execute(f"PRAGMA max_page_count = {MOST_PAGES}")
            # Filled and emptied in two transactions with a checkpoint between them: pages that are
            # never written take no space. (Found full when an earlier start was cut off here.)
            self._connection.execute("DELETE FROM reserve")
            self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size_bytes,))
            self._checkpoint("PASSIVE")
            self._connection.execute("DELETE FROM reserve")
            self._limit_pages()
        except sqlite3.Error as error:
            if primary_code(error) != sqlite3.SQLITE_FULL:
                self.go_offline(f"the file could not be made longer: {error}")
            return False
        return not self.offline_reason

    # -- committing ---------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> None:
        """Commit all of the changes or none; they are on stable storage when it returns.

        Raises ``DiskFull`` (nothing was changed; try again), ``DurabilityUnknown`` (the flush
        failed: they may or may not be there after a restart) and ``LogOffline`` (an earlier
        failure; nothing is written any more until a restart).
        """
        if self.offline_reason:
            raise self._offline()
        if self._connection is None:
            raise errors.Unavailable("the metadata database is closed")
        state = self.state.after(changes)
        try:
            self._transact(changes, state)
        except errors.DiskFull:
            # Perhaps only the free pages have run out.
            if not self._grow(RESERVE_BYTES + 2 * sum(_size_bytes(key, new) for key, _, new in changes)):
                raise
            self._transact(changes, state)
        self._witness.note(state.commits)
        self._frames += 2 + len({key[:-1] for key, _, _ in changes}) + len(changes) // 20
        if self._frames >= CHECKPOINT_FRAMES:
            self._checkpoint("PASSIVE")
            self._reserve_pages()

    def _transact(self, changes: Sequence[Change], state: State) -> None:
        assert self._connection is not None
        committing = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._write(changes, state)
            committing = True
            self._connection.execute("COMMIT")
            self.state = state
        except sqlite3.Error as error:
            failure = self._failure(error, committing=committing)
            self._roll_back()
            raise failure from error
        except BaseException as error:
            if committing:  # out of memory, or interrupted: nobody knows how far it came
                self.go_offline(f"a commit was broken off: {error!r}")
            self._roll_back()
            raise

    def _write(self, changes: Sequence[Change], state: State) -> None:
        assert self._connection is not None
        replaced: dict[str, list[Row]] = {}
        deleted: dict[str, list[Row]] = {}
        for key, _, new in changes:
            name = str(key[0])
            if new is None:
                deleted.setdefault(name, []).append(key[1:])
            else:
                replaced.setdefault(name, []).append((*new, row_crc(TABLES[name], new)))
        for name, keys in deleted.items():
            self._connection.executemany(TABLES[name].delete_sql, keys)
        for name, rows in replaced.items():
            self._connection.executemany(TABLES[name].replace_sql, rows)
        row = state.to_row()
        self._connection.execute(STATE.replace_sql, (*row, row_crc(STATE, row)))

    def _roll_back(self) -> None:
        assert self._connection is not None
        if not self._connection.in_transaction:
            return  # SQLite has done so already
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.go_offline(f"a rollback failed: {error}")

    def _failure(self, error: sqlite3.Error, *, committing: bool) -> errors.TakhinError:
        """What a failed transaction means to its callers, and to those who come after."""
        code = primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            return errors.DiskFull(f"no space left to write {self.path.name}")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.go_offline(f"the database is damaged: {error}")
            return self._offline()
        # After a failed flush the kernel may call lost pages clean: no later flush can be believed.
        self.go_offline(str(error))
        if committing:
            return errors.DurabilityUnknown(f"writing {self.path.name} failed: {error}")
        return self._offline()

    def _checkpoint(self, mode: str) -> None:
        """Carry the log over into the database. The commits in it are safe either way."""
        assert self._connection is not None
        self._frames = 0
        try:
            busy, frames, carried = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_FULL:
                self._frames = CHECKPOINT_FRAMES - CHECKPOINT_RETRY_FRAMES
                log.warning("no space to checkpoint metadata", extra={"fields": {"path": str(self.path)}})
            else:
                self.go_offline(f"a checkpoint failed: {error}")
            return
        if busy or carried < frames:
            self._frames = int(frames)

    def go_offline(self, cause: str) -> None:
        """Write nothing any more until the database is opened again. The first cause stays."""
        if not self.offline_reason:
            self.offline_reason = cause
            log.error(
                "metadata takes no writes until a restart", extra={"fields": {"path": str(self.path), "cause": cause}}
            )

    # -- closing ------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave one file that says all, and the witness. Idempotent."""
        if self._connection is None:
            return
        if not self.offline_reason:
            self._checkpoint("TRUNCATE")
        self._disconnect()
        self._witness.close()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except sqlite3.Error as error:
            log.warning("metadata not closed cleanly", extra={"fields": {"path": str(self.path), "cause": str(error)}})

    # -- what to say --------------------------------------------------------------------------

    def _damaged(self, cause: str) -> errors.MetadataDamaged:
        return errors.MetadataDamaged(
            f"{self.path} is damaged: {cause}. Restore it from a backup, or move every file whose name begins with "
            f"{self.path.name} aside to start without topics and groups. Segments are untouched.",
            path=self.path,
        )

    def _unusable(self, cause: str) -> errors.MetadataDamaged:
        return errors.MetadataDamaged(
            f"{self.path} cannot be used: {cause}. See to its disk and its permissions; segments are untouched.",
            path=self.path,
        )

    def _offline(self) -> errors.LogOffline:
        return errors.LogOffline(
            f"{self.path.name} takes no writes until the server is restarted: {self.offline_reason}"
        )

    def _refusal(self, error: sqlite3.Error) -> errors.TakhinError:
        code = primary_code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return errors.DataDirLocked(f"another process has {self.path} open", path=self.path)
        if code == sqlite3.SQLITE_FULL:
            return errors.DiskFull(f"no space left to write {self.path.name}", path=self.path)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            return self._unusable(str(error))
        return self._damaged(str(error))


def _size_bytes(key: Key, row: Row | None) -> int:
    """About what a row takes in the file, generously."""
    return 0 if row is None else 100 + sum(4 * len(value) for value in (*key, *row) if isinstance(value, str))


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 when the error came from the binding."""
    code = getattr(error, "sqlite_errorcode", None)
    return 0 if code is None else int(code) & 0xFF
