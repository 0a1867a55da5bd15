"""An engine in memory: slow, simple, right. It stands for "a second engine" in the contract tests.

One lock for everything. A partition is a list of framed batches; a durable append is "flushed" by a
thread of its own, so that callbacks come from another thread as they do in a real engine.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from takhin import errors
from takhin._fastlog import Batches, RecordSpans, murmur2
from takhin.clock import Clock
from takhin.config import Config, describe_topic_configs, topic_configs
from takhin.engine import base

from .memory_partition import Batch, MemoryReader, Partition, Sequences, Topic, out_of_range

MAX_PARTITIONS_A_TOPIC = 10_000
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class MemoryEngine(base.Engine):
    def __init__(self, config: Config | None = None, clock: Clock | None = None) -> None:
        self.config = config or Config()
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.topics: dict[str, Topic] = {}
        self.commits: dict[str, dict[tuple[str, int], int]] = {}
        self.members: dict[str, list[base.GroupMember]] = {}
        self.producers: dict[int, int] = {}
        self.open = False
        #: For tests: while it is cleared, nothing becomes durable.
        self.flushing = threading.Event()
        self.flushing.set()
        self._flushes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._flusher: threading.Thread | None = None

    # -- life

    def start(self) -> None:
        self.open = True
        self._flusher = threading.Thread(target=self._flush, name="memory-flusher")
        self._flusher.start()

    def stop(self) -> None:
        self.open = False
        self.flushing.set()
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            self._flushes.put(None)
            flusher.join()

    def _flush(self) -> None:
        while (work := self._flushes.get()) is not None:
            self.flushing.wait()
            work()

    def health(self) -> base.EngineHealth:
        return base.EngineHealth("healthy")

    def info(self) -> base.EngineInfo:
        return base.EngineInfo("memory", "memory-0", {"max_partitions": self.config.limits.max_partitions}, ())

    # -- topics

    def _topic(self, name: str) -> Topic:
        if not self.open:
            raise errors.Unavailable("the engine is stopped")
        topic = self.topics.get(name)
        if topic is None:
            raise errors.TopicNotFound(f"topic {name!r} does not exist", topic=name)
        return topic

    def _partition(self, name: str, index: int) -> Partition:
        topic = self._topic(name)
        if not 0 <= index < len(topic.partitions):
            raise errors.PartitionNotFound(f"topic {name!r} has no partition {index}", topic=name, partition=index)
        return topic.partitions[index]

    def create_topic(
        self, name: str, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> base.TopicDescription:
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise errors.InvalidTopicName(f"{name!r} is not a topic name", bad_field="name", topic=name)
        if not 0 <= num_partitions <= MAX_PARTITIONS_A_TOPIC:
            raise errors.InvalidPartitionCount(
                f"{num_partitions} partitions: must be 1 to {MAX_PARTITIONS_A_TOPIC}", bad_field="num_partitions"
            )
        if replication_factor not in (0, 1):
            raise errors.InvalidReplicationFactor(
                f"{replication_factor} replicas: there is one machine", bad_field="replication_factor"
            )
        topic_configs(self.config.log, self.config.topics, configs)
        with self.lock:
            if not self.open:
                raise errors.Unavailable("the engine is stopped")
            if name in self.topics:
                raise errors.TopicAlreadyExists(f"topic {name!r} exists", topic=name)
            count = num_partitions or self.config.topics.num_partitions
            self._check_room(count)
            self.topics[name] = Topic(name, dict(configs), [Partition() for _ in range(count)])
            return self.describe_topic(name)

    def _check_room(self, more: int) -> None:
        limit = self.config.limits.max_partitions
        if sum(len(topic.partitions) for topic in self.topics.values()) + more > limit:
            raise errors.LimitReached(f"there can be {limit} partitions", limit=limit)

    def delete_topic(self, name: str) -> None:
        with self.lock:
            self._topic(name)
            topic = self.topics.pop(name)
            for offsets in self.commits.values():
                for place in [place for place in offsets if place[0] == name]:
                    del offsets[place]
            wakes = []
            for partition in topic.partitions:
                partition.deleted = True
                wakes += self._wakes(partition)
        for wake in wakes:
            wake()

    def topic_names(self) -> list[str]:
        with self.lock:
            return sorted(self.topics)

    def describe_topic(self, name: str) -> base.TopicDescription:
        with self.lock:
            topic = self._topic(name)
            return base.TopicDescription(
                name, tuple(self.describe_partition(name, index) for index in range(len(topic.partitions)))
            )

    def create_partitions(self, topic: str, num_partitions: int) -> int:
        with self.lock:
            found = self._topic(topic)
            more = num_partitions - len(found.partitions)
            if more <= 0 or num_partitions > MAX_PARTITIONS_A_TOPIC:
                raise errors.InvalidPartitionCount(
                    f"{topic!r} has {len(found.partitions)} partitions; {num_partitions} is not more",
                    bad_field="num_partitions",
                )
            self._check_room(more)
            found.partitions += [Partition() for _ in range(more)]
            return num_partitions

    def alter_topic_configs(self, topic: str, changes: Mapping[str, str], unset: Sequence[str]) -> None:
        with self.lock:
            found = self._topic(topic)
            # Unknown names among those to unset are refused as well.
            for name in unset:
                if name not in {entry.name for entry in self.describe_topic_configs(topic)}:
                    raise errors.InvalidTopicConfig(f"there is no config {name!r}", bad_field="unset", config=name)
            configs = {name: value for name, value in {**found.configs, **changes}.items() if name not in unset}
            topic_configs(self.config.log, self.config.topics, configs)
            found.configs = configs

    def describe_topic_configs(self, topic: str) -> list[base.TopicConfigEntry]:
        with self.lock:
            found = self._topic(topic)
            rows = describe_topic_configs(self.config.log, self.config.topics, found.configs)
            return [base.TopicConfigEntry(*row) for row in rows]

    def delete_records(self, offsets: Sequence[tuple[str, int, int]]) -> list[int]:
        wakes: list[Callable[[], None]] = []
        with self.lock:
            targets = []
            for topic, index, offset in offsets:
                partition = self._partition(topic, index)
                if offset > partition.high_watermark:
                    raise out_of_range(topic, index, offset, partition)
                targets.append((partition, partition.high_watermark if offset == -1 else offset))
            for partition, offset in targets:
                partition.log_start = max(partition.log_start, offset)
                partition.batches = [b for b in partition.batches if b.last_offset >= partition.log_start]
                wakes += self._wakes(partition)
            result = [partition.log_start for partition, _ in targets]
        for wake in wakes:
            wake()
        return result

    # -- records

    def append(
        self,
        topic: str,
        partition: int,
        records: RecordSpans,
        acks: int,
        producer: base.ProducerStamp | None,
        done: base.AppendDone,
        alone: bool = False,
    ) -> None:
        try:
            outcome = self._append(topic, partition, records, acks, producer, done)
        except errors.TakhinError as exc:
            done(exc)
            return
        if outcome is not None:
            done(outcome)

    def _append(
        self, topic: str, index: int, records: RecordSpans, acks: int, stamp: Any, done: base.AppendDone
    ) -> base.Appended | None:
        with self.lock:
            found = self._topic(topic)
            if index == base.ANY_PARTITION:
                index = self._choose(found, records)
            partition = self._partition(topic, index)
            configs = topic_configs(self.config.log, self.config.topics, found.configs)
            batch = records.frame(
                self.clock.now_ms(),
                log_append_time=configs.message_timestamp_type == "LogAppendTime",
                max_bytes=configs.max_message_bytes,
                **_framing(stamp),
            )
            if stamp is not None:
                repeat = self._check_sequence(partition, stamp, len(records))
                if repeat is not None:
                    return repeat
            first = partition.log_end
            last = first + batch.record_count - 1
            data = batch.tobytes(first)
            partition.batches.append(Batch(data, first, last))
            for offset, timestamp, *_ in Batches(data, first).records():
                partition.times.append((timestamp, offset))
            partition.log_end = last + 1
            at = base.Appended(index, first, last, batch.max_timestamp, partition.high_watermark)
            if stamp is not None:
                entry = partition.producers.setdefault(stamp.producer_id, Sequences(stamp.epoch))
                entry.last = [*entry.last[-4:], (stamp.sequence, stamp.sequence + len(records) - 1, at)]
        self._flushes.put(
            lambda: self._make_durable(partition, last + 1, done if acks == base.ACKS_DURABLE else None, at)
        )
        return None if acks == base.ACKS_DURABLE else at

    def _make_durable(self, partition: Partition, high: int, done: base.AppendDone | None, at: base.Appended) -> None:
        with self.lock:
            partition.high_watermark = max(partition.high_watermark, high)
            wakes = self._wakes(partition)
        if done is not None:
            done(base.Appended(at.partition, at.base_offset, at.last_offset, at.timestamp, partition.high_watermark))
        for wake in wakes:
            wake()

    def _wakes(self, partition: Partition) -> list[Callable[[], None]]:
        """Of the readers that have something to read, or to be told."""
        wakes = []
        for reader in partition.readers:
            waits = partition.log_start <= reader.next_offset and reader.next_offset >= partition.high_watermark
            if reader.wake is not None and (partition.deleted or not waits):
                wakes.append(reader.wake)
                reader.wake = None
        return wakes

    def _choose(self, topic: Topic, records: RecordSpans) -> int:
        key = records.first_key()
        if key is not None:
            return (murmur2(key) & 0x7FFFFFFF) % len(topic.partitions)
        topic.next_spread += 1
        return topic.next_spread % len(topic.partitions)

    def _check_sequence(self, partition: Partition, stamp: base.ProducerStamp, count: int) -> base.Appended | None:
        current = self.producers.get(stamp.producer_id)
        if current is None:
            raise errors.UnknownProducer(f"there is no producer {stamp.producer_id}", producer_id=stamp.producer_id)
        entry = partition.producers.get(stamp.producer_id)
        if stamp.epoch < current or (entry is not None and stamp.epoch < entry.epoch):
            raise errors.ProducerFenced(f"epoch {stamp.epoch} is not the latest", producer_id=stamp.producer_id)
        if stamp.epoch > current:
            raise errors.ProducerFenced(f"epoch {stamp.epoch} was never given", producer_id=stamp.producer_id)
        if entry is None or stamp.epoch > entry.epoch:
            partition.producers[stamp.producer_id] = Sequences(stamp.epoch)
            expected = 0
        else:
            for first, last, at in entry.last:
                if (first, last) == (stamp.sequence, stamp.sequence + count - 1):
                    return at
            expected = entry.last[-1][1] + 1 if entry.last else 0
        if stamp.sequence != expected:
            raise errors.OutOfOrderSequence(
                f"sequence {stamp.sequence}: expected {expected}", expected=expected, sequence=stamp.sequence
            )
        return None

    def open_reader(self, topic: str, partition: int, offset: int) -> base.Reader:
        with self.lock:
            found = self._partition(topic, partition)
            if offset == base.EARLIEST:
                offset = found.log_start
            elif offset == base.LATEST:
                offset = found.high_watermark
            if not found.log_start <= offset <= found.high_watermark:
                raise out_of_range(topic, partition, offset, found)
            return MemoryReader(self.lock, topic, partition, found, offset)

    def describe_partition(self, topic: str, partition: int) -> base.PartitionDescription:
        with self.lock:
            found = self._partition(topic, partition)
            return base.PartitionDescription(partition, found.log_start, found.high_watermark, found.log_end)

    def offset_at_time(self, topic: str, partition: int, timestamp: int) -> base.OffsetAtTime:
        with self.lock:
            found = self._partition(topic, partition)
            for at, offset in found.times:
                if at >= timestamp and found.log_start <= offset < found.high_watermark:
                    return base.OffsetAtTime(offset, at)
            return base.OffsetAtTime(-1, -1)

    def init_producer_id(self, producer_id: int, epoch: int) -> tuple[int, int]:
        with self.lock:
            if producer_id == 0:
                producer_id = len(self.producers) + 1
                self.producers[producer_id] = 0
                return producer_id, 0
            current = self.producers.get(producer_id)
            if current is None:
                raise errors.UnknownProducer(f"there is no producer {producer_id}", producer_id=producer_id)
            if epoch != current:
                raise errors.ProducerFenced(f"epoch {epoch} is not the latest", producer_id=producer_id)
            self.producers[producer_id] = epoch + 1
            return producer_id, epoch + 1

    # -- groups

    def _check_group_id(self, group_id: str) -> None:
        if not 1 <= len(group_id) <= 249 or not group_id.isprintable():
            raise errors.InvalidGroupId(f"{group_id[:50]!r} is not a group id", bad_field="group_id")

    def _check_group_room(self, group_id: str) -> None:
        """The caller holds the lock."""
        known = {group.group_id for group in self.groups()}
        if group_id not in known and len(known) >= self.config.limits.max_groups:
            raise errors.LimitReached(f"there are {len(known)} groups", limit=self.config.limits.max_groups)

    def commit_offsets(self, group_id: str, offsets: Sequence[tuple[str, int, int]]) -> None:
        self._check_group_id(group_id)
        with self.lock:
            for topic, partition, offset in offsets:
                self._partition(topic, partition)
                if offset < 0:
                    raise errors.InvalidOffset(f"offset {offset} is negative", bad_field="offsets.offset")
            self._check_group_room(group_id)
            group = self.commits.setdefault(group_id, {})
            for topic, partition, offset in offsets:
                group[topic, partition] = offset

    def committed_offsets(
        self, group_id: str, partitions: Sequence[tuple[str, int]] | None
    ) -> list[tuple[str, int, int]]:
        self._check_group_id(group_id)
        with self.lock:
            group = self.commits.get(group_id, {})
            places = sorted(group) if partitions is None else partitions
            return [(topic, partition, group.get((topic, partition), -1)) for topic, partition in places]

    def groups(self) -> list[base.GroupDescription]:
        with self.lock:
            names = sorted({*self.commits, *(name for name, members in self.members.items() if members)})
            return [self._describe(name) for name in names]

    def _describe(self, group_id: str) -> base.GroupDescription:
        members = tuple(self.members.get(group_id, ()))
        offsets = []
        for (topic, index), committed in sorted(self.commits.get(group_id, {}).items()):
            at = self.describe_partition(topic, index)
            lag = max(at.high_watermark - max(committed, at.log_start_offset), 0)
            offsets.append(base.GroupOffset(topic, index, committed, at.log_end_offset, lag))
        return base.GroupDescription(group_id, "Stable" if members else "Empty", "consumer", members, tuple(offsets))

    def describe_group(self, group_id: str) -> base.GroupDescription:
        with self.lock:
            if group_id not in self.commits and not self.members.get(group_id):
                raise errors.GroupNotFound(f"there is no group {group_id!r}", group_id=group_id)
            return self._describe(group_id)

    def delete_group(self, group_id: str) -> None:
        with self.lock:
            if self.describe_group(group_id).members:
                raise errors.GroupNotEmpty(f"group {group_id!r} has members", group_id=group_id)
            del self.commits[group_id]

    def join_group(self, group_id: str, member: base.GroupMember) -> Callable[[], None]:
        self._check_group_id(group_id)
        with self.lock:
            self._check_group_room(group_id)
            self.members.setdefault(group_id, []).append(member)

        def leave() -> None:
            with self.lock:
                members = self.members[group_id]
                members[:] = [each for each in members if each is not member]

        return leave


def _framing(stamp: base.ProducerStamp | None) -> dict[str, int]:
    if stamp is None:
        return {}
    return {"producer_id": stamp.producer_id, "producer_epoch": stamp.epoch, "base_sequence": stamp.sequence}
