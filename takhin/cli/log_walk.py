"""Finding partitions and segments on disk, and going through a segment batch by batch, damage included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .._fastlog import BATCH_HEADER_BYTES, MAX_OFFSET, BatchInfo
from .._segment import SegmentFile
from ..storage import fs

#: How much is searched at once for the first good batch behind damage.
_WINDOW_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes that are no good batch: from ``position`` to ``end`` (exclusive)."""

    position: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionFiles:
    """What a partition directory holds. ``segments`` are base offsets, rising."""

    path: Path
    segments: tuple[int, ...]
    #: Index, time index and seal files: (base offset, suffix).
    companions: frozenset[tuple[int, str]]
    #: Names that are none of these.
    unknown: tuple[str, ...]

    def file(self, base_offset: int, suffix: str = fs.LOG_SUFFIX) -> str:
        return fs.segment_path(str(self.path), base_offset, suffix)


def list_partition(path: Path) -> PartitionFiles:
    """Raises ``OSError``."""
    segments: list[int] = []
    companions: set[tuple[int, str]] = set()
    unknown: list[str] = []
    for name in sorted(os.listdir(path)):
        stem, suffix = os.path.splitext(name)
        base_offset = fs.segment_base_offset(f"{stem}{fs.LOG_SUFFIX}")
        if base_offset is not None and suffix == fs.LOG_SUFFIX:
            segments.append(base_offset)
        elif base_offset is not None and suffix in (fs.INDEX_SUFFIX, fs.TIME_INDEX_SUFFIX, fs.SEAL_SUFFIX):
            companions.add((base_offset, suffix))
        else:
            unknown.append(name)
    return PartitionFiles(path, tuple(segments), frozenset(companions), tuple(unknown))


def find_partitions(path: Path) -> list[Path]:
    """The partition directories below a data directory, by topic and number; or ``path``, when it is one.

    Raises ``OSError``.
    """
    names = os.listdir(path)
    if any(fs.segment_base_offset(name) is not None for name in names):
        return [path]
    found = []
    for name in names:
        parsed = fs.parse_partition_dir(name)
        if parsed is not None and (path / name).is_dir():
            found.append((parsed, path / name))
    return [directory for _, directory in sorted(found)]


def walk(file: SegmentFile, size: int) -> Iterator[BatchInfo | Bad]:
    """Every batch of the first ``size`` bytes, and what lies between good ones. Raises ``OSError``."""
    position = 0
    while position < size:
        info = file.check(position, size)
        if info is None:
            end = _next_good(file, position, size)
            yield Bad(position, end, what_is_wrong(file, position, size))
            position = end
        else:
            yield info
            position += info.size


def what_is_wrong(file: SegmentFile, position: int, size: int) -> str:
    """Why there is no good batch at ``position``."""
    head = file.head(position, size)
    if head is None:
        return f"{size - position} bytes, less than the header of a batch"
    if head.magic != 2:
        return f"not a batch of magic 2, but {head.magic}"
    if head.size < BATCH_HEADER_BYTES or head.record_count < 0 or head.base_offset < 0:
        return "an impossible length, count or offset"
    if head.size > size - position:
        return f"a batch of {head.size} bytes, of which {size - position} are there"
    return f"the CRC of offsets {head.base_offset} to {head.last_offset} does not fit"


def _next_good(file: SegmentFile, position: int, size: int) -> int:
    """Where the next good batch begins behind the bad bytes at ``position``; ``size`` when none follows."""
    head = file.head(position, size)
    if head is not None and head.magic == 2 and BATCH_HEADER_BYTES <= head.size <= size - position:
        # Its length may well be right. A record's value can itself hold a batch: look behind it first.
        end = position + head.size
        if end == size or file.check(end, size) is not None:
            return end
    at = position + 1
    while at < size:
        stop = min(at + _WINDOW_BYTES, size)
        for candidate in file.candidates(at, stop, size, 0, MAX_OFFSET):
            if file.check(candidate, size) is not None:
                return candidate
        at = stop
    return size
