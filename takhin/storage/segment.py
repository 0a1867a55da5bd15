"""One segment: a ``.log`` of record batches, its two index files and its seal.

Neither index nor seal is evidence about the log. An index entry is held against the batch it
points to before it is used, and when it does not fit, the indexes are built again by reading the
log. The seal is written when a segment gets its successor: it sums the index files, so that a cut
or flipped one is noticed before it gives a wrong answer.
"""

from __future__ import annotations

import logging
import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from .._fastlog import BATCH_HEADER_BYTES, MAX_OFFSET, Batches, crc32c
from .._os import replace_tail
from .._segment import STATUS_TEXT, SegmentFile, SegmentIndex
from . import fs
from .files import OpenFiles

log = logging.getLogger(__name__)

# magic, format, log bytes, next offset, largest timestamp, its offset, entries and CRCs of both indexes
_SEAL = struct.Struct(">4sHqqqqiiII")
_SEAL_MAGIC = b"TKSL"
_CRC = struct.Struct(">I")

#: Relative offsets have 31 bits, so no batch of a segment begins further behind its base offset.
_MAX_OFFSETS = 1 << 31
#: As the largest timestamp of an index summary: it is not known, so the index must be made anew.
UNKNOWN_TIMESTAMP = -2

#: How much is searched at once for the first good batch behind damage.
_WINDOW_BYTES = 4 << 20


