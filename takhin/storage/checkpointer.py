"""Moves the recovery points of the partitions that changed: a few partitions at a time, so that it holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import TakhinError
from . import checkpoint
from .checkpoint import Key, PartitionCheckpoint
from .environment import NO_DESCRIPTORS, NO_ROOM, DiskFault
from .partition import Partition
from .waiters import Placed

#: Partitions that are flushed together, and waited for: what one flush of several takes at most.
AT_ONCE = 32
#: The pause after them: so many times what they took, and at most so many seconds.
PAUSES = 3
MOST_PAUSE_S = 0.1
#: Seconds that a flush may take; whoever's is not over then is not in the checkpoint.
PATIENCE_S = 30.0


class Checkpointer:
    """Thread-safe."""

    def __init__(self, data_dir: Path, fault: DiskFault, stopping: threading.Event) -> None:
        self._data_dir = data_dir
        self._fault = fault
        self._stopping = stopping
        self._entries: dict[Key, PartitionCheckpoint] = {}
        #: (log end offset, first segment, segments) of each partition in its entry, at least.
        self._states: dict[Key, tuple[int, int, int]] = {}
        #: Guards the two above; held for moments.
        self._lock = threading.Lock()
        #: Held by who writes, also while partitions are flushed for it.
        self._writer = threading.Lock()

    def open(self, known: set[Key]) -> None:
        """What the file says of these. Raises ``NewerFormat``."""
        found = checkpoint.read(self._data_dir)
        self._entries = {key: entry for key, entry in found.items() if key in known}

    def entry(self, key: Key) -> PartitionCheckpoint | None:
        return self._entries.get(key)

    def forget(self, key: Key) -> None:
        with self._lock:
            self._entries.pop(key, None)
            self._states.pop(key, None)

    def write(self, partitions: Sequence[Partition]) -> bool:
        """Whether all of them are in the checkpoint, in their state of now. Takes its time, unless it is for the stop.
        Raises ``OSError``."""
        if self._fault.reason:
            return False
        with self._writer:
            due = [partition for partition in partitions if not self._is_noted(partition)]
            if self._stopping.is_set():
                for partition in due:  # all of them, before the first is waited for
                    partition.ask_for_flush()
            changed, complete = False, True
            for first in range(0, len(due), AT_ONCE):
                began = time.monotonic()
                for partition, state, entry in self._taken(due[first : first + AT_ONCE]):
                    if entry is None:
                        complete = complete and partition.deleted
                    else:
                        changed = self._note(partition, state, entry) or changed
                self._stopping.wait(min(PAUSES * (time.monotonic() - began), MOST_PAUSE_S))
            if changed or not (self._data_dir / checkpoint.CHECKPOINT_NAME).exists():
                self._write_file()
            return complete

    def _is_noted(self, partition: Partition) -> bool:
        return partition.deleted or self._states.get(_key(partition)) == _state(partition)

    def _taken(
        self, some: Sequence[Partition]
    ) -> list[tuple[Partition, tuple[int, int, int], PartitionCheckpoint | None]]:
        """Each with a state and an entry that holds at least that, and is flushed; without an entry, when it was
        deleted or could not be flushed."""
        told = threading.Event()

        def tell(outcome: Placed | TakhinError) -> None:
            told.set()

        taken = []
        for partition in some:
            state = _state(partition)
            try:
                taken.append((partition, state, partition.checkpoint(tell)))
            except OSError:
                if not partition.deleted:
                    raise
        until = time.monotonic() + PATIENCE_S
        while any(not self._is_flushed(partition, entry) and not partition.deleted for partition, _, entry in taken):
            if self._fault.reason or not told.wait(until - time.monotonic()):
                break
            told.clear()
        return [
            (partition, state, entry if self._is_flushed(partition, entry) else None)
            for partition, state, entry in taken
        ]

    @staticmethod
    def _is_flushed(partition: Partition, entry: PartitionCheckpoint) -> bool:
        return partition.flushed_offset >= entry.next_offset

    def _note(self, partition: Partition, state: tuple[int, int, int], entry: PartitionCheckpoint) -> bool:
        """Whether the checkpoint is another by it."""
        key = _key(partition)
        with self._lock:
            if partition.deleted:
                return False
            changed = self._entries.get(key) != entry
            self._entries[key] = entry
            self._states[key] = state
            return changed

    def _write_file(self) -> None:
        with self._lock:
            entries = dict(self._entries)
        try:
            checkpoint.write(self._data_dir, entries)
        except OSError as problem:
            # The file is no evidence; that it could not be flushed says what the disk is worth.
            if problem.errno not in (*NO_ROOM, *NO_DESCRIPTORS):
                self._fault.report(problem, checkpoint.CHECKPOINT_NAME)
            raise


def _key(partition: Partition) -> Key:
    return partition.topic_id, partition.partition


def _state(partition: Partition) -> tuple[int, int, int]:
    segments = partition.segments
    return partition.log_end_offset, segments[0].base_offset, len(segments)
