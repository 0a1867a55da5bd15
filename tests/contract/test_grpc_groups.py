"""Over gRPC: offsets and consumer groups."""

from __future__ import annotations

import pytest

from takhin.v1 import takhin_pb2 as pb

from .harness import Server, failure


@pytest.fixture
def filled(server: Server) -> Server:
    """Topic ``t`` of two partitions; five records in the first, at 1000 to 5000 ms."""
    server.topic("t", 2)
    records = [pb.Record(value=b"%d" % n, timestamp=1000 * (n + 1)) for n in range(5)]
    server.stub.ProduceBatch(pb.ProduceBatchRequest(topic="t", records=records))
    return server


def at(partition: int, offset: int, topic: str = "t") -> pb.TopicPartitionOffset:
    return pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)


def commit(server: Server, *places: pb.TopicPartitionOffset, group_id: str = "g") -> pb.CommitOffsetResponse:
    response: pb.CommitOffsetResponse = server.stub.CommitOffset(
        pb.CommitOffsetRequest(group_id=group_id, offsets=places)
    )
    return response


def committed(server: Server, *partitions: int, group_id: str = "g") -> list[tuple[str, int, int]]:
    asked = [pb.TopicPartition(topic="t", partition=partition) for partition in partitions]
    response = server.stub.FetchCommittedOffsets(pb.FetchCommittedOffsetsRequest(group_id=group_id, partitions=asked))
    assert response.group_id == group_id
    return [(place.topic, place.partition, place.offset) for place in response.offsets]


def test_the_offsets_of_a_partition_are_given(filled: Server) -> None:
    answer = filled.stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic="t", partition=0))
    assert (answer.topic, answer.partition, answer.beginning_offset, answer.end_offset, answer.error) == (
        "t",
        0,
        0,
        5,
        "",
    )
    filled.stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[at(0, 2)]))
    assert filled.stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic="t")).beginning_offset == 2


def test_offsets_are_found_by_time_in_the_order_of_the_queries(filled: Server) -> None:
    queries = [
        pb.ListOffsetsRequest.Query(topic="t", partition=partition, timestamp=timestamp)
        for partition, timestamp in [(0, -2), (0, -1), (0, 0), (0, 2500), (0, 5000), (0, 5001), (1, -1), (1, 7)]
    ]
    response = filled.stub.ListOffsets(pb.ListOffsetsRequest(queries=queries))
    assert [(r.partition, r.offset, r.timestamp) for r in response.results] == [
        (0, 5, -1),
        (0, 0, -1),
        (0, 0, 1000),
        (0, 2, 3000),
        (0, 4, 5000),
        (0, -1, -1),
        (1, 0, -1),
        (1, -1, -1),
    ]
    assert {result.topic for result in response.results} == {"t"}


@pytest.mark.parametrize("timestamp", [-3, -(2**63)])
def test_a_time_that_cannot_be_is_refused(filled: Server, timestamp: int) -> None:
    query = pb.ListOffsetsRequest.Query(topic="t", timestamp=timestamp)
    found = failure(lambda: filled.stub.ListOffsets(pb.ListOffsetsRequest(queries=[query])))
    assert (found.code, found.reason, found.bad_fields) == (
        "INVALID_ARGUMENT",
        "INVALID_TIMESTAMP",
        ("queries.timestamp",),
    )


def test_committed_offsets_are_fetched(filled: Server) -> None:
    assert committed(filled, 0) == [("t", 0, -1)]
    assert committed(filled) == []
    assert commit(filled, at(1, 0), at(0, 3)).success
    assert committed(filled) == [("t", 0, 3), ("t", 1, 0)]
    assert committed(filled, 1, 0) == [("t", 1, 0), ("t", 0, 3)]
    assert committed(filled, group_id="other") == []


def test_all_offsets_of_a_commit_are_kept_or_none(filled: Server) -> None:
    for places, code, reason in (
        ((at(0, 1), at(2, 1)), "NOT_FOUND", "PARTITION_NOT_FOUND"),
        ((at(0, 1), at(0, 1, "none")), "NOT_FOUND", "TOPIC_NOT_FOUND"),
        ((at(0, 1), at(1, -1)), "INVALID_ARGUMENT", "INVALID_OFFSET"),
        ((at(0, 1), at(1, -(2**63))), "INVALID_ARGUMENT", "INVALID_OFFSET"),
    ):
        found = failure(lambda places=places: commit(filled, *places))
        assert (found.code, found.reason) == (code, reason)
    assert committed(filled) == []
    assert list(filled.stub.ListConsumerGroups(pb.ListConsumerGroupsRequest()).groups) == []


@pytest.mark.parametrize("group_id", ["", "x" * 65536, "a\0b"], ids=["empty", "long", "nul"])
def test_a_bad_group_id_is_refused(filled: Server, group_id: str) -> None:
    found = failure(lambda: commit(filled, at(0, 1), group_id=group_id))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_GROUP_ID")
    assert found.bad_fields
    assert list(filled.stub.ListConsumerGroups(pb.ListConsumerGroupsRequest()).groups) == []


def test_a_group_is_listed_described_and_deleted(filled: Server) -> None:
    stub = filled.stub
    commit(filled, at(0, 3))
    [listed] = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest()).groups
    assert (listed.group_id, listed.state, listed.member_count) == ("g", "Empty", 0)
    group = stub.DescribeConsumerGroup(pb.DescribeConsumerGroupRequest(group_id="g"))
    assert (group.group_id, group.state, list(group.members), group.error) == ("g", "Empty", [], "")
    assert group.protocol_type == listed.protocol_type
    [place] = group.offsets
    assert (place.topic, place.partition, place.committed_offset, place.log_end_offset, place.lag) == ("t", 0, 3, 5, 2)
    assert stub.DeleteConsumerGroup(pb.DeleteConsumerGroupRequest(group_id="g")).success
    assert committed(filled) == []
    for method, request in (
        (stub.DescribeConsumerGroup, pb.DescribeConsumerGroupRequest(group_id="g")),
        (stub.DeleteConsumerGroup, pb.DeleteConsumerGroupRequest(group_id="g")),
    ):
        found = failure(lambda method=method, request=request: method(request))
        assert (found.code, found.reason) == ("NOT_FOUND", "GROUP_NOT_FOUND")
        assert "g" in found.metadata.values()


def test_a_group_with_members_is_not_deleted(filled: Server) -> None:
    commit(filled, at(0, 3))
    stream = filled.consume("t", group_id="g")
    stream.initial_metadata()
    found = failure(lambda: filled.stub.DeleteConsumerGroup(pb.DeleteConsumerGroupRequest(group_id="g")))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "GROUP_NOT_EMPTY")
    stream.cancel()
