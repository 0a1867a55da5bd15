"""The embedded engine: topics in SQLite, records in segments, on this machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry

from .. import errors
from .._fastlog import RecordSpans, crc32c_backends
from ..clock import Clock
from ..config import LimitsConfig, LogConfig, TopicConfigs, TopicDefaults, describe_topic_configs, topic_configs
from ..groups import Groups
from ..metadata import Metadata, TopicRow
from ..storage import retention
from ..storage.compression import CODECS, compress
from ..storage.manager import LogManager, PartitionSpec
from ..storage.partition import Partition
from ..storage.reader import PartitionReader, find_time
from ..storage.waiters import Placed
from .base import (
    ACKS_DURABLE,
    ACKS_NONE,
    EARLIEST,
    LATEST,
    AppendDone,
    Appended,
    EngineHealth,
    EngineInfo,
    GroupDescription,
    GroupMember,
    GroupOffset,
    OffsetAtTime,
    PartitionDescription,
    ProducerStamp,
    Reader,
    TopicConfigEntry,
    TopicDescription,
)
from .local_metrics import LocalCollector
from .local_reload import LocalReload
from .topic import MAX_NAME_CHARACTERS, Topic, check_topic_name, describe_partition

log = logging.getLogger(__name__)

T = TypeVar("T")

METADATA_NAME = "metadata.db"

Reader.register(PartitionReader)


class LocalEngine(LocalReload):
    """Records of one data directory. Its parts have their own locks; ``_admin`` makes changes of topics follow
    one another."""

    def __init__(
        self,
        data_dir: Path,
        log: LogConfig,
        topics: TopicDefaults,
        limits: LimitsConfig,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._log = log
        self._defaults = topics
        self._limits = limits
        self._clock = clock
        self._registry = registry
        self._data_dir = data_dir
        self._manager = LogManager(data_dir, log, clock)
        self._metadata = Metadata(data_dir / METADATA_NAME, clock)
        self._groups: Groups[GroupMember] = Groups(self._metadata, limits)
        self._admin = threading.Lock()
        #: By name. Replaced, never changed in place: hot calls look at it without a lock.
        self._topics: dict[str, Topic] = {}
        self._producer_epochs: dict[int, int] = {}
        self._collector = LocalCollector(self._manager.environment, self._manager.scrubber, self._manager.partitions)
        self._opened = self._running = False

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self.claim()
        try:
            self._even_on_a_full_disk(self._metadata.open)
            self._open_topics()
        except BaseException:
            self._metadata.close()
            self._release()
            raise
        self._registry.register(self._collector)
        self._opened = self._running = True

    def _open_topics(self) -> None:
        manager, metadata = self._manager, self._metadata
        starts = metadata.log_start_offsets()
        rows, specs = [], []
        for row in metadata.topics():
            if row.deleting:
                continue
            rows.append(row)
            specs += self._specs(row, self._configs_of(row), range(row.num_partitions), starts)
        manager.environment.save_log_start = lambda topic_id, partition, offset: self._even_on_a_full_disk(
            lambda: metadata.set_log_start_offsets([(topic_id, partition, offset)])
        )
        for row in metadata.topics():
            if row.deleting:  # a deletion that was cut short
                manager.remove(self._specs(row, self._configs_of(row), range(row.num_partitions)))
                metadata.forget_topic(row.topic_id)
        manager.open(specs)
        self._topics = {row.name: self._topic(row, self._configs_of(row)) for row in rows}

    def _even_on_a_full_disk(self, change: Callable[[], T]) -> T:
        """For what frees room or must not stop: commits, deletions, the start."""
        try:
            return change()
        except errors.DiskFull:
            if not self._manager.environment.space.give_up_reserve():
                raise
            return change()

    def _configs_of(self, row: TopicRow) -> TopicConfigs:
        return topic_configs(self._log, self._defaults, row.configs)

    @staticmethod
    def _specs(
        row: TopicRow,
        configs: TopicConfigs,
        partitions: range,
        starts: Mapping[tuple[str, int], int] | None = None,
    ) -> list[PartitionSpec]:
        return [
            PartitionSpec(row.name, row.topic_id, n, configs, (starts or {}).get((row.topic_id, n), 0))
            for n in partitions
        ]

    def _topic(self, row: TopicRow, configs: TopicConfigs) -> Topic:
        found = [self._manager.get(row.topic_id, n) for n in range(row.num_partitions)]
        return Topic(row.name, row.topic_id, row.configs, configs, tuple(p for p in found if p is not None))

    def stop(self) -> None:
        self._running = False
        if self._opened:  # else no clean marker either: what is there was not looked at
            self._manager.close()
            self._metadata.close()
        self._release()

    def health(self) -> EngineHealth:
        causes = []
        if not self._running:
            causes.append("the engine is starting or stopping")
        if self._manager.environment.fault.reason:
            causes.append(f"the log takes no writes: {self._manager.environment.fault.reason}")
        if self._metadata.offline_reason:
            causes.append(f"metadata takes no changes: {self._metadata.offline_reason}")
        if causes:
            return EngineHealth("unhealthy", tuple(causes))
        if self._manager.environment.space.low:
            causes.append("the disk is nearly full: produce is refused")
        damages = sum(len(segment.damages) for p in self._manager.partitions() for segment in p.segments)
        if damages:
            causes.append(f"{damages} damaged ranges of records are known; the log names them")
        return EngineHealth("degraded" if causes else "healthy", tuple(causes))

    def info(self) -> EngineInfo:
        return EngineInfo(
            "local",
            self._metadata.server_id,
            {
                "max_partitions": self._limits.max_partitions,
                "max_groups": self._limits.max_groups,
                "max_topic_name_characters": MAX_NAME_CHARACTERS,
            },
            ("idempotent-produce", f"crc32c-{crc32c_backends()[-1]}", f"flush-{self._log.flush}"),
        )

    def _check_running(self) -> None:
        if not self._running:
            raise errors.Unavailable("the server is starting or stopping")

    # -- topics -------------------------------------------------------------------------------

    def create_topic(
        self, name: str, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> TopicDescription:
        self._check_running()
        check_topic_name(name)
        if num_partitions < 0:
            raise errors.InvalidPartitionCount(
                f"num_partitions must be 1 or more, or 0 for the default; it is {num_partitions}",
                bad_field="num_partitions",
            )
        if replication_factor not in (0, 1):
            raise errors.InvalidReplicationFactor(
                f"this engine keeps one replica: replication_factor must be 0 or 1, not {replication_factor}",
                bad_field="replication_factor",
            )
        effective = topic_configs(self._log, self._defaults, configs)
        count = num_partitions or self._defaults.num_partitions
        with self._admin:
            if name in self._topics:
                raise errors.TopicAlreadyExists(f"topic {name} exists already", topic=name)
            self._check_partition_limit(count)
            row = self._metadata.create_topic(name, count, dict(configs))
            try:
                self._manager.create(self._specs(row, effective, range(count)))
            except BaseException:
                self._even_on_a_full_disk(lambda: self._metadata.forget_topic(row.topic_id))
                raise
            topic = self._topic(row, effective)
            self._topics = {**self._topics, name: topic}
        log.info("topic created", extra={"fields": {"topic": name, "partitions": count}})
        return topic.describe()

    def _check_partition_limit(self, more: int) -> None:
        there = sum(len(topic.partitions) for topic in self._topics.values())
        if there + more > self._limits.max_partitions:
            raise errors.LimitReached(
                f"{there} partitions and {more} more would be above limits.max_partitions",
                limit=self._limits.max_partitions,
                partitions=there,
            )

    def delete_topic(self, name: str) -> None:
        self._check_running()
        with self._admin:
            topic = self._get(name)
            self._even_on_a_full_disk(lambda: self._metadata.mark_deleting(topic.topic_id))
            self._topics = {other: value for other, value in self._topics.items() if other != name}
            try:
                self._manager.remove(
                    PartitionSpec(name, topic.topic_id, n, topic.configs) for n in range(len(topic.partitions))
                )
                self._even_on_a_full_disk(lambda: self._metadata.forget_topic(topic.topic_id))
            except OSError as problem:
                raise self._manager.environment.write_failed(problem, str(self._data_dir)) from problem
        log.info("topic deleted", extra={"fields": {"topic": name}})

    def _get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            self._check_running()
            raise errors.TopicNotFound(
                f"there is no topic {name[:MAX_NAME_CHARACTERS]!r}", topic=name[:MAX_NAME_CHARACTERS]
            )
        return topic

    def topic_names(self) -> list[str]:
        self._check_running()
        return sorted(self._topics)

    def describe_topic(self, name: str) -> TopicDescription:
        return self._get(name).describe()

    def create_partitions(self, topic: str, num_partitions: int) -> int:
        self._check_running()
        with self._admin:
            entry = self._get(topic)
            there = len(entry.partitions)
            if num_partitions <= there:
                raise errors.InvalidPartitionCount(
                    f"topic {topic} has {there} partitions: the new total must be larger, not {num_partitions}",
                    bad_field="num_partitions",
                    topic=topic,
                )
            self._check_partition_limit(num_partitions - there)
            specs = [PartitionSpec(topic, entry.topic_id, n, entry.configs) for n in range(there, num_partitions)]
            self._manager.create(specs)
            try:
                self._metadata.set_num_partitions(entry.topic_id, num_partitions)
            except BaseException:
                self._manager.remove(specs)
                raise
            more = [self._manager.get(entry.topic_id, n) for n in range(there, num_partitions)]
            entry.partitions = (*entry.partitions, *(partition for partition in more if partition is not None))
        log.info("partitions added", extra={"fields": {"topic": topic, "partitions": num_partitions}})
        return num_partitions

    def alter_topic_configs(self, topic: str, changes: Mapping[str, str], unset: Sequence[str]) -> None:
        self._check_running()
        with self._admin:
            entry = self._get(topic)
            # Names to unset are checked like names to set.
            known = {name for name, *_ in describe_topic_configs(self._log, self._defaults, {})}
            for name in unset:
                if name not in known:
                    topic_configs(self._log, self._defaults, {name: ""})
            overrides = {name: value for name, value in entry.overrides.items() if name not in unset}
            overrides.update(changes)
            effective = topic_configs(self._log, self._defaults, overrides)
            self._metadata.set_configs(entry.topic_id, overrides)
            entry.overrides, entry.configs = overrides, effective
            for partition in entry.partitions:
                partition.configs = effective
        log.info(
            "topic configs changed",
            extra={"fields": {"topic": topic, "set": ",".join(sorted(changes)), "unset": ",".join(sorted(unset))}},
        )

    def describe_topic_configs(self, topic: str) -> list[TopicConfigEntry]:
        entry = self._get(topic)
        return [TopicConfigEntry(*row) for row in describe_topic_configs(self._log, self._defaults, entry.overrides)]

    def delete_records(self, offsets: Sequence[tuple[str, int, int]]) -> list[int]:
        self._check_running()
        goals: list[tuple[Partition, int]] = []
        for topic, number, offset in offsets:
            partition = self._get(topic).partition(number)
            goal = partition.high_watermark if offset == -1 else offset
            if goal < 0 or goal > partition.high_watermark:
                partition.check_offset(goal)
            goals.append((partition, goal))
        starts = [partition.raise_log_start(goal) for partition, goal in goals]
        for partition, _ in goals:
            try:
                retention.remove_unused(partition)
            except OSError as problem:
                # The records are gone for readers; their files go at the next look.
                log.warning(
                    "segments not removed",
                    extra={
                        "fields": {"topic": partition.topic, "partition": partition.partition, "error": str(problem)}
                    },
                )
        return starts

    # -- records ------------------------------------------------------------------------------

    def append(
        self,
        topic: str,
        partition: int,
        records: RecordSpans,
        acks: int,
        producer: ProducerStamp | None,
        done: AppendDone,
        alone: bool = False,
    ) -> None:
        try:
            entry = self._get(topic)
            target = entry.choose(partition, records)
            configs = entry.configs
            by_append, max_bytes = configs.message_timestamp_type == "LogAppendTime", configs.max_message_bytes
            if producer is None:
                batch = records.frame(self._clock.now_ms(), log_append_time=by_append, max_bytes=max_bytes)
            else:
                self._check_producer(producer)
                batch = records.frame(
                    self._clock.now_ms(),
                    log_append_time=by_append,
                    producer_id=producer.producer_id,
                    producer_epoch=producer.epoch,
                    base_sequence=producer.sequence,
                    max_bytes=max_bytes,
                )
            if configs.compression_type in CODECS:
                batch = compress(batch, configs.compression_type)
            if not self._running:
                raise errors.Unavailable("the server is starting or stopping")
            if acks == ACKS_DURABLE:

                def durable(outcome: Placed | errors.TakhinError) -> None:
                    done(_appended(target, outcome) if isinstance(outcome, Placed) else outcome)

                target.append(batch, durable, may_flush=alone)
                return
            placed = target.append(batch, None)
        except errors.TakhinError as error:
            if not error.fields:
                error.fields = {"topic": topic, "partition": str(partition)}
            done(error)
            return
        if acks == ACKS_NONE:
            done(Appended(target.partition, -1, -1, placed.timestamp, target.high_watermark))
        else:
            done(_appended(target, placed))

    def _check_producer(self, producer: ProducerStamp) -> None:
        epoch = self._producer_epochs.get(producer.producer_id)
        if epoch is None:
            epoch = self._metadata.producer_epoch(producer.producer_id)
            if epoch is None:
                raise errors.UnknownProducer(
                    f"producer id {producer.producer_id} was never given out", producer_id=producer.producer_id
                )
            self._producer_epochs.setdefault(producer.producer_id, epoch)
        if producer.epoch < epoch:
            raise errors.ProducerFenced(
                f"producer {producer.producer_id} has epoch {epoch} now; epoch {producer.epoch} is fenced",
                producer_id=producer.producer_id,
                epoch=producer.epoch,
            )
        if producer.epoch > epoch:
            raise errors.UnknownProducer(
                f"epoch {producer.epoch} of producer {producer.producer_id} was never given out",
                producer_id=producer.producer_id,
                epoch=producer.epoch,
            )

    def open_reader(self, topic: str, partition: int, offset: int) -> Reader:
        target = self._get(topic).partition(partition)
        if offset == EARLIEST:
            offset = target.log_start_offset
        elif offset == LATEST:
            offset = target.high_watermark
        target.check_offset(offset)
        reader: Reader = PartitionReader(target, offset)  # type: ignore[assignment]
        return reader

    def describe_partition(self, topic: str, partition: int) -> PartitionDescription:
        return describe_partition(self._get(topic).partition(partition))

    def offset_at_time(self, topic: str, partition: int, timestamp: int) -> OffsetAtTime:
        found = find_time(self._get(topic).partition(partition), timestamp)
        return OffsetAtTime(-1, -1) if found is None else OffsetAtTime(*found)

    def init_producer_id(self, producer_id: int, epoch: int) -> tuple[int, int]:
        self._check_running()
        if producer_id == 0:
            return self._metadata.new_producer()
        new_id, new_epoch = self._metadata.bump_producer(producer_id, epoch)
        if new_id == producer_id:
            self._producer_epochs[producer_id] = new_epoch
        return new_id, new_epoch

    # -- groups -------------------------------------------------------------------------------

    def commit_offsets(self, group_id: str, offsets: Sequence[tuple[str, int, int]]) -> None:
        self._check_running()
        found = []
        for topic, number, offset in offsets:
            if offset < 0:
                raise errors.InvalidOffset(
                    f"a committed offset is the next to read: it cannot be {offset}",
                    bad_field="offsets",
                    topic=topic,
                    partition=number,
                    offset=offset,
                )
            entry = self._get(topic)
            entry.partition(number)
            found.append((entry.topic_id, number, offset))
        self._even_on_a_full_disk(lambda: self._groups.commit(group_id, found))

    def committed_offsets(
        self, group_id: str, partitions: Sequence[tuple[str, int]] | None
    ) -> list[tuple[str, int, int]]:
        committed = self._groups.fetch(group_id)
        if partitions is None:
            names = {topic.topic_id: name for name, topic in self._topics.items()}
            return sorted(
                (names[topic_id], number, offset)
                for (topic_id, number), offset in committed.items()
                if topic_id in names
            )
        result = []
        for name, number in partitions:
            topic = self._topics.get(name)
            result.append((name, number, committed.get((topic.topic_id, number), -1) if topic else -1))
        return result

    def groups(self) -> list[GroupDescription]:
        self._check_running()
        return [
            GroupDescription(view.group_id, view.state, view.protocol_type, view.members)
            for view in self._groups.list()
        ]

    def describe_group(self, group_id: str) -> GroupDescription:
        self._check_running()
        view = self._groups.describe(group_id)
        offsets = []
        for name, number, offset in self.committed_offsets(group_id, None):
            topic = self._topics.get(name)
            if topic is not None and number < len(topic.partitions):
                partition = topic.partitions[number]
                lag = max(partition.high_watermark - max(offset, partition.log_start_offset), 0)
                offsets.append(GroupOffset(name, number, offset, partition.log_end_offset, lag))
        return GroupDescription(view.group_id, view.state, view.protocol_type, view.members, tuple(offsets))

    def delete_group(self, group_id: str) -> None:
        self._check_running()
        self._even_on_a_full_disk(lambda: self._groups.delete(group_id))

    def join_group(self, group_id: str, member: GroupMember) -> Callable[[], None]:
        return self._groups.join(group_id, member)


def _appended(partition: Partition, placed: Placed) -> Appended:
    return Appended(
        partition.partition, placed.base_offset, placed.last_offset, placed.timestamp, partition.high_watermark
    )
