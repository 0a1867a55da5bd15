"""What a flush of one partition is to cover, and the system calls that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from .._os import sync_dir
from .._segment import SegmentFile
from . import fs
from .segment import Segment


@dataclass(slots=True)
class FlushGoal:
    """A state of a partition's log. What it holds is on stable storage once all of it was flushed by calls
    that began after it was noted."""

    directory: str
    #: The log end offset.
    next_offset: int
    active: Segment
    #: Size of the active segment; and how much of it an earlier flush covers.
    position: int
    flushed_position: int
    #: Segments that were rolled since the last flush.
    rolled: list[Segment]
    #: Files were made in the directory since.
    new_names: bool

    @property
    def only_file(self) -> SegmentFile | None:
        """The one file that is to be flushed, if it is one and open."""
        return None if self.rolled or self.new_names else self.active.open_file

    def steps(self, still_there: Callable[[Segment], bool]) -> Iterator[tuple[str, Callable[[], None]]]:
        """(path, call) for each flush that it takes, in order; each call may raise ``OSError``."""
        for segment in self.rolled:
            yield segment.path(fs.LOG_SUFFIX), partial(_flush_rolled, segment, still_there)
        if self.position > self.flushed_position:
            yield self.active.path(fs.LOG_SUFFIX), lambda: self.active.file().flush()
        if self.new_names:
            yield self.directory, lambda: sync_dir(self.directory)


def _flush_rolled(segment: Segment, still_there: Callable[[Segment], bool]) -> None:
    try:
        segment.file().flush()
    except FileNotFoundError:
        if still_there(segment):
            raise
        # Dropped meanwhile: nothing of it has to be kept.