class IndexSummary(NamedTuple):
    """What the index files must hold, to be believed."""

    offset_count: int
    time_count: int
    max_timestamp: int
    offset_of_max_timestamp: int
    offset_crc: int
    time_crc: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that fail their checks: records ``first_offset`` to ``end_offset`` (exclusive)."""

    first_offset: int
    #: Of the first good batch behind; ``MAX_OFFSET`` when none follows in this segment.
    end_offset: int
    #: Where that batch lies; the segment's size when none follows.
    resume_position: int
    reason: str


class Segment:
    """Readers use it without a lock; the appender holds the partition lock."""

    __slots__ = (
        "_index",
        "base_offset",
        "blind",
        "damages",
        "directory",
        "files",
        "first_append_ms",
        "interval_bytes",
        "max_timestamp",
        "next_offset",
        "open_file",
        "pinned",
        "recently_used",
        "sealed",
        "size",
        "summary",
    )

    def __init__(self, directory: str, base_offset: int, size: int, files: OpenFiles, interval_bytes: int) -> None:
        self.directory = directory
        self.base_offset = base_offset
        #: Bytes of whole batches.
        self.size = size
        self.files = files
        self.interval_bytes = interval_bytes
        #: No batch follows in this segment.
        self.sealed = False
        #: The offset after its last record; -1 while that is not known (a sealed segment not looked into).
        self.next_offset = -1
        #: Wall clock of the first append, for rolling by age; -1: empty, or not known.
        self.first_append_ms = -1
        #: Largest timestamp, known once its index was loaded or it was sealed; -1 before.
        self.max_timestamp = -1
        #: What is known of the index files of a segment that is still written to.
        self.summary: IndexSummary | None = None
        self.damages: list[Damage] = []
        #: The index was made from a log that was damaged already: of damaged records it knows no timestamp.
        self.blind = False
        self.open_file: SegmentFile | None = None
        self.recently_used = False
        self.pinned = False
        self._index: SegmentIndex | None = None

    @classmethod
    def create(cls, directory: str, base_offset: int, files: OpenFiles, interval_bytes: int) -> Segment:
        """Make the file; the caller flushes the directory. Raises ``OSError``."""
        segment = cls(directory, base_offset, 0, files, interval_bytes)
        segment.open_file = SegmentFile(segment.path(fs.LOG_SUFFIX), create=True)
        segment.recently_used = True
        segment.next_offset = base_offset
        segment._index = SegmentIndex(base_offset, interval_bytes)
        files.opened(segment)
        return segment

    def path(self, suffix: str) -> str:
        return fs.segment_path(self.directory, self.base_offset, suffix)

    def file(self) -> SegmentFile:
        """The open file. Raises ``OSError``."""
        self.recently_used = True
        file = self.open_file
        if file is None:
            file = self.open_file = SegmentFile(self.path(fs.LOG_SUFFIX), writable=not self.sealed)
            self.files.opened(self)
        return file

    def let_go(self) -> None:
        self.open_file = None
        self.forget_index()

    def forget_index(self) -> None:
        if self.sealed:
            self._index = None

    def close(self) -> None:
        """Nothing is appended any more."""
        if self.open_file is not None:
            self.open_file.free_blocks()
        self.files.forget(self)
        self._index = None

    # -- indexes --------------------------------------------------------------------------------

    def index(self) -> SegmentIndex:
        """The indexes, from their files or, when those cannot be believed, from the log."""
        index = self._index
        if index is None:
            # One loader: an appender must not note batches in an index that a reader then replaces.
            with self.files.loading:
                index = self._index
                if index is None:
                    index = self._load_index() or self.rebuild_index()
                    self.adopt_index(index)
        return index

    def has_index(self) -> bool:
        """Whether the indexes are in memory."""
        return self._index is not None

    def largest_timestamp(self) -> int:
        """Of its records, ms; -1 when there are none. Raises ``OSError``."""
        if self.sealed and self.max_timestamp >= 0:
            return self.max_timestamp
        return self.index().max_timestamp

    def adopt_index(self, index: SegmentIndex) -> None:
        self._index = index
        if self.sealed:
            self.files.index_loaded(self, index.size_bytes)
        self.max_timestamp = index.max_timestamp

    def _load_index(self) -> SegmentIndex | None:
        summary = self._read_seal() if self.sealed else self.summary
        index = SegmentIndex(self.base_offset, self.interval_bytes)
        if summary is None:
            return index if self.size == 0 else None
        return index if self.load_index_files(index, summary, self.size) else None

    def load_index_files(self, index: SegmentIndex, summary: IndexSummary, limit: int) -> bool:
        """Fill ``index`` from the files, for the first ``limit`` bytes of the log. False: not to be believed."""
        if summary.max_timestamp == UNKNOWN_TIMESTAMP:
            return False
        offsets = self._read_small(fs.INDEX_SUFFIX, summary.offset_count * 8)
        times = self._read_small(fs.TIME_INDEX_SUFFIX, summary.time_count * 12)
        if crc32c(offsets) != summary.offset_crc or crc32c(times) != summary.time_crc:
            return False
        return index.load(offsets, times, limit, summary.max_timestamp, summary.offset_of_max_timestamp)

    def _read_small(self, suffix: str, n: int) -> bytes:
        if n == 0:
            return b""
        try:
            with open(self.path(suffix), "rb") as file:
                return file.read(n)
        except OSError:
            return b""

    def rebuild_index(self) -> SegmentIndex:
        """Read the whole log for its index; damage is noted and passed over. Raises ``OSError``."""
        index = SegmentIndex(self.base_offset, self.interval_bytes)
        file, position, expected = self.file(), 0, self.base_offset
        self.damages = []
        while True:
            status, position, expected = file.scan(position, self.size, expected, index=index)
            if status == 0:
                break
            damage = self.look_behind(position, expected, status, None)
            if damage.end_offset == MAX_OFFSET:
                break
            position, expected = damage.resume_position, damage.end_offset
        self.blind = bool(self.damages)
        if self.sealed:
            self.next_offset = expected
            index.seal()
            if not self.blind:  # whoever reads the seal would believe that it knows all timestamps
                self.write_seal(index, expected)
        else:
            self.summary = None  # the files are to be written anew, from their beginning
        log.info(
            "index rebuilt",
            extra={
                "fields": {
                    "segment": self.path(fs.LOG_SUFFIX),
                    "entries": index.offset_count,
                    "damages": len(self.damages),
                }
            },
        )
        return index

    def save_index(self, index: SegmentIndex, saved: IndexSummary | None) -> IndexSummary:
        """Write the entries that ``saved`` does not cover to the files; without it, the files anew. Raises
        ``OSError``."""
        old = saved or IndexSummary(0, 0, -1, -1, 0, 0)
        offsets, times = index.offset_bytes(old.offset_count), index.time_bytes(old.time_count)
        if offsets or saved is None:
            _write_from(self.path(fs.INDEX_SUFFIX), old.offset_count * 8, offsets)
        if times or saved is None:
            _write_from(self.path(fs.TIME_INDEX_SUFFIX), old.time_count * 12, times)
        return IndexSummary(
            old.offset_count + len(offsets) // 8,
            old.time_count + len(times) // 12,
            index.max_timestamp,
            index.offset_of_max_timestamp,
            crc32c(offsets, old.offset_crc),
            crc32c(times, old.time_crc),
        )

    def write_seal(self, index: SegmentIndex, next_offset: int) -> bool:
        """Write index files and seal of a segment that has its successor; whether they are there. They can all be
        had again from the log: a failure costs time later, and is only logged."""
        self.next_offset = next_offset
        if self.open_file is not None:
            self.open_file.free_blocks()
        try:
            summary = self.save_index(index, None)
            body = _SEAL.pack(
                _SEAL_MAGIC,
                1,
                self.size,
                next_offset,
                summary.max_timestamp,
                summary.offset_of_max_timestamp,
                summary.offset_count,
                summary.time_count,
                summary.offset_crc,
                summary.time_crc,
            )
            _write_from(self.path(fs.SEAL_SUFFIX), 0, body + _CRC.pack(crc32c(body)))
            written = True
        except OSError as problem:
            written = False
            log.warning(
                "index not written",
                extra={"fields": {"segment": self.path(fs.LOG_SUFFIX), "error": os.strerror(problem.errno or 0)}},
            )
        # Whoever drops a segment removes its log first: what was made after that is removed here.
        if not os.path.exists(self.path(fs.LOG_SUFFIX)):
            for suffix in (fs.INDEX_SUFFIX, fs.TIME_INDEX_SUFFIX, fs.SEAL_SUFFIX):
                fs.remove_if_there(self.path(suffix))
        return written

    def _read_seal(self) -> IndexSummary | None:
        data = self._read_small(fs.SEAL_SUFFIX, _SEAL.size + _CRC.size + 1)
        if len(data) != _SEAL.size + _CRC.size or crc32c(data[: _SEAL.size]) != _CRC.unpack(data[_SEAL.size :])[0]:
            return None
        magic, version, size, next_offset, *rest = _SEAL.unpack(data[: _SEAL.size])
        if magic != _SEAL_MAGIC or version != 1 or size != self.size:
            return None
        self.next_offset = next_offset
        max_timestamp, offset_of_max_timestamp, offset_count, time_count, offset_crc, time_crc = rest
        return IndexSummary(offset_count, time_count, max_timestamp, offset_of_max_timestamp, offset_crc, time_crc)

    # -- finding --------------------------------------------------------------------------------

    def locate(self, offset: int) -> tuple[int, int]:
        """(position, base offset) of a batch at or before the one that holds ``offset``."""
        for _ in range(2):
            entry = self.index().floor(offset)
            if entry is None:
                break
            last_offset, position = entry
            head = self.file().head(position, self.size)
            if head is not None and head.magic == 2 and head.last_offset == last_offset:
                return position, head.base_offset
            if not self.sealed or any(d.first_offset <= last_offset < d.end_offset for d in self.damages):
                break  # the log is damaged here, not the index
            self.adopt_index(self.rebuild_index())
        return 0, self.base_offset

    def locate_time(self, timestamp: int) -> int:
        """An offset such that no record of this segment below it is at or after ``timestamp``."""
        for _ in range(2):
            entry = self.index().time_floor(timestamp)
            if entry is None:
                break
            found, offset = entry
            position, expected = self.locate(offset)
            batches, _status, _position, _expected = self.file().read(
                position, self.size, expected, offset, MAX_OFFSET, 1
            )
            if batches is not None and _holds(batches, offset, found):
                return offset + 1
            if self.damages or not self.sealed:
                break
            self.adopt_index(self.rebuild_index())
        return self.base_offset

    def timestamp_of_batch(self, base_offset: int) -> int | None:
        """The largest timestamp of the batch that begins at ``base_offset``; None when it cannot be had."""
        try:
            position, expected = self.locate(base_offset)
            batches, *_ = self.file().read(position, self.size, expected, base_offset, base_offset + 1, 1)
        except OSError:
            return None
        if batches is None:
            return None
        info = batches.first_info()
        return info.max_timestamp if info.base_offset == base_offset else None

    def look_behind(self, position: int, expected: int, status: int, index: SegmentIndex | None) -> Damage:
        """The damage at ``position``, where ``expected`` should begin: up to the first good batch behind.

        A record may itself hold a valid batch, so bytes that look like one are not believed for
        that alone. First the damaged batch's own length and count are tried: where they lead to a good
        batch with just the offset that must follow, that is it. Else a chain of good batches must lead from a
        place exactly to one that is known: one that the index names, or the end of the log.
        """
        for known in self.damages:
            # Where nothing was found behind, the segment may have grown since.
            open_end = known.end_offset == MAX_OFFSET and known.resume_position != self.size
            if known.first_offset == expected and not open_end:
                return known
        file, stop, stop_offset = self.file(), self.size, MAX_OFFSET
        entry = index.after_position(position) if index is not None else None
        while entry is not None and index is not None:
            info = file.check(entry[1], self.size)
            if info is not None and info.last_offset == entry[0] and info.base_offset >= expected:
                stop, stop_offset = info.position, info.base_offset
                break
            entry = index.after_position(entry[1])
        found_position, found_offset = self._resume(file, position, stop, expected, stop_offset)
        damage = Damage(expected, found_offset, found_position, STATUS_TEXT[status])
        self.damages = [*(known for known in self.damages if known.first_offset != expected), damage]
        log.error(
            "records damaged",
            extra={
                "fields": {
                    "segment": self.path(fs.LOG_SUFFIX),
                    "position": position,
                    "first_offset": expected,
                    "last_offset": found_offset - 1 if found_offset != MAX_OFFSET else "",
                    "reason": damage.reason,
                }
            },
        )
        return damage

    def _resume(self, file: SegmentFile, position: int, stop: int, expected: int, stop_offset: int) -> tuple[int, int]:
        """(position, offset) of the first good batch behind the one at ``position``, as ``look_behind`` says."""
        found: tuple[int, int] | None = None
        last = min(stop_offset - 1, self.base_offset + _MAX_OFFSETS)
        head = file.head(position, self.size)
        if head is not None:
            # One of the two may be what was hit: the length alone, then the count alone.
            info = file.check(position + head.size, self.size) if head.size >= BATCH_HEADER_BYTES else None
            if info is not None and info.position <= stop and expected < info.base_offset <= last + 1:
                return info.position, info.base_offset
            following = expected + head.last_offset - head.base_offset + 1
            if following == stop_offset:
                return stop, stop_offset
            if expected < following <= last:
                found = self._search(file, position + 1, stop, following, following, stop_offset)
        return found or self._search(file, position + 1, stop, expected, last, stop_offset) or (stop, stop_offset)

    def _by_lengths(self, file: SegmentFile, position: int, stop: int, expected: int) -> tuple[int, int] | None:
        """The first good batch behind, where the lengths and counts of the bad ones lead just to it."""
        while (head := file.head(position, self.size)) is not None:
            if head.size < BATCH_HEADER_BYTES or head.last_offset < head.base_offset:
                return None
            position += head.size
            expected += head.last_offset - head.base_offset + 1
            info = file.check(position, self.size) if position <= stop else None
            if info is not None:
                return (position, expected) if info.base_offset == expected else None
        return None

    def _search(
        self, file: SegmentFile, start: int, stop: int, first: int, last: int, stop_offset: int
    ) -> tuple[int, int] | None:
        """The first place where a batch with an offset from ``first`` to ``last`` begins a good chain to ``stop``."""
        at = start
        while at < stop:
            window_end = min(at + _WINDOW_BYTES, stop)
            for candidate in file.candidates(at, window_end, self.size, first, last):
                info = file.check(candidate, self.size)
                if info is None:
                    # Perhaps a batch that was hit too.
                    head = file.head(candidate, self.size)
                    behind = self._by_lengths(file, candidate, stop, head.base_offset) if head is not None else None
                    if behind is not None:
                        return behind
                    continue
                status, end, next_offset = file.scan(candidate, stop, info.base_offset)
                if status == 0 and end == stop and stop_offset in (MAX_OFFSET, next_offset):
                    return candidate, info.base_offset
            at = window_end
        return None


def _holds(batches: Batches, last_offset: int, timestamp: int) -> bool:
    """Whether the first batch ends at ``last_offset`` and has ``timestamp`` as its largest."""
    info = batches.first_info()
    return info.last_offset == last_offset and info.max_timestamp == timestamp


def _write_from(path: str, position: int, data: bytes) -> None:
    """Make the file hold ``data`` from ``position`` on, and nothing behind. Not flushed."""
    if position == 0 and not data and not os.path.exists(path):
        return
    replace_tail(path, data, position)
