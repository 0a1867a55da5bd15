"""A topic of the local engine: its name, its configs and where its partitions are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .._fastlog import RecordSpans, murmur2
from ..config import TopicConfigs
from ..errors import InvalidTopicName, PartitionNotFound
from ..storage.partition import Partition
from .base import ANY_PARTITION, PartitionDescription, TopicDescription

MAX_NAME_CHARACTERS = 249
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def check_topic_name(name: str) -> None:
    """Kafka's rule. Raises ``InvalidTopicName``."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidTopicName(
            f"a topic name has 1 to {MAX_NAME_CHARACTERS} of the characters a-z A-Z 0-9 . _ -"
            " and is neither '.' nor '..'",
            bad_field="name",
        )


@dataclass(slots=True)
class Topic:
    name: str
    topic_id: str
    overrides: Mapping[str, str]
    configs: TopicConfigs
    #: By number. Replaced, never changed in place.
    partitions: tuple[Partition, ...]
    #: Spreads records without a key.
    turn: itertools.count[int] = field(default_factory=itertools.count)

    def partition(self, number: int) -> Partition:
        """Raises ``PartitionNotFound``."""
        if not 0 <= number < len(self.partitions):
            raise PartitionNotFound(
                f"topic {self.name} has partitions 0 to {len(self.partitions) - 1}, not {number}",
                topic=self.name,
                partition=number,
            )
        return self.partitions[number]

    def choose(self, number: int, records: RecordSpans) -> Partition:
        """The partition asked for; ``ANY_PARTITION`` goes by the first record's key as Kafka's default
        partitioner does, or without one in turn. Raises ``PartitionNotFound``."""
        if number != ANY_PARTITION:
            return self.partition(number)
        key = records.first_key()
        place = next(self.turn) if key is None else murmur2(key) & 0x7FFFFFFF
        return self.partitions[place % len(self.partitions)]

    def describe(self) -> TopicDescription:
        return TopicDescription(self.name, tuple(describe_partition(partition) for partition in self.partitions))


def describe_partition(partition: Partition) -> PartitionDescription:
    return PartitionDescription(
        partition.partition,
        partition.log_start_offset,
        partition.high_watermark,
        partition.log_end_offset,
        partition.size_bytes(),
        partition.environment.fault.reason,
    )
