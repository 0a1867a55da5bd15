"""Over gRPC: topics, configs, partitions, deleting records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin.config import Config, GrpcConfig, LimitsConfig
from takhin.v1 import takhin_pb2 as pb

from .harness import MakeServer, Server, failure
from .test_engine_topics import HOSTILE_NAMES


def files(data_dir: Path) -> set[str]:
    return {str(path.relative_to(data_dir)) for path in data_dir.rglob("*")} if data_dir.exists() else set()


def test_topics_from_creation_to_deletion(server: Server) -> None:
    stub = server.stub
    created = stub.CreateTopic(pb.CreateTopicRequest(name="b", num_partitions=2, replication_factor=1))
    assert (created.success, created.error) == (True, "")
    stub.CreateTopic(pb.CreateTopicRequest(name="a"))
    assert list(stub.ListTopics(pb.ListTopicsRequest()).topics) == ["a", "b"]
    server.produce("b", b"x", b"y", partition=1)
    topic = stub.GetTopic(pb.GetTopicRequest(name="b")).topic
    assert (topic.name, topic.num_partitions, topic.replication_factor) == ("b", 2, 1)
    assert sorted(topic.partitions) == [0, 1]
    one = topic.partitions[1]
    assert (one.partition_id, one.beginning_offset, one.end_offset) == (1, 0, 2)
    assert (one.leader, list(one.replicas), list(one.isr)) == (0, [0], [0])
    assert stub.DeleteTopic(pb.DeleteTopicRequest(name="b")).success
    assert list(stub.ListTopics(pb.ListTopicsRequest()).topics) == ["a"]


def test_topics_are_described_in_the_order_asked(server: Server) -> None:
    for name in ("a", "b", "c"):
        server.topic(name)

    def described(*names: str) -> list[str]:
        return [t.name for t in server.stub.DescribeTopics(pb.DescribeTopicsRequest(topics=names)).topics]

    assert described("c", "a", "c") == ["c", "a", "c"]
    assert described() == ["a", "b", "c"]
    missing = failure(lambda: described("a", "none", "b"))
    assert (missing.code, missing.reason, missing.metadata["topic"]) == ("NOT_FOUND", "TOPIC_NOT_FOUND", "none")


def test_a_hostile_name_is_an_invalid_argument_everywhere_and_leaves_nothing_behind(server: Server) -> None:
    before = files(server.data_dir)
    for name in HOSTILE_NAMES:
        refuse_everywhere(server, name)
    assert list(server.stub.ListTopics(pb.ListTopicsRequest()).topics) == []
    assert files(server.data_dir) == before


def refuse_everywhere(server: Server, name: str) -> None:
    stub = server.stub
    record = pb.Record(value=b"v")
    calls: list[Callable[[], Any]] = [
        lambda: stub.CreateTopic(pb.CreateTopicRequest(name=name, num_partitions=1)),
        lambda: stub.DeleteTopic(pb.DeleteTopicRequest(name=name)),
        lambda: stub.GetTopic(pb.GetTopicRequest(name=name)),
        lambda: stub.DescribeTopics(pb.DescribeTopicsRequest(topics=[name])),
        lambda: stub.CreatePartitions(pb.CreatePartitionsRequest(topic=name, num_partitions=2)),
        lambda: stub.AlterTopicConfigs(pb.AlterTopicConfigsRequest(topic=name)),
        lambda: stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic=name)),
        lambda: stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic=name)),
        lambda: stub.ListOffsets(pb.ListOffsetsRequest(queries=[pb.ListOffsetsRequest.Query(topic=name)])),
        lambda: stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[pb.TopicPartitionOffset(topic=name)])),
        lambda: stub.CommitOffset(pb.CommitOffsetRequest(group_id="g", offsets=[pb.TopicPartitionOffset(topic=name)])),
        lambda: stub.ProduceMessage(pb.ProduceMessageRequest(topic=name, record=record)),
        lambda: stub.ProduceBatch(pb.ProduceBatchRequest(topic=name, records=[record])),
        lambda: stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic=name)),
    ]
    for call in calls:
        found = failure(call)
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_TOPIC_NAME")
        assert found.bad_fields
    [answer] = stub.ProduceMessageStream(iter([pb.ProduceMessageRequest(topic=name, record=record)]))
    assert answer.error_code == 3


@pytest.mark.parametrize(
    ("request_fields", "reason", "field"),
    [
        ({"num_partitions": -1}, "INVALID_PARTITION_COUNT", "num_partitions"),
        ({"num_partitions": -(2**31)}, "INVALID_PARTITION_COUNT", "num_partitions"),
        ({"replication_factor": 2}, "INVALID_REPLICATION_FACTOR", "replication_factor"),
        ({"replication_factor": -1}, "INVALID_REPLICATION_FACTOR", "replication_factor"),
        ({"configs": {"retention.mss": "1"}}, "INVALID_TOPIC_CONFIG", None),
        ({"configs": {"retention.ms": "soon"}}, "INVALID_TOPIC_CONFIG", None),
        ({"configs": {"segment.bytes": "-5"}}, "INVALID_TOPIC_CONFIG", None),
    ],
)
def test_a_bad_request_to_create_makes_nothing(
    server: Server, request_fields: dict[str, Any], reason: str, field: str | None
) -> None:
    before = files(server.data_dir)
    found = failure(lambda: server.stub.CreateTopic(pb.CreateTopicRequest(name="t", **request_fields)))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)
    if field:
        assert found.bad_fields == (field,)
    assert list(server.stub.ListTopics(pb.ListTopicsRequest()).topics) == []
    assert files(server.data_dir) == before


def test_an_unknown_config_says_which_there_are(server: Server) -> None:
    found = failure(lambda: server.topic("t", **{"retention.mss": "1"}))
    assert "retention.ms" in found.message


def test_a_huge_number_of_partitions_is_refused_and_makes_nothing(server: Server) -> None:
    before = files(server.data_dir)
    found = failure(lambda: server.topic("t", partitions=2**31 - 1))
    assert found.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert files(server.data_dir) == before


def test_a_topic_that_exists_is_not_made_again(server: Server) -> None:
    server.topic("t")
    found = failure(lambda: server.topic("t"))
    assert (found.code, found.reason, found.metadata["topic"]) == ("ALREADY_EXISTS", "TOPIC_ALREADY_EXISTS", "t")


def test_a_limit_that_is_reached_is_resource_exhausted_with_a_quota(make_server: MakeServer) -> None:
    server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0"), limits=LimitsConfig(max_partitions=2)))
    found = failure(lambda: server.topic("t", partitions=3))
    assert (found.code, found.reason, found.has_quota) == ("RESOURCE_EXHAUSTED", "LIMIT_REACHED", True)
    assert found.metadata["limit"] == "2"


def test_what_is_not_there_is_not_found(server: Server) -> None:
    stub = server.stub
    calls: list[Callable[[], Any]] = [
        lambda: stub.DeleteTopic(pb.DeleteTopicRequest(name="none")),
        lambda: stub.GetTopic(pb.GetTopicRequest(name="none")),
        lambda: stub.CreatePartitions(pb.CreatePartitionsRequest(topic="none", num_partitions=2)),
        lambda: stub.AlterTopicConfigs(pb.AlterTopicConfigsRequest(topic="none")),
        lambda: stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic="none")),
        lambda: stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic="none")),
        lambda: stub.ListOffsets(pb.ListOffsetsRequest(queries=[pb.ListOffsetsRequest.Query(topic="none")])),
        lambda: stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[pb.TopicPartitionOffset(topic="none")])),
        lambda: server.produce("none", b"v"),
        lambda: server.consume("none"),
    ]
    for call in calls:
        found = failure(call)
        assert (found.code, found.reason) == ("NOT_FOUND", "TOPIC_NOT_FOUND")
        assert found.metadata["topic"] == "none"


def test_a_partition_that_is_not_there_is_not_found(server: Server) -> None:
    server.topic("t")
    for partition in (1, -2, 2**31 - 1, -(2**31)):
        find_nothing(server, partition)


def find_nothing(server: Server, partition: int) -> None:
    place = pb.TopicPartitionOffset(topic="t", partition=partition)
    query = pb.ListOffsetsRequest.Query(topic="t", partition=partition)
    stub = server.stub
    calls: list[Callable[[], Any]] = [
        lambda: stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic="t", partition=partition)),
        lambda: stub.ListOffsets(pb.ListOffsetsRequest(queries=[query])),
        lambda: stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[place])),
        lambda: stub.CommitOffset(pb.CommitOffsetRequest(group_id="g", offsets=[place])),
        lambda: server.produce("t", b"v", partition=partition),
        lambda: server.consume("t", partition=partition),
    ]
    for call in calls:
        found = failure(call)
        assert (found.code, found.reason) == ("NOT_FOUND", "PARTITION_NOT_FOUND")
        assert found.metadata["partition"] == str(partition)


def test_partitions_are_added_but_never_taken_away(server: Server) -> None:
    server.topic("t", 2)
    grow = server.stub.CreatePartitions
    assert grow(pb.CreatePartitionsRequest(topic="t", num_partitions=5)).num_partitions == 5
    assert server.stub.GetTopic(pb.GetTopicRequest(name="t")).topic.num_partitions == 5
    for count in (5, 1, 0, -1):
        found = failure(lambda count=count: grow(pb.CreatePartitionsRequest(topic="t", num_partitions=count)))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARTITION_COUNT")


def test_configs_are_set_unset_and_described(server: Server) -> None:
    server.topic("t", retention_ms="1000")

    def described() -> dict[str, tuple[str, str]]:
        response = server.stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic="t"))
        assert response.topic == "t"
        assert all(config.documentation for config in response.configs)
        return {config.name: (config.value, config.source) for config in response.configs}

    assert described()["retention.ms"] == ("1000", "topic")
    altered = server.stub.AlterTopicConfigs(
        pb.AlterTopicConfigsRequest(topic="t", set={"segment.bytes": "1048576"}, unset=["retention.ms"])
    )
    assert {config.name: config.value for config in altered.configs}["segment.bytes"] == "1048576"
    assert described()["segment.bytes"] == ("1048576", "topic")
    assert described()["retention.ms"][1] != "topic"
    for bad in ({"set": {"no.such": "1"}}, {"unset": ["no.such"]}, {"set": {"retention.ms": "x"}}):
        found = failure(lambda bad=bad: server.stub.AlterTopicConfigs(pb.AlterTopicConfigsRequest(topic="t", **bad)))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_TOPIC_CONFIG")


def test_records_are_deleted_up_to_an_offset(server: Server) -> None:
    server.topic("t", 2)
    server.produce("t", b"a", b"b", b"c")

    def delete(offset: int, partition: int = 0) -> list[tuple[str, int, int]]:
        place = pb.TopicPartitionOffset(topic="t", partition=partition, offset=offset)
        response = server.stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[place]))
        return [(at.topic, at.partition, at.offset) for at in response.log_start_offsets]

    assert delete(2) == [("t", 0, 2)]
    assert server.values("t") == [b"c"]
    assert delete(1) == [("t", 0, 2)]
    assert delete(-1) == [("t", 0, 3)]
    for offset in (4, 2**63 - 1):
        found = failure(lambda offset=offset: delete(offset))
        assert (found.code, found.reason) == ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE")
    found = failure(lambda: delete(-2))
    assert (found.code, found.reason, found.bad_fields) == ("INVALID_ARGUMENT", "INVALID_OFFSET", ("offsets.offset",))
