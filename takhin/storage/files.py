"""Open segment files, bounded in number."""

from __future__ import annotations

import resource
import threading
from collections import deque
from typing import Protocol

from .._segment import SegmentFile


class Holder(Protocol):
    """Something that keeps a file open until it is told to let go."""

    open_file: SegmentFile | None
    #: Set at each use; an unused holder loses its file first.
    recently_used: bool
    #: Holds writes that are not flushed: its descriptor is the one that learns of a failure.
    pinned: bool

    def let_go(self) -> None:
        """Drop the file, and what else can be had again from it."""

    def forget_index(self) -> None:
        """Drop the index alone."""


#: Bytes of indexes of sealed segments in memory, of all together.
INDEX_BYTES = 64 << 20


class OpenFiles:
    """Closes segment files that were not used lately once there are more than ``limit``.

    Second chance (the clock algorithm): a use costs one attribute, not a lock. A file in use
    by another thread stays open until that thread lets go of it. Pinned holders are passed over,
    so the number may go above the limit.

    Of the indexes of sealed segments, which can be read again, those that were loaded last are kept.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit or default_limit()
        self._lock = threading.Lock()
        #: Held while the indexes of a segment are loaded: one at a time, they are rarely needed.
        self.loading = threading.RLock()
        self._holders: deque[Holder] = deque()
        #: With the bytes of each, the first that was loaded first.
        self._indexes: dict[Holder, int] = {}
        self._index_bytes = 0

    def opened(self, holder: Holder) -> None:
        """``holder`` has opened its file."""
        with self._lock:
            self._holders.append(holder)
            chances = 2 * len(self._holders)
            while len(self._holders) > self.limit and chances:
                chances -= 1
                oldest = self._holders.popleft()
                if oldest.open_file is None:
                    continue
                if oldest.pinned or oldest.recently_used or oldest is holder:
                    oldest.recently_used = False
                    self._holders.append(oldest)
                else:
                    self._index_gone(oldest)
                    oldest.let_go()

    def index_loaded(self, holder: Holder, size_bytes: int) -> None:
        """``holder`` has an index in memory that can be had again."""
        with self._lock:
            self._index_gone(holder)
            self._indexes[holder] = size_bytes
            self._index_bytes += size_bytes
            while self._index_bytes > INDEX_BYTES and len(self._indexes) > 1:
                oldest = next(iter(self._indexes))
                self._index_gone(oldest)
                oldest.forget_index()

    def _index_gone(self, holder: Holder) -> None:
        self._index_bytes -= self._indexes.pop(holder, 0)

    def forget(self, holder: Holder) -> None:
        """The file is gone for good (deleted, closed)."""
        holder.let_go()
        with self._lock:
            self._index_gone(holder)
            try:
                self._holders.remove(holder)
            except ValueError:
                pass

    def __len__(self) -> int:
        with self._lock:
            return sum(holder.open_file is not None for holder in self._holders)


def default_limit() -> int:
    """Two thirds of the process's descriptors: the rest is for connections and the database."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    return max(soft * 2 // 3, 16)
