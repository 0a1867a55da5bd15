"""How far each partition is known to be flushed: a file of fixed slots, written after each flush.

It tells a torn tail from corruption. Bytes that fail their checks above the hint were never
acknowledged as durable and are cut; below it they are corruption and stay. A slot is written after
the flush that it speaks of and before anybody is told, and is itself not flushed: after ``kill -9``
it is exact, after a power cut it may be older than the truth, never newer. A slot that fails its
CRC counts as missing: recovery then reads more, with the same result.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

from .._fastlog import crc32c
from .._os import close_file, open_file, write_at

# topic id, partition, flushed offset; then the CRC of those, and padding to a power of two, so that
# no slot lies across a sector's end
_SLOT = struct.Struct(">16sIq")
_CRC = struct.Struct(">I")
SLOT_BYTES = 32
#: Slots between two others up to which all of them are written at once, with the bytes that are there.
NEAR_SLOTS = 128


class FlushedHints:
    """Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd = -1
        self._slots: dict[tuple[str, int], int] = {}
        self._free: list[int] = []
        self._count = 0
        #: What the file holds.
        self._image = bytearray()

    def open(self) -> dict[tuple[str, int], int]:
        """Flushed offsets by (topic id, partition), as far as they can be believed. Raises ``OSError``."""
        self._fd = open_file(self._path, os.O_RDWR | os.O_CREAT)
        size = os.fstat(self._fd).st_size
        data = os.pread(self._fd, size, 0)
        self._image = bytearray(data[: size // SLOT_BYTES * SLOT_BYTES])
        found: dict[tuple[str, int], int] = {}
        self._count = size // SLOT_BYTES
        for slot in range(self._count):
            body = data[slot * SLOT_BYTES : slot * SLOT_BYTES + _SLOT.size]
            (crc,) = _CRC.unpack_from(data, slot * SLOT_BYTES + _SLOT.size)
            topic_id, partition, offset = _SLOT.unpack(body)
            key = (topic_id.hex(), partition)
            if crc != crc32c(body) or key in self._slots:
                self._free.append(slot)
                continue
            self._slots[key] = slot
            found[key] = offset
        return found

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                close_file(self._fd)
                self._fd = -1

    def write(self, flushed: Iterable[tuple[str, int, int]]) -> None:
        """(topic id, partition, flushed offset) of each. Raises ``OSError``; those that are written then are right."""
        # Held across the writes: of two that overlap, the later has to be the last.
        with self._lock:
            for first, behind in _spans(sorted([self._note(*entry) for entry in flushed])):
                begin, end = first * SLOT_BYTES, behind * SLOT_BYTES
                write_at(self._fd, bytes(self._image[begin:end]), begin)

    def _note(self, topic_id: str, partition: int, flushed_offset: int) -> int:
        """In the image; gives the slot."""
        body = _SLOT.pack(bytes.fromhex(topic_id), partition, flushed_offset)
        slot = self._slots.get((topic_id, partition))
        if slot is None:
            slot = self._assign(topic_id, partition)
        at = slot * SLOT_BYTES
        self._image[at : at + _SLOT.size + _CRC.size] = body + _CRC.pack(crc32c(body))
        return slot

    def _assign(self, topic_id: str, partition: int) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._count
            # Room for many at once, so that later writes need no space on a full disk.
            grown = max(64, self._count // 4)
            os.posix_fallocate(self._fd, self._count * SLOT_BYTES, grown * SLOT_BYTES)
            self._free.extend(range(self._count + grown - 1, self._count, -1))
            self._count += grown
            self._image.extend(bytes(self._count * SLOT_BYTES - len(self._image)))
        self._slots[(topic_id, partition)] = slot
        return slot

    def forget(self, topic_id: str, partition: int) -> None:
        """The partition is gone; its slot may serve another. Raises ``OSError``."""
        with self._lock:
            slot = self._slots.pop((topic_id, partition), None)
            if slot is not None and self._fd >= 0:
                at = slot * SLOT_BYTES
                self._image[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
                write_at(self._fd, bytes(SLOT_BYTES), at)
                self._free.append(slot)


def _spans(slots: list[int]) -> Iterable[tuple[int, int]]:
    """Slots in order as (first, behind the last) of each run of those that are near."""
    first = last = slots[0]
    for slot in slots[1:]:
        if slot - last > NEAR_SLOTS:
            yield first, last + 1
            first = slot
        last = slot
    yield first, last + 1
