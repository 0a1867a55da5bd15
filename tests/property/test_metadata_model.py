"""The metadata store against plain dictionaries, through restarts and kills."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from takhin import errors
from takhin.clock import ManualClock
from takhin.metadata import Metadata

names = st.sampled_from(["a", "b", "c", "ü"])
group_ids = st.sampled_from(["g", "h", "gruppe ü", "'; DROP TABLE topics; --"])
partitions = st.integers(0, 3)
offsets = st.integers(0, 2**63 - 1)
configs = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3)


class MetadataMachine(RuleBasedStateMachine):
    topics = Bundle("topics")

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.generation = 0
        self.metadata = Metadata(self.root / "0" / "metadata.db", ManualClock())
        self.rows: dict[str, dict[str, Any]] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.committed: dict[str, dict[tuple[str, int], int]] = {}
        self.producers: dict[int, int] = {}

    @initialize()
    def begin(self) -> None:
        (self.root / "0").mkdir()
        self.metadata.open()

    def teardown(self) -> None:
        self.metadata.close()
        shutil.rmtree(self.root)

    @rule(target=topics, name=names, count=st.integers(1, 4), configs=configs)
    def create(self, name: str, count: int, configs: dict[str, str]) -> Any:
        if any(row["name"] == name for row in self.rows.values()):
            with pytest.raises(errors.TopicAlreadyExists):
                self.metadata.create_topic(name, count, configs)
            return multiple()
        topic = self.metadata.create_topic(name, count, configs)
        self.rows[topic.topic_id] = {"name": name, "count": count, "configs": configs, "deleting": False}
        return topic.topic_id

    @rule(topic=topics, count=st.integers(1, 4))
    def set_partitions(self, topic: str, count: int) -> None:
        if topic in self.rows and count >= self.rows[topic]["count"]:
            self.metadata.set_num_partitions(topic, count)
            self.rows[topic]["count"] = count

    @rule(topic=topics, configs=configs)
    def set_configs(self, topic: str, configs: dict[str, str]) -> None:
        if topic in self.rows:
            self.metadata.set_configs(topic, configs)
            self.rows[topic]["configs"] = configs

    @rule(topic=topics)
    def mark(self, topic: str) -> None:
        if topic in self.rows:
            self.metadata.mark_deleting(topic)
            self.rows[topic]["deleting"] = True

    @rule(topic=consumes(topics))
    def forget(self, topic: str) -> None:
        self.metadata.forget_topic(topic)
        self.rows.pop(topic, None)
        self.starts = {key: offset for key, offset in self.starts.items() if key[0] != topic}
        self.committed = {
            group_id: kept
            for group_id, committed in self.committed.items()
            if (kept := {key: offset for key, offset in committed.items() if key[0] != topic})
        }

    @rule(moves=st.lists(st.tuples(topics, partitions, offsets), max_size=4))
    def move_log_starts(self, moves: list[tuple[str, int, int]]) -> None:
        self.metadata.set_log_start_offsets(moves)
        for topic, partition, offset in moves:
            if topic in self.rows:
                self.starts[topic, partition] = max(offset, self.starts.get((topic, partition), -1))

    @rule(group_id=group_ids, commits=st.lists(st.tuples(topics, partitions, offsets), max_size=4))
    def commit(self, group_id: str, commits: list[tuple[str, int, int]]) -> None:
        good = all(
            topic in self.rows and not self.rows[topic]["deleting"] and partition < self.rows[topic]["count"]
            for topic, partition, _ in commits
        )
        if not good:
            with pytest.raises(errors.NotFound):
                self.metadata.commit_offsets(group_id, commits)
            return
        self.metadata.commit_offsets(group_id, commits)
        for topic, partition, offset in commits:
            self.committed.setdefault(group_id, {})[topic, partition] = offset

    @rule(group_id=group_ids)
    def delete_group(self, group_id: str) -> None:
        assert self.metadata.delete_group(group_id) == (self.committed.pop(group_id, None) is not None)

    @rule()
    def new_producer(self) -> None:
        producer_id, epoch = self.metadata.new_producer()
        assert producer_id == len(self.producers) + 1
        self.producers[producer_id] = epoch

    @rule(producer_id=st.integers(1, 4), ahead=st.integers(-1, 1))
    def bump_producer(self, producer_id: int, ahead: int) -> None:
        present = self.producers.get(producer_id)
        if present is None:
            with pytest.raises(errors.UnknownProducer):
                self.metadata.bump_producer(producer_id, 0)
        elif ahead:
            with pytest.raises(errors.ProducerFenced):
                self.metadata.bump_producer(producer_id, present + ahead)
        else:
            assert self.metadata.bump_producer(producer_id, present) == (producer_id, present + 1)
            self.producers[producer_id] = present + 1

    @rule()
    def restart(self) -> None:
        self.metadata.close()
        self.metadata.open()

    @rule()
    def kill(self) -> None:
        """Go on with the files as they lie there at this moment."""
        self.generation += 1
        place = self.root / str(self.generation)
        shutil.copytree(self.metadata._store.path.parent, place)
        self.metadata.close()
        self.metadata = Metadata(place / "metadata.db", ManualClock())
        self.metadata.open()

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert {
            topic.topic_id: {
                "name": topic.name,
                "count": topic.num_partitions,
                "configs": topic.configs,
                "deleting": topic.deleting,
            }
            for topic in self.metadata.topics()
        } == self.rows
        assert self.metadata.log_start_offsets() == self.starts
        assert self.metadata.group_ids() == sorted(self.committed)
        assert {group_id: self.metadata.committed_offsets(group_id) for group_id in self.committed} == self.committed
        for producer_id in range(1, 6):
            assert self.metadata.producer_epoch(producer_id) == self.producers.get(producer_id)


MetadataMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestMetadataAgainstDictionaries = MetadataMachine.TestCase
