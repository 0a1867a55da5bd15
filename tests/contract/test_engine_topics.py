"""The engine interface: topics, their configs and partitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from takhin import errors
from takhin.config import Config, LimitsConfig, TopicDefaults
from takhin.engine.base import Engine

from .harness import append, read_all

HOSTILE_NAMES = ["", ".", "..", "../x", "a/b", "a\0b", "x" * 250, "x" * 65536, "t\u00f6pic", "a b", "\n"]


def test_a_topic_is_created_listed_described_and_deleted(engine: Engine) -> None:
    described = engine.create_topic("b.Topic_1-x", 3, 1, {})
    assert described.name == "b.Topic_1-x"
    engine.create_topic("a", 0, 0, {})
    assert engine.topic_names() == ["a", "b.Topic_1-x"]
    assert len(engine.describe_topic("a").partitions) == 1
    partitions = engine.describe_topic("b.Topic_1-x").partitions
    assert [(p.partition, p.log_start_offset, p.high_watermark, p.log_end_offset) for p in partitions] == [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (2, 0, 0, 0),
    ]
    engine.delete_topic("a")
    assert engine.topic_names() == ["b.Topic_1-x"]


def test_the_default_number_of_partitions_is_the_configurations(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(Config(topics=TopicDefaults(num_partitions=4)))
    assert len(engine.create_topic("t", 0, 0, {}).partitions) == 4


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name[:12]))
def test_a_hostile_name_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(errors.InvalidTopicName):
        engine.create_topic(name, 1, 1, {})
    assert engine.topic_names() == []
    with pytest.raises((errors.TopicNotFound, errors.InvalidTopicName)):
        engine.describe_topic(name)


def test_the_longest_name_is_taken(engine: Engine) -> None:
    engine.create_topic("x" * 249, 1, 1, {})
    append(engine, "x" * 249, 0, b"v")


def test_a_topic_is_made_once(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    with pytest.raises(errors.TopicAlreadyExists):
        engine.create_topic("t", 2, 1, {})
    assert len(engine.describe_topic("t").partitions) == 1


@pytest.mark.parametrize("count", [-1, -(2**31), 2**31 - 1])
def test_a_bad_number_of_partitions_is_refused(engine: Engine, count: int) -> None:
    with pytest.raises((errors.InvalidPartitionCount, errors.LimitReached)):
        engine.create_topic("t", count, 1, {})
    assert engine.topic_names() == []


@pytest.mark.parametrize("factor", [-1, 2, 2**31 - 1])
def test_a_replication_factor_that_cannot_be_is_refused(engine: Engine, factor: int) -> None:
    with pytest.raises(errors.InvalidReplicationFactor):
        engine.create_topic("t", 1, factor, {})
    assert engine.topic_names() == []


@pytest.mark.parametrize(
    "configs", [{"retention.msx": "5"}, {"retention.ms": "soon"}, {"cleanup.policy": "burn"}, {"": ""}]
)
def test_a_bad_config_is_refused(engine: Engine, configs: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidTopicConfig):
        engine.create_topic("t", 1, 1, configs)
    assert engine.topic_names() == []


def test_the_number_of_partitions_is_bounded(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(Config(limits=LimitsConfig(max_partitions=3)))
    engine.create_topic("a", 2, 1, {})
    with pytest.raises(errors.LimitReached):
        engine.create_topic("b", 2, 1, {})
    with pytest.raises(errors.LimitReached):
        engine.create_partitions("a", 4)
    assert engine.topic_names() == ["a"]
    assert len(engine.describe_topic("a").partitions) == 2
    engine.create_topic("b", 1, 1, {})


def test_partitions_are_added_and_can_be_used(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    append(engine, "t", 0, b"kept")
    assert engine.create_partitions("t", 3) == 3
    assert append(engine, "t", 2, b"new").base_offset == 0
    assert read_all(engine.open_reader("t", 0, 0)) == [(0, b"kept")]


@pytest.mark.parametrize("count", [-1, 0, 1, 2])
def test_partitions_never_become_fewer(engine: Engine, count: int) -> None:
    engine.create_topic("t", 2, 1, {})
    with pytest.raises(errors.InvalidPartitionCount):
        engine.create_partitions("t", count)
    assert len(engine.describe_topic("t").partitions) == 2


def test_configs_are_described_with_their_sources_and_altered_all_or_none(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {"retention.ms": "1000"})

    def configs() -> dict[str, tuple[str, str]]:
        return {entry.name: (entry.value, entry.source) for entry in engine.describe_topic_configs("t")}

    assert configs()["retention.ms"] == ("1000", "topic")
    before = configs()["segment.bytes"]
    assert before[1] in ("server", "default")
    engine.alter_topic_configs("t", {"segment.bytes": "1048576"}, ["retention.ms"])
    assert configs()["segment.bytes"] == ("1048576", "topic")
    assert configs()["retention.ms"][1] != "topic"
    with pytest.raises(errors.InvalidTopicConfig):
        engine.alter_topic_configs("t", {"segment.bytes": "2097152", "retention.ms": "never"}, [])
    assert configs()["segment.bytes"] == ("1048576", "topic")


def test_a_topic_that_is_made_again_begins_empty(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {"retention.ms": "1000"})
    append(engine, "t", 0, b"old")
    engine.delete_topic("t")
    engine.create_topic("t", 1, 1, {})
    assert engine.describe_partition("t", 0).log_end_offset == 0
    assert append(engine, "t", 0, b"new").base_offset == 0
    assert read_all(engine.open_reader("t", 0, 0)) == [(0, b"new")]
    assert {e.source for e in engine.describe_topic_configs("t")} <= {"server", "default"}


def test_nothing_can_be_done_with_a_topic_that_is_not_there(engine: Engine) -> None:
    calls: list[Callable[[], object]] = [
        lambda: engine.describe_topic("none"),
        lambda: engine.delete_topic("none"),
        lambda: engine.create_partitions("none", 2),
        lambda: engine.alter_topic_configs("none", {}, []),
        lambda: engine.describe_topic_configs("none"),
        lambda: engine.describe_partition("none", 0),
        lambda: engine.open_reader("none", 0, 0),
        lambda: engine.offset_at_time("none", 0, 0),
        lambda: engine.delete_records([("none", 0, 0)]),
        lambda: engine.commit_offsets("g", [("none", 0, 0)]),
    ]
    for call in calls:
        with pytest.raises(errors.TopicNotFound) as caught:
            call()
        assert caught.value.fields["topic"] == "none"


@pytest.mark.parametrize("partition", [-2, 1, 2**31 - 1])
def test_nothing_can_be_done_with_a_partition_that_is_not_there(engine: Engine, partition: int) -> None:
    engine.create_topic("t", 1, 1, {})
    calls: list[Callable[[], object]] = [
        lambda: engine.describe_partition("t", partition),
        lambda: engine.open_reader("t", partition, 0),
        lambda: engine.offset_at_time("t", partition, 0),
        lambda: engine.delete_records([("t", 0, 0), ("t", partition, 0)]),
        lambda: engine.commit_offsets("g", [("t", 0, 0), ("t", partition, 0)]),
    ]
    for call in calls:
        with pytest.raises(errors.PartitionNotFound) as caught:
            call()
        assert caught.value.fields["partition"] == str(partition)
    assert engine.committed_offsets("g", None) == []


def test_the_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.health().status == "healthy"
    info = engine.info()
    assert info.name
    assert info.server_id
    assert all(isinstance(limit, int) for limit in info.limits.values())


def test_stopping_twice_is_stopping_once(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    engine.stop()
    engine.stop()
    with pytest.raises(errors.Unavailable):
        engine.create_topic("u", 1, 1, {})
