"""What each idempotent producer has written to one partition.

Kafka's rules: sequences count records from 0, wrap after 2^31 - 1, and start again at 0 with a
new epoch. A batch whose sequences were seen is a repeat and gets its first answer; one that leaves
a gap is refused; an older epoch is fenced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .._fastlog import BatchInfo
from ..errors import OutOfOrderSequence, ProducerFenced

_WRAP = 1 << 31

#: Runs of a producer's sequences that are remembered; one run holds any number of batches
#: that nobody else wrote between, so this bounds interleaving, not repeats.
RUNS_KEPT = 64

#: A producer's state as it is kept in checkpoints: id, epoch, next sequence, last timestamp, and
#: runs of (first sequence, base offset, records).
ProducerState = tuple[int, int, int, int, list[tuple[int, int, int]]]


class _Producer:
    __slots__ = ("epoch", "last_timestamp", "next_sequence", "runs")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.next_sequence = 0
        self.last_timestamp = -1
        #: (first sequence, base offset, records), oldest first. Sequences and offsets rise together within one.
        self.runs: deque[tuple[int, int, int]] = deque(maxlen=RUNS_KEPT)


class Producers:
    """Caller holds the partition lock."""

    __slots__ = ("_producers",)

    def __init__(self, states: Iterable[ProducerState] = ()) -> None:
        self._producers: dict[int, _Producer] = {}
        for producer_id, epoch, next_sequence, last_timestamp, runs in states:
            producer = self._producers[producer_id] = _Producer(epoch)
            producer.next_sequence = next_sequence
            producer.last_timestamp = last_timestamp
            producer.runs.extend((first, base, count) for first, base, count in runs)

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, producer_id: int, epoch: int, sequence: int, count: int, complete: bool = True) -> int:
        """The base offset of the first answer when these records were written before, else -1:
        they come next and may be written. ``complete`` says that the log still has its beginning; where
        not, an unknown producer may be one whose records are gone, and goes on with any sequence.

        Raises ``ProducerFenced``, ``OutOfOrderSequence``.
        """
        producer = self._producers.get(producer_id)
        if producer is not None and epoch < producer.epoch:
            raise ProducerFenced(
                f"producer {producer_id} wrote with epoch {producer.epoch}; epoch {epoch} is fenced",
                producer_id=producer_id,
                epoch=epoch,
            )
        if producer is None or epoch > producer.epoch:
            expected = 0 if complete or producer is not None else sequence
        elif sequence == producer.next_sequence:
            # Comes first: after 2^31 records, what comes next was there before.
            return -1
        else:
            for first, base, records in reversed(producer.runs):
                ahead = (sequence - first) % _WRAP
                if ahead + count <= records:
                    return base + ahead
            expected = producer.next_sequence
        if sequence != expected:
            raise OutOfOrderSequence(
                f"producer {producer_id} must go on with sequence {expected}, not {sequence}"
                " (a new epoch starts again at 0)",
                producer_id=producer_id,
                epoch=epoch,
                sequence=sequence,
                expected_sequence=expected,
            )
        return -1

    def written(
        self, producer_id: int, epoch: int, sequence: int, count: int, base_offset: int, timestamp: int
    ) -> None:
        """The records are in the log."""
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            producer = self._producers[producer_id] = _Producer(epoch)
        runs = producer.runs
        if runs:
            first, base, records = runs[-1]
            # A run must stay shorter than the sequence space, or two places in it would look the same.
            if base + records == base_offset and (first + records) % _WRAP == sequence and records < _WRAP // 2:
                runs.pop()
                sequence, base_offset, count = first, base, records + count
        runs.append((sequence, base_offset, count))
        producer.next_sequence = (sequence + count) % _WRAP
        producer.last_timestamp = timestamp

    def replay(self, batches: Iterable[BatchInfo]) -> None:
        """Batches that recovery found in the log, in order."""
        for batch in batches:
            self.written(
                batch.producer_id,
                batch.producer_epoch,
                batch.base_sequence,
                batch.last_offset - batch.base_offset + 1,
                batch.base_offset,
                batch.max_timestamp,
            )

    def states(self) -> list[ProducerState]:
        """A copy, for a checkpoint."""
        return [
            (producer_id, producer.epoch, producer.next_sequence, producer.last_timestamp, list(producer.runs))
            for producer_id, producer in self._producers.items()
        ]
