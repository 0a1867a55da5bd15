"""The metadata as it is in memory: what every read is answered from.

The database is read once, whole and checked, when it is opened; from then on the model is
what has been committed, and the database is where it is kept. A page that goes bad behind
the server's back can so never become a wrong answer.

Only the committing thread of the moment changes a model, by ``apply``; it may read it
without the lock, all others hold it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .metadata_schema import COMMITTED_OFFSETS, COUNTERS, LOG_STARTS, PRODUCERS, TOPICS, Key, Row


@dataclass(frozen=True, slots=True)
class TopicRow:
    #: 32 hexadecimal digits; never used again for another topic.
    topic_id: str
    name: str
    num_partitions: int
    #: What was set on the topic itself, by Kafka's names.
    configs: dict[str, str]
    created_ms: int
    #: Its deletion has begun, and must be finished.
    deleting: bool = False

    def to_row(self) -> Row:
        configs = json.dumps(self.configs, sort_keys=True, separators=(",", ":"))
        return (self.topic_id, self.name, self.num_partitions, configs, self.created_ms, int(self.deleting))

    @classmethod
    def from_row(cls, row: Row) -> TopicRow:
        topic_id, name, num_partitions, configs, created_ms, deleting = row
        return cls(
            str(topic_id), str(name), int(num_partitions), json.loads(str(configs)), int(created_ms), bool(deleting)
        )

    def copy(self) -> TopicRow:
        return replace(self, configs=dict(self.configs))


class Model:
    def __init__(self) -> None:
        self.topics: dict[str, TopicRow] = {}
        #: Name to topic_id; a topic keeps its name until it is forgotten.
        self.topic_ids: dict[str, str] = {}
        #: topic_id -> partition -> offset
        self.log_starts: dict[str, dict[int, int]] = {}
        #: group_id -> topic_id -> partition -> offset; no empty dictionaries
        self.offsets: dict[str, dict[str, dict[int, int]]] = {}
        self.producers: dict[int, int] = {}
        self.counters: dict[str, int] = {}

    def row(self, key: Key) -> Row | None:
        """The row with this key, as the database holds it."""
        table, *rest = key
        value: int | None
        if table == COMMITTED_OFFSETS.name:
            group_id, topic_id, partition = rest
            value = self.offsets.get(str(group_id), {}).get(str(topic_id), {}).get(int(partition))
        elif table == TOPICS.name:
            topic = self.topics.get(str(rest[0]))
            return None if topic is None else topic.to_row()
        elif table == LOG_STARTS.name:
            topic_id, partition = rest
            value = self.log_starts.get(str(topic_id), {}).get(int(partition))
        elif table == PRODUCERS.name:
            value = self.producers.get(int(rest[0]))
        elif table == COUNTERS.name:
            value = self.counters.get(str(rest[0]))
        else:
            raise KeyError(table)
        return None if value is None else (*rest, value)

    def apply(self, key: Key, row: Row | None) -> None:
        """Put the row in the place of the one with this key; None takes it away."""
        table, *rest = key
        if table == COMMITTED_OFFSETS.name:
            self._apply_offset(str(rest[0]), str(rest[1]), int(rest[2]), None if row is None else int(row[3]))
        elif table == TOPICS.name:
            self._apply_topic(str(rest[0]), row)
        elif table == LOG_STARTS.name:
            topic_id, partition = str(rest[0]), int(rest[1])
            if row is not None:
                self.log_starts.setdefault(topic_id, {})[partition] = int(row[2])
            elif topic_id in self.log_starts:
                self.log_starts[topic_id].pop(partition, None)
                if not self.log_starts[topic_id]:
                    del self.log_starts[topic_id]
        elif table == PRODUCERS.name:
            if row is not None:
                self.producers[int(rest[0])] = int(row[1])
            else:
                self.producers.pop(int(rest[0]), None)
        elif table == COUNTERS.name:
            if row is not None:
                self.counters[str(rest[0])] = int(row[1])
            else:
                self.counters.pop(str(rest[0]), None)
        else:
            raise KeyError(table)

    def _apply_topic(self, topic_id: str, row: Row | None) -> None:
        old = self.topics.pop(topic_id, None)
        if old is not None:
            del self.topic_ids[old.name]
        if row is not None:
            topic = TopicRow.from_row(row)
            self.topics[topic_id] = topic
            self.topic_ids[topic.name] = topic_id

    def _apply_offset(self, group_id: str, topic_id: str, partition: int, offset: int | None) -> None:
        if offset is not None:
            topics = self.offsets.setdefault(group_id, {})
            # The topic's own string as key: one object for all groups that read it.
            topic = self.topics.get(topic_id)
            topics.setdefault(topic.topic_id if topic else topic_id, {})[partition] = offset
            return
        topics = self.offsets.get(group_id, {})
        partitions = topics.get(topic_id, {})
        partitions.pop(partition, None)
        if not partitions:
            topics.pop(topic_id, None)
        if not topics:
            self.offsets.pop(group_id, None)

    def group_keys(self, group_id: str) -> Iterator[Key]:
        """Keys of everything that a group has committed."""
        for topic_id, partitions in self.offsets.get(group_id, {}).items():
            for partition in partitions:
                yield (COMMITTED_OFFSETS.name, group_id, topic_id, partition)

    def topic_keys(self, topic_id: str) -> Iterator[Key]:
        """Keys of everything that goes when a topic is forgotten, its own included."""
        if topic_id in self.topics:
            yield (TOPICS.name, topic_id)
        for partition in self.log_starts.get(topic_id, {}):
            yield (LOG_STARTS.name, topic_id, partition)
        for group_id, topics in self.offsets.items():
            for partition in topics.get(topic_id, {}):
                yield (COMMITTED_OFFSETS.name, group_id, topic_id, partition)
