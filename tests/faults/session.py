"""One user of a backend, who writes down before each call what is asked for, and after it what was promised."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import defaultdict

from takhin import errors

from .backend import Backend, Record
from .records import make_value, timestamp_of
from .trace import Marks

GROUP = "readers"

#: Failures after which nobody knows whether it happened.
UNKNOWN = (errors.DurabilityUnknown, errors.Timeout, errors.Unavailable)


class Session:
    """Thread-safe but for this: one thread a producer, one thread a committed partition."""

    def __init__(self, backend: Backend, marks: Marks, life: str, incarnations: dict[str, int] | None = None) -> None:
        """``life`` (letters) keeps producers of one run apart from those of the run before."""
        self.backend = backend
        self.marks = marks
        self.life = life
        #: Mark what is sent, and what is refused: for runs of which no trace is kept.
        self.marks_sends = False
        #: How often each topic was made, the present one included.
        self.incarnations = defaultdict(int, incarnations or {})
        self._sequences: dict[str, int] = defaultdict(int)

    def create(self, name: str, partitions: int, **configs: int) -> None:
        self.incarnations[name] += 1
        inc = self.incarnations[name]
        self.marks("topic?", t=name, inc=inc, n=partitions)
        named = {
            "segment.bytes": "1024",
            "retention.ms": "-1",
            **{key.replace("_", "."): str(value) for key, value in configs.items()},
        }
        self.backend.create_topic(name, partitions, named)
        self.marks("topic", t=name, inc=inc, n=partitions)

    def grow(self, name: str, total: int) -> None:
        self.marks("grow?", t=name, inc=self.incarnations[name], n=total)
        self.backend.create_partitions(name, total)
        self.marks("grow", t=name, inc=self.incarnations[name], n=total)

    def delete(self, name: str) -> None:
        self.marks("delete?", t=name, inc=self.incarnations[name])
        self.backend.delete_topic(name)
        self.marks("delete", t=name, inc=self.incarnations[name])

    def records(self, producer: str, count: int, size: int) -> list[Record]:
        first = self._sequences[producer]
        self._sequences[producer] += count
        return [
            (None, make_value(producer, n, size).encode(), timestamp_of(producer, n))
            for n in range(first, first + count)
        ]

    def produce(
        self,
        producer: str,
        topic: str,
        partition: int,
        acks: int,
        count: int = 1,
        size: int = 0,
        stamp: tuple[int, int, int] | None = None,
    ) -> tuple[int, int]:
        records = self.records(self.life + producer, count, size)
        inc = self.incarnations[topic]
        values = [value.decode() for _, value, _ in records]
        if self.marks_sends:
            self.marks("send", t=topic, inc=inc, p=partition, vals=values)
        try:
            base, last = self.backend.produce(topic, partition, records, acks, stamp)
        except errors.TakhinError as error:
            if self.marks_sends and not isinstance(error, UNKNOWN):
                self.marks("refused", t=topic, inc=inc, p=partition, vals=values)
            raise
        if acks:
            assert last == base + count - 1
            self.marks("ack", t=topic, inc=inc, p=partition, base=base, vals=values, acks=acks, stamp=stamp)
        return base, last

    def see(self, topic: str, partition: int) -> None:
        """Watermarks, and all that can be read."""
        inc = self.incarnations[topic]
        start, end = self.backend.watermarks(topic, partition)
        self.marks("marks", t=topic, inc=inc, p=partition, start=start, hwm=end)
        while start < end:
            try:
                seen = self.backend.read(topic, partition, start)
            except errors.OffsetOutOfRange:
                # Retention may have been faster; nothing else takes records away here.
                before = start
                start, end = self.backend.watermarks(topic, partition)
                assert start > before
                self.marks("marks", t=topic, inc=inc, p=partition, start=start, hwm=end)
                continue
            assert seen, f"nothing at {start} below {end}"
            self.shown(topic, partition, seen)
            start = seen[-1][0] + 1

    def shown(self, topic: str, partition: int, seen: list[tuple[int, bytes]]) -> None:
        assert [offset for offset, _ in seen] == list(range(seen[0][0], seen[-1][0] + 1)), "not dense"
        self.marks(
            "shown",
            t=topic,
            inc=self.incarnations[topic],
            p=partition,
            base=seen[0][0],
            vals=[value.decode() for _, value in seen],
        )

    def commit(self, topic: str, partition: int, offset: int) -> None:
        fields = {"g": GROUP, "t": topic, "inc": self.incarnations[topic], "p": partition, "o": offset}
        self.marks("commit?", **fields)
        self.backend.commit(GROUP, topic, partition, offset)
        self.marks("commit", **fields)

    def trim(self, topic: str, partition: int, offset: int) -> None:
        fields = {"t": topic, "inc": self.incarnations[topic], "p": partition, "o": offset}
        self.marks("trim?", **fields)
        start = self.backend.trim(topic, partition, offset)
        assert start >= offset
        self.marks("marks", t=topic, inc=self.incarnations[topic], p=partition, start=start, hwm=offset)

    def new_producer(self) -> tuple[int, int]:
        producer_id, epoch = self.backend.new_producer()
        self.marks("pid", id=producer_id)
        return producer_id, epoch

    # -- a bit of everything --------------------------------------------------------------------

    def keep_tailing(self, topic: str, partition: int, stop: threading.Event, commit_every: int = 0) -> None:
        """A consumer at the end of a partition, that also commits."""
        since = 0
        with contextlib.suppress(errors.TopicNotFound, errors.Unavailable, errors.OffsetOutOfRange):
            for seen in self.backend.tail(topic, partition, self.backend.watermarks(topic, partition)[0], stop):
                self.shown(topic, partition, seen)
                since += len(seen)
                if commit_every and since >= commit_every:
                    since = 0
                    self.commit(topic, partition, seen[-1][0] + 1)

    def produce_many(self, producer: str, places: list[tuple[str, int]], batches: int, seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(batches):
            topic, partition = random_.choice(places)
            count = random_.choice((1, 1, 1, 2, 5))
            size = random_.choice((20, 60, 60, 700))
            self.produce(producer, topic, partition, random_.choice((-1, -1, 1, 1, 0)), count, size)

    def produce_idempotent(self, producer: str, topic: str, partition: int, batches: int, seed: int) -> None:
        random_ = random.Random(seed)
        producer_id, epoch = self.new_producer()
        sequence = 0
        for _ in range(batches):
            count = random_.choice((1, 3))
            stamp = (producer_id, epoch, sequence)
            self.produce(producer, topic, partition, random_.choice((-1, -1, 1)), count, 40, stamp)
            sequence += count
