"""A partition as a plain list: what the log on disk must answer."""

from __future__ import annotations

from dataclasses import dataclass, field

#: (key, value, timestamp in ms)
Content = tuple[bytes | None, bytes | None, int]


@dataclass
class LogModel:
    #: By offset, from 0 on; what was deleted is still in here.
    records: list[Content] = field(default_factory=list)
    log_start_offset: int = 0
    #: Of each record, the (producer, epoch, sequence) that it was sent with, if any.
    stamps: list[tuple[int, int, int] | None] = field(default_factory=list)

    @property
    def log_end_offset(self) -> int:
        return len(self.records)

    def append(self, contents: list[Content]) -> int:
        """The base offset."""
        base_offset = len(self.records)
        self.records += contents
        self.stamps += [None] * len(contents)
        return base_offset

    def producer(self, producer_id: int) -> tuple[int, list[int]]:
        """(epoch, the offsets of its records in order of their sequences); epoch -1 when it has none."""
        epoch = max((stamp[1] for stamp in self.stamps if stamp is not None and stamp[0] == producer_id), default=-1)
        return epoch, [
            n for n, stamp in enumerate(self.stamps) if stamp is not None and stamp[:2] == (producer_id, epoch)
        ]

    def produce(self, producer_id: int, epoch: int, sequence: int, contents: list[Content]) -> int | str:
        """The base offset of the batch, or of the first time it was sent; else ``fenced`` or ``gap``."""
        known_epoch, offsets = self.producer(producer_id)
        if epoch < known_epoch:
            return "fenced"
        if epoch > known_epoch:
            offsets = []
        again = offsets[sequence : sequence + len(contents)]
        if len(again) == len(contents):
            # Where others wrote between, there is no one place to name; nobody who sends the same batches asks for it.
            return again[0] if again[-1] - again[0] + 1 == len(again) else "gap"
        if sequence != len(offsets):
            return "gap"
        base_offset = self.append(contents)
        self.stamps[base_offset:] = [(producer_id, epoch, sequence + n) for n in range(len(contents))]
        return base_offset

    def read(self, offset: int) -> list[tuple[int, Content]]:
        return list(enumerate(self.records))[max(offset, self.log_start_offset) :]

    def offset_at_time(self, timestamp: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the earliest record at or after ``timestamp``."""
        return next(((n, content[2]) for n, content in self.read(0) if content[2] >= timestamp), None)

    def cut(self, end_offset: int) -> None:
        """A crash took what lay from ``end_offset`` on."""
        del self.records[end_offset:]
        del self.stamps[end_offset:]
