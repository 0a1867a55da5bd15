"""The tables of the metadata database, and the checksum that each of their rows carries.

SQLite has no page checksums, so a flipped bit could turn into another topic name or offset.
Every row therefore ends with a CRC-32 of its own content, and one row (``state``) holds the
number of all other rows and the sum of their checksums: a row that is lost, doubled, or an
older version of itself is found as surely as one that is garbled, whatever the b-trees say.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

#: ``PRAGMA application_id``: "TAKH".
APPLICATION_ID = 0x54414B48
#: ``PRAGMA user_version``. Raise it when a table changes, and teach ``open`` the older one.
FORMAT_VERSION = 1

#: A row without its checksum, key columns first.
Row = tuple[int | str, ...]
#: A table's name, then the values of its key columns.
Key = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its key columns come first, its checksum last."""

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    #: Columns that hold text; the others hold integers.
    text: frozenset[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Without the checksum."""
        return self.key + self.values

    @property
    def create_sql(self) -> str:
        # WITHOUT ROWID: the table is its own primary index, so no second b-tree can disagree with it.
        columns = ", ".join(f"{name} {'TEXT' if name in self.text else 'INTEGER'} NOT NULL" for name in self.columns)
        return (
            f"CREATE TABLE {self.name} ({columns}, crc INTEGER NOT NULL, "
            f"PRIMARY KEY ({', '.join(self.key)})) WITHOUT ROWID"
        )

    @property
    def select_sql(self) -> str:
        return f"SELECT {', '.join(self.columns)}, crc FROM {self.name}"

    @property
    def replace_sql(self) -> str:
        marks = ", ".join("?" for _ in range(len(self.columns) + 1))
        return f"REPLACE INTO {self.name} ({', '.join(self.columns)}, crc) VALUES ({marks})"

    @property
    def delete_sql(self) -> str:
        return f"DELETE FROM {self.name} WHERE {' AND '.join(f'{name} = ?' for name in self.key)}"

    def key_of(self, row: Row) -> Key:
        return (self.name, *row[: len(self.key)])


#: One row: the identity of the database, the commits made so far, and the sum over all other rows.
STATE = Table(
    "state", ("id",), ("server_id", "created_ms", "commits", "row_count", "crc_sum"), frozenset({"server_id"})
)
COUNTERS = Table("counters", ("name",), ("value",), frozenset({"name"}))
TOPICS = Table(
    "topics",
    ("topic_id",),
    ("name", "num_partitions", "configs", "created_ms", "deleting"),
    frozenset({"topic_id", "name", "configs"}),
)
LOG_STARTS = Table("log_starts", ("topic_id", "partition"), ("log_start_offset",), frozenset({"topic_id"}))
COMMITTED_OFFSETS = Table(
    "committed_offsets",
    ("group_id", "topic_id", "partition"),
    ("committed_offset",),
    frozenset({"group_id", "topic_id"}),
)
PRODUCERS = Table("producers", ("producer_id",), ("epoch",), frozenset())

#: All that hold content; ``state`` sums them up.
TABLES = {table.name: table for table in (COUNTERS, TOPICS, LOG_STARTS, COMMITTED_OFFSETS, PRODUCERS)}

#: Kept empty. Filling and emptying it leaves free pages in the file, so that metadata
#: can grow a little while the disk is full. Its content means nothing.
RESERVE_SQL = "CREATE TABLE reserve (filler BLOB)"

#: ``state.crc_sum`` is kept below this, so that it fits SQLite's signed integers.
CRC_SUM_MODULUS = 1 << 63


def row_crc(table: Table, row: Row) -> int:
    """CRC-32 (zlib's) of a row's content and of the table it belongs to.

    Each value goes in as its type, its length and its text, so that no two rows look the same.
    Raises ``TypeError`` for values that are neither text nor integer, ``UnicodeEncodeError`` for
    text that is not Unicode.
    """
    parts = [table.name]
    for value in row:
        if type(value) is int:
            parts.append(f"i{value};")
        elif type(value) is str:
            parts.append(f"s{len(value)}:{value};")
        else:
            raise TypeError(f"{type(value).__name__} in table {table.name}")
    return zlib.crc32("".join(parts).encode())


def schema_sql() -> Iterable[str]:
    """The statements that make the tables, as ``sqlite_master`` repeats them."""
    yield STATE.create_sql
    for table in TABLES.values():
        yield table.create_sql
    yield RESERVE_SQL
