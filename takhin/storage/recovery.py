"""Opening a partition: what is there, how much of it is to be believed, and from where to go on.

The checkpoint names all segments with their sizes at the recovery point. Where the files are just
that, as after a clean stop, nothing is read. Else everything from the recovery point on is read
past the page cache and checked. Where bytes fail their checks, one line decides:

* at or above everything that is known to be flushed: a torn tail. Nobody was promised it. It is
  cut, and a copy kept in ``quarantine/``.
* below it: corruption. It is never cut and never renumbered; reading it is an error, its
  neighbours are served.

Running recovery again gives the same result: a copy is flushed before its source is cut.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from .._fastlog import MAX_OFFSET, BatchInfo
from .._os import sync_dir
from .._segment import SegmentFile, SegmentIndex
from ..config import TopicConfigs
from . import fs
from .checkpoint import PartitionCheckpoint
from .environment import NO_ROOM, Environment
from .producers import Producers
from .quarantine import keep_and_cut, set_aside
from .segment import Segment

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    segments: list[Segment]
    log_start_offset: int
    log_end_offset: int
    producers: Producers
    scanned_bytes: int = 0
    cut_bytes: int = 0
    damages: int = 0
    set_aside: list[str] = field(default_factory=list)


class Recovery:
    """Opens one partition; used once."""

    def __init__(
        self,
        directory: Path,
        configs: TopicConfigs,
        environment: Environment,
        checkpoint: PartitionCheckpoint | None,
        flushed_hint: int,
        log_start_offset: int,
        clean: bool = False,
    ) -> None:
        """``flushed_hint`` and ``log_start_offset`` are -1 and 0 when nothing is known; ``clean``: the last
        stop left its marker, so files that do not fit were changed by people, not by a crash."""
        self.directory = directory
        self.configs = configs
        self.environment = environment
        self.checkpoint = checkpoint
        self.log_start_offset = log_start_offset
        self.clean = clean
        #: Everything below was flushed: what is wrong there is corruption.
        self.known_flushed = max(flushed_hint, checkpoint.next_offset if checkpoint else 0, log_start_offset)
        self.result = Recovered([], log_start_offset, 0, Producers(checkpoint.producers if checkpoint else ()))

    def run(self) -> Recovered:
        """Raises ``OSError``."""
        files = self._list()
        checkpoint = self.checkpoint
        as_they_were = checkpoint is not None and files == [tuple(pair) for pair in checkpoint.segments]
        if checkpoint is not None and as_they_were and self.known_flushed <= checkpoint.next_offset:
            self._take_as_they_are(checkpoint)
        else:
            self._recover(files)
        result = self.result
        if result.segments:
            result.segments[-1].sealed = False
        result.log_start_offset = min(max(self.log_start_offset, self._first_offset()), result.log_end_offset)
        return result

    def _list(self) -> list[tuple[int, int]]:
        """(base offset, bytes) of the segment files, by base offset."""
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                base_offset = fs.segment_base_offset(entry.name)
                if base_offset is not None and base_offset <= MAX_OFFSET - (1 << 31):
                    found.append((base_offset, entry.stat().st_size))
        return sorted(found)

    def _segment(self, base_offset: int, size: int, sealed: bool) -> Segment:
        segment = Segment(
            str(self.directory), base_offset, size, self.environment.files, self.configs.index_interval_bytes
        )
        segment.sealed = sealed
        return segment

    def _take_as_they_are(self, checkpoint: PartitionCheckpoint) -> None:
        segments = [self._segment(base_offset, size, sealed=True) for base_offset, size in checkpoint.segments]
        active = segments[-1]
        active.sealed = False
        active.summary = checkpoint.index
        active.next_offset = checkpoint.next_offset
        if active.size:
            active.first_append_ms = int(os.stat(active.path(fs.LOG_SUFFIX)).st_mtime * 1000)
        self.result.segments = segments
        self.result.log_end_offset = checkpoint.next_offset

    # -- after anything but a clean stop ----------------------------------------------------------

    def _recover(self, files: list[tuple[int, int]]) -> None:
        files = self._without_foreign(files)
        checkpoint, result = self.checkpoint, self.result
        known = dict(checkpoint.segments) if checkpoint else {}
        start = self._start(files)
        for base_offset, size in files[:start]:
            # Sealed and flushed when the checkpoint was made: not read now. Bytes that came later
            # are not ours; bytes that are missing show when somebody reads there.
            result.segments.append(self._segment(base_offset, min(size, known.get(base_offset, size)), sealed=True))
        expected = -1
        if not self.clean and files and files[0][0] > self.log_start_offset == self.known_flushed:
            # The log's first segment is gone, and nothing of it was ever flushed.
            self._set_aside(files, "unflushed")
            files = []
        for n, (base_offset, size) in enumerate(files[start:], start):
            if base_offset < expected:
                self._set_aside([(base_offset, size)], "overlapping")
                continue
            if base_offset not in known and base_offset != expected and self._wrong_name(base_offset, size):
                self._set_aside([(base_offset, size)], "foreign")
                continue
            if result.segments and expected >= 0 and base_offset != expected and expected >= self.known_flushed:
                # What lay between was never flushed, and is gone: so must be what followed.
                self._set_aside(files[n:], "unflushed")
                break
            last = n == len(files) - 1
            segment, expected, torn = self._scan(base_offset, size, last)
            result.segments.append(segment)
            if torn:
                self._set_aside(files[n + 1 :], "unflushed")
                break
        self._finish(expected)

    def _without_foreign(self, files: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Set aside what cannot be ours: not in the checkpoint, though it would have been made before it."""
        checkpoint = self.checkpoint
        known = {base_offset for base_offset, _ in checkpoint.segments} if checkpoint else set()
        ours: list[tuple[int, int]] = []
        foreign: list[tuple[int, int]] = []
        for base_offset, size in files:
            if base_offset in known:
                ours.append((base_offset, size))
                continue
            below = checkpoint is not None and base_offset < checkpoint.next_offset
            (foreign if below else ours).append((base_offset, size))
        if self.clean and len(ours) > 1 and ours[0][1] == 0 and ours[0][0] >= self.known_flushed:
            # An empty first segment, and a later one was put beside it: the log begins there.
            fs.remove_if_there(fs.segment_path(str(self.directory), ours[0][0], fs.LOG_SUFFIX))
            ours = ours[1:]
            if checkpoint is not None:
                self.checkpoint = None
        self._set_aside(foreign, "foreign")
        return ours

    def _wrong_name(self, base_offset: int, size: int) -> bool:
        """Whether the file begins with another offset than its name says."""
        if size < 61:
            return False
        file = SegmentFile(fs.segment_path(str(self.directory), base_offset, fs.LOG_SUFFIX))
        head = file.check(0, size)
        if head is None or head.base_offset == base_offset:
            return False
        # The base offset is outside the checksum. When only that field was hit, the batch behind knows better.
        behind = file.check(head.size, size)
        return behind is None or behind.base_offset != base_offset + head.last_offset - head.base_offset + 1

    def _start(self, files: list[tuple[int, int]]) -> int:
        """Which of the files holds the recovery point: the first to be read."""
        if self.checkpoint is None:
            return 0
        active = self.checkpoint.segments[-1][0]
        return next((n for n, (base_offset, _) in enumerate(files) if base_offset >= active), max(len(files) - 1, 0))

    def _scan(self, base_offset: int, size: int, last: bool) -> tuple[Segment, int, bool]:
        """Read a segment from the recovery point on; (segment, offset behind it, whether a tail was cut)."""
        segment = self._segment(base_offset, size, sealed=not last)
        file = SegmentFile(segment.path(fs.LOG_SUFFIX), writable=True)
        segment.open_file = file
        self.environment.files.opened(segment)
        _leave_to_the_disk(file)
        index, position, expected = self._resume(segment)
        found: list[BatchInfo] = []
        torn = False
        self.result.scanned_bytes += size - position
        while True:
            status, position, expected = file.scan(position, size, expected, index=index, producers=found)
            if status == 0:
                break
            if expected >= self.known_flushed:
                self._cut(segment, file, position, size)
                size = segment.size = position
                torn = True
                break
            damage = segment.look_behind(position, expected, status, None)
            self.result.damages += 1
            if damage.end_offset == MAX_OFFSET:
                expected = max(expected, -1)
                segment.sealed = True
                break
            position, expected = damage.resume_position, damage.end_offset
        self.result.producers.replay(found)
        segment.next_offset = expected
        segment.adopt_index(index)
        segment.blind = bool(segment.damages)
        if not last and not torn:
            index.seal()
            if not segment.blind:
                segment.write_seal(index, expected)
        if size:
            head = file.head(0, size)
            segment.first_append_ms = min(
                head.max_timestamp if head else 0, int(os.stat(segment.path(fs.LOG_SUFFIX)).st_mtime * 1000)
            )
        return segment, expected, torn

    def _resume(self, segment: Segment) -> tuple[SegmentIndex, int, int]:
        """An index of what lies below the recovery point, and where to read on. From the beginning
        when this is not the checkpoint's active segment, or its index files are not to be believed."""
        index = SegmentIndex(segment.base_offset, segment.interval_bytes)
        checkpoint = self.checkpoint
        if checkpoint is not None and checkpoint.segments[-1][0] == segment.base_offset:
            position = checkpoint.segments[-1][1]
            summary = checkpoint.index
            if position <= segment.size and segment.load_index_files(index, summary, position):
                segment.summary = summary
                return index, position, checkpoint.next_offset
            # Producers below the recovery point are known: only what is above is replayed.
            return self._index_from_start(segment, checkpoint)
        return index, 0, segment.base_offset

    def _index_from_start(self, segment: Segment, checkpoint: PartitionCheckpoint) -> tuple[SegmentIndex, int, int]:
        index = SegmentIndex(segment.base_offset, segment.interval_bytes)
        file, position, expected = segment.file(), 0, segment.base_offset
        stop = min(checkpoint.segments[-1][1], segment.size)
        while True:
            status, position, expected = file.scan(position, stop, expected, index=index)
            if status == 0:
                return index, position, max(expected, segment.base_offset)
            damage = segment.look_behind(position, expected, status, None)
            self.result.damages += 1
            if damage.end_offset == MAX_OFFSET:
                return index, segment.size, checkpoint.next_offset
            position, expected = damage.resume_position, damage.end_offset
            if position >= stop:
                return index, position, expected

    def _finish(self, expected: int) -> None:
        """Make what was found durable, and see to an active segment that can be appended to."""
        result = self.result
        end_offset = max(expected, self.known_flushed, 0)
        for segment in result.segments:
            if segment.open_file is not None:
                segment.open_file.flush()
        last = result.segments[-1] if result.segments else None
        if last is None or last.sealed or (last.next_offset >= 0 and last.next_offset != end_offset):
            # Offsets that were acknowledged are never given again, even when their bytes are gone:
            # go on behind them, in a segment of its own.
            if last is not None:
                last.sealed = True
            if last is None or last.base_offset != end_offset:
                result.segments.append(
                    Segment.create(
                        str(self.directory), end_offset, self.environment.files, self.configs.index_interval_bytes
                    )
                )
        result.log_end_offset = end_offset
        sync_dir(self.directory)

    def _cut(self, segment: Segment, file: SegmentFile, position: int, size: int) -> None:
        copy = self._keep_and_cut(segment, file, position)
        self.result.cut_bytes += size - position
        if copy is not None:
            self.result.set_aside.append(copy.name)
        log.warning(
            "torn tail cut",
            extra={
                "fields": {
                    "segment": segment.path(fs.LOG_SUFFIX),
                    "position": position,
                    "bytes": size - position,
                    "kept_in": str(copy or "nothing: the disk is full"),
                }
            },
        )

    def _keep_and_cut(self, segment: Segment, file: SegmentFile, position: int) -> Path | None:
        """Where the copy is; None when there was no room for one."""
        quarantine, space = self.environment.quarantine, self.environment.space
        while True:
            try:
                return keep_and_cut(quarantine, self.directory.name, segment.base_offset, file, position)
            except OSError as problem:
                if problem.errno not in NO_ROOM:
                    raise
            if not space.give_up_reserve():
                # Nobody was promised these bytes, and the start must not depend on room for them.
                file.truncate(position)
                file.flush()
                return None

    def _set_aside(self, files: list[tuple[int, int]], why: str) -> None:
        for base_offset, _ in files:
            for suffix in (fs.LOG_SUFFIX, fs.INDEX_SUFFIX, fs.TIME_INDEX_SUFFIX, fs.SEAL_SUFFIX):
                path = Path(fs.segment_path(str(self.directory), base_offset, suffix))
                if path.exists():
                    target = set_aside(self.environment.quarantine, path, f"{self.directory.name}-{why}")
                    self.result.set_aside.append(target.name)
                    log.error(
                        "segment file set aside",
                        extra={"fields": {"path": str(path), "why": why, "kept_in": str(target)}},
                    )

    def _first_offset(self) -> int:
        """The first offset that the segments speak for. When the checkpoint knew records, or there was a
        crash, those before them are missing: reading there is an error, and not a log that begins later."""
        segments, checkpoint = self.result.segments, self.checkpoint
        first = segments[0].base_offset if segments else 0
        if not self.clean or (checkpoint is not None and checkpoint.next_offset > checkpoint.segments[0][0]):
            return min(first, self.log_start_offset)
        return first


def _leave_to_the_disk(file: SegmentFile) -> None:
    """What the page cache holds may never reach the disk (a flush that failed before the restart): ask for it to be
    written, and drop it, so that what is read is what is really there. Raises ``OSError``."""
    try:
        file.flush()
    except OSError as problem:
        # It may tell of a write of before, which nobody has been told of yet. The pages that were lost then are clean
        # and go with the others; once nothing is left to be written, nothing but the disk is believed.
        fields = {"path": file.path, "error": os.strerror(problem.errno or 0)}
        log.warning("a write of before the start has failed: reading what is on the disk", extra={"fields": fields})
        file.drop_cache()
        file.flush()
    file.drop_cache()
