"""A segment's ``.log`` file and its two indexes, in C.

Positions are bytes in the file. Index files have Kafka's layout, big endian: offset index entries
are (relative offset of a batch's last record int32, position of the batch int32); time index
entries are (timestamp int64, relative offset of the last record of the batch that holds it int32).
Source: Kafka's storage module, OffsetIndex and TimeIndex.
"""

from collections.abc import Callable

from ._fastlog import Batches, BatchInfo, RecordBatch

OFFSET_ENTRY_BYTES: int
TIME_ENTRY_BYTES: int
#: What the statuses of ``read`` and ``scan`` mean, in words.
STATUS_TEXT: dict[int, str]

class SegmentIndex:
    """Sparse entries in memory: one each time more than ``interval_bytes`` were written since the last.

    Not thread-safe: the caller holds the partition lock, or nobody else has it.
    """

    def __init__(self, base_offset: int, interval_bytes: int) -> None: ...
    @property
    def base_offset(self) -> int: ...
    @property
    def interval_bytes(self) -> int: ...
    @property
    def max_timestamp(self) -> int:
        """The largest so far, ms; -1 when there is no batch."""
    @property
    def offset_of_max_timestamp(self) -> int:
        """Last offset of the first batch that holds it; -1 when there is none."""
    @property
    def size_bytes(self) -> int:
        """Memory that the entries take."""
    @property
    def offset_count(self) -> int: ...
    @property
    def time_count(self) -> int: ...
    def note_batch(self, batch: RecordBatch, base_offset: int, position: int) -> None:
        """The batch lies at ``position``, after all that were noted before."""
    def seal(self) -> None:
        """Add the last time entry: no batch follows."""
    def floor(self, offset: int) -> tuple[int, int] | None:
        """(last offset of a batch, its position) of the last entry at or below ``offset``."""
    def after_position(self, position: int) -> tuple[int, int] | None:
        """The first entry whose position is above ``position``."""
    def entry(self, i: int) -> tuple[int, int]: ...
    def time_entry(self, i: int) -> tuple[int, int]: ...
    def time_floor(self, timestamp: int) -> tuple[int, int] | None:
        """(timestamp, offset) of the last entry below ``timestamp``: no record up to that offset is
        at or after it."""
    def offset_bytes(self, first: int = 0) -> bytes:
        """The entries from ``first`` on, as in the index file."""
    def time_bytes(self, first: int = 0) -> bytes: ...
    def load(
        self,
        offsets: bytes,
        times: bytes,
        limit: int,
        max_timestamp: int = -1,
        offset_of_max_timestamp: int = -1,
    ) -> bool:
        """Replace the entries by a file's, for a log of ``limit`` bytes. False when they cannot be
        right (cut, not rising, past the log); the index is then not usable."""

class SegmentFile:
    """An open ``.log``. Its descriptor closes with the last reference. Thread-safe, but for one
    ``append`` or ``truncate`` at a time. All methods raise ``OSError``."""

    def __init__(self, path: str, *, create: bool = False, writable: bool = False) -> None:
        """``create`` fails with EEXIST when the file is there."""
    @property
    def fd(self) -> int: ...
    @property
    def path(self) -> str: ...
    def size(self) -> int: ...
    def append(self, batch: RecordBatch, position: int, base_offset: int) -> None:
        """Write the batch at ``position``. After a failure, some of it may be there: truncate."""
    def free_blocks(self) -> None:
        """Give back blocks that were asked for in advance, behind the end. Nobody may append at the same time."""
    def flush(self) -> None:
        """fdatasync, with the GIL released. A failure must never be tried again."""
    def truncate(self, size: int) -> None: ...
    def drop_cache(self, position: int = 0) -> None:
        """Ask the kernel to forget clean pages from ``position`` on, so that reads reach the disk."""
    def pread(self, position: int, n: int) -> bytes:
        """Up to n bytes; fewer at the end of the file."""
    def head(self, position: int, limit: int) -> BatchInfo | None:
        """The fixed fields at ``position``, unchecked; None when the file ends within them."""
    def check(self, position: int, limit: int) -> BatchInfo | None:
        """The batch at ``position`` if it is whole and its CRC fits."""
    def read(
        self,
        position: int,
        limit: int,
        expected: int,
        next_offset: int,
        end_offset: int,
        max_bytes: int,
        dense: bool = True,
        cached_only: bool = False,
    ) -> tuple[Batches | None, int, int, int]:
        """Checked batches from the batch at ``position`` on, in a file of ``limit`` bytes.

        Batches that end below ``next_offset`` are passed over; those that begin at or above
        ``end_offset`` are not taken. ``expected`` is the base offset that must be at ``position``
        (-1: any); ``dense`` says that offsets have no gaps. Gives (batches, status, position,
        expected) with the place where the next read goes on. Batches None: status 0 means that
        nothing more is to be had here, a negative one that the bytes at position are wrong. With ``cached_only``,
        raises ``BlockingIOError`` for bytes that are not in memory.
        """
    def scan(
        self,
        position: int,
        limit: int,
        expected: int,
        *,
        index: SegmentIndex | None = None,
        dense: bool = True,
        producers: list[BatchInfo] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[int, int, int]:
        """Check all batches from ``position`` on; (status, position, expected) where it ended: status
        0 at ``limit``, else the reason. Batches are noted in ``index``; those of idempotent producers
        are appended to ``producers``. ``progress`` is called with the position now and then."""
    def candidates(self, position: int, stop: int, limit: int, min_offset: int, max_offset: int) -> list[int]:
        """Positions in [position, stop) where a batch's fixed fields could lie, with a base offset in
        the range (inclusive) and a length that ends by ``limit``. For finding the way behind damage;
        nothing is checked."""
