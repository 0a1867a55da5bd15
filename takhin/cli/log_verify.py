"""Holding a partition's files against each other: checksums, dense offsets, indexes."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from .._fastlog import BatchInfo
from .._segment import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES, SegmentFile
from ..storage import fs
from .log_walk import Bad, PartitionFiles, walk

_OFFSET_ENTRY: Final = struct.Struct(">ii")
_TIME_ENTRY: Final = struct.Struct(">qi")

#: A server may be writing: a bad end that still grows is looked at again, so often and after so long (seconds).
_LOOK_AGAIN: Final = 5
_LOOK_AGAIN_AFTER: Final = 0.2

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    ``damage``: records are lost or not to be believed. ``index``: built again from the log at the next use,
    with the same answers. ``unknown``: a file that is no part of a log.
    """

    kind: Literal["damage", "index", "unknown"]
    path: str
    text: str
    #: Bytes in the file; -1 where there is no place.
    position: int = -1


@dataclass(slots=True)
class PartitionReport:
    path: str
    segments: int = 0
    size_bytes: int = 0
    batches: int = 0
    records: int = 0
    #: -1 in a partition without segments.
    first_offset: int = -1
    #: The next offset after the last good batch.
    end_offset: int = -1
    findings: list[Finding] = field(default_factory=list)


def verify_partition(files: PartitionFiles, progress: Progress = lambda done: None) -> PartitionReport:
    """Read a whole partition. ``progress`` is called with bytes read since it was called last.

    Raises ``OSError``.
    """
    report = PartitionReport(str(files.path))
    for name in files.unknown:
        report.findings.append(Finding("unknown", str(files.path / name), "not a file of a log"))
    for base_offset, suffix in sorted(files.companions):
        if base_offset not in files.segments:
            report.findings.append(Finding("index", files.file(base_offset, suffix), "its segment is not there"))
    for base_offset in files.segments:
        if report.first_offset < 0:
            report.first_offset = base_offset
        elif base_offset != report.end_offset:
            what = "missing" if base_offset > report.end_offset else "there twice"
            first, last = sorted((base_offset, report.end_offset))
            report.findings.append(
                Finding("damage", files.file(base_offset), f"offsets {first} to {last - 1} are {what} before it")
            )
        last_segment = base_offset == files.segments[-1]
        _Segment(files, base_offset, report, last_segment, progress).verify()
    return report


class _Segment:
    def __init__(
        self, files: PartitionFiles, base_offset: int, report: PartitionReport, last: bool, progress: Progress
    ) -> None:
        self._files = files
        self._base_offset = base_offset
        self._report = report
        self._last = last
        self._progress = progress
        self._path = files.file(base_offset)
        self._bad = False

    def verify(self) -> None:
        file = SegmentFile(self._path)
        size = file.size()
        self._report.segments += 1
        self._report.size_bytes += size
        offsets = _Entries(self._files.file(self._base_offset, fs.INDEX_SUFFIX), _OFFSET_ENTRY, OFFSET_ENTRY_BYTES)
        times = _Entries(self._files.file(self._base_offset, fs.TIME_INDEX_SUFFIX), _TIME_ENTRY, TIME_ENTRY_BYTES)
        expected, max_timestamp, done = self._base_offset, -1, 0
        for item in walk(file, size):
            if isinstance(item, Bad):
                self._note_bad(file, item, size)
                end = item.end
                # The indexes were right about what stood there.
                while offsets.current is not None and offsets.current[1] < end:
                    offsets.advance()
            else:
                if item.base_offset != expected:
                    self._note_jump(item, expected)
                    while times.current is not None and self._base_offset + times.current[1] < item.base_offset:
                        times.advance()
                expected = item.last_offset + 1
                max_timestamp = max(max_timestamp, item.max_timestamp)
                self._report.batches += 1
                self._report.records += item.record_count
                self._hold_offset_entries(offsets, item)
                self._hold_time_entries(times, item, max_timestamp)
                end = item.position + item.size
            self._progress(end - done)
            done = end
        self._report.end_offset = expected
        for entries in (offsets, times):
            self._rest(entries)

    def _note_bad(self, file: SegmentFile, bad: Bad, size: int) -> None:
        if self._last and bad.end == size:
            for _ in range(_LOOK_AGAIN):
                time.sleep(_LOOK_AGAIN_AFTER)
                if file.check(bad.position, file.size()) is not None:
                    return  # it was being written
                if file.size() == size:
                    break
            text = f"{bad.end - bad.position} bytes at the end: {bad.reason} (a torn tail, which the next start cuts,"
            text += " or damage)"
        else:
            text = f"{bad.end - bad.position} bytes: {bad.reason}"
        self._bad = True
        self._damage(text, bad.position)

    def _note_jump(self, info: BatchInfo, expected: int) -> None:
        if info.base_offset > expected:
            self._damage(f"offsets {expected} to {info.base_offset - 1} are missing", info.position)
        else:
            self._damage(f"offset {info.base_offset} comes after {expected - 1}", info.position)

    def _damage(self, text: str, position: int) -> None:
        self._report.findings.append(Finding("damage", self._path, text, position))

    def _hold_offset_entries(self, entries: _Entries, info: BatchInfo) -> None:
        while entries.current is not None and entries.current[1] <= info.position:
            relative, position = entries.current
            if position != info.position:
                self._index(entries, f"no batch begins at {position}")
            elif self._base_offset + relative != info.last_offset:
                self._index(entries, f"offset {self._base_offset + relative}, where {info.last_offset} is")
            entries.advance()

    def _hold_time_entries(self, entries: _Entries, info: BatchInfo, max_timestamp: int) -> None:
        while entries.current is not None and self._base_offset + entries.current[1] <= info.last_offset:
            timestamp, relative = entries.current
            if self._base_offset + relative < info.base_offset:
                self._index(entries, f"offset {self._base_offset + relative} is in no batch")
            elif timestamp != max_timestamp:
                self._index(entries, f"timestamp {timestamp}, where {max_timestamp} is the largest")
            entries.advance()

    def _rest(self, entries: _Entries) -> None:
        """What points behind the last batch; zeros there are room that Kafka keeps in an active segment."""
        if entries.current is not None and not (self._bad or entries.only_zeros_left()):
            self._index(entries, "points behind the end of the log")
        if entries.cut_bytes:
            self._index(entries, f"ends with {entries.cut_bytes} bytes of an entry")

    def _index(self, entries: _Entries, text: str) -> None:
        if not entries.told:  # one a file: what follows is as wrong
            entries.told = True
            self._report.findings.append(Finding("index", entries.path, text, entries.position))


class _Entries:
    """A place in an index file. A missing file has no entries."""

    def __init__(self, path: str, entry: struct.Struct, entry_bytes: int) -> None:
        self.path = path
        self.told = False
        self._entry = entry
        self._next = 0
        self._data = b""
        if os.path.exists(path):
            with open(path, "rb") as file:
                self._data = file.read()
        self.cut_bytes = len(self._data) % entry_bytes
        self.current: tuple[int, int] | None = None
        self.position = 0
        self.advance()

    def advance(self) -> None:
        self.position = self._next
        if self._next + self._entry.size > len(self._data):
            self.current = None
            return
        first, second = self._entry.unpack_from(self._data, self._next)
        self._next += self._entry.size
        self.current = (first, second)
        # All zeros is an entry of one record at the very beginning, or room that nothing was written to.
        if first == second == 0 and self.position > 0 and self.only_zeros_left():
            self.current = None

    def only_zeros_left(self) -> bool:
        return not any(self._data[self.position :])
