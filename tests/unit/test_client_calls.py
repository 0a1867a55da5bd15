"""The unary calls of the client, its errors, and the partitioner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from takhin.client import Client, ClientError, murmur2, partition_for_key
from tests.unit.client_fakes import MemoryServer


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    yield running
    running.stop()


@pytest.fixture
def client(server: MemoryServer) -> Iterator[Client]:
    with Client(server.address, timeout=10) as connected:
        yield connected


# Kafka's own test vectors (UtilsTest.testMurmur2), which are signed there.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFFFFFF


def test_the_partition_of_a_key_is_the_positive_hash_modulo_the_count() -> None:
    assert partition_for_key(b"21", 7) == ((-973932308) & 0x7FFFFFFF) % 7
    assert {partition_for_key(str(n).encode(), 3) for n in range(100)} == {0, 1, 2}


def test_topics_are_made_described_changed_and_deleted(server: MemoryServer, client: Client) -> None:
    client.create_topic("t", 2, configs={"retention.ms": "5"})
    assert client.list_topics() == ["t"]
    assert [p.partition for p in client.describe_topic("t").partitions] == [0, 1]
    assert [(c.name, c.value) for c in client.topic_configs("t")] == [("retention.ms", "5")]
    assert client.create_partitions("t", 3) == 3
    client.alter_topic_configs("t", {"segment.bytes": "9"}, ["retention.ms"])
    assert server.configs["t"] == {"segment.bytes": "9"}
    client.delete_topic("t")
    assert client.describe_topics() == []


def test_one_record_is_produced_by_itself(server: MemoryServer, client: Client) -> None:
    server.add_topic("t")
    assert client.produce("t", b"v", key=b"k", headers=[("h", b"x")], timestamp=7).offset == 0
    record = server.topics["t"][0][0]
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", 7)


def test_offsets_are_committed_and_fetched(server: MemoryServer, client: Client) -> None:
    server.add_topic("t", 2)
    client.commit("g", [("t", 0, 5)])
    assert [o.offset for o in client.committed("g", [("t", 0), ("t", 1)])] == [5, -1]
    assert [(o.partition, o.offset) for o in client.committed("g")] == [(0, 5)]
    assert client.committed("g", []) == []
    assert [g.group_id for g in client.list_groups()] == ["g"]
    assert client.describe_group("g").offsets[0].committed_offset == 5
    client.delete_group("g")
    assert client.list_groups() == []


def test_a_failure_carries_code_reason_and_metadata(client: Client) -> None:
    with pytest.raises(ClientError) as failure:
        client.describe_topic("nope")
    error = failure.value
    assert (error.code, error.reason, error.metadata) == ("NOT_FOUND", "TOPIC_NOT_FOUND", {"topic": "nope"})
    assert str(error) == "topic nope not found (NOT_FOUND/TOPIC_NOT_FOUND)"
    assert not error.retriable


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(ClientError) as failure:
        client.health()
    assert failure.value.code == "UNAVAILABLE"
    assert failure.value.retriable
    assert failure.value.transport_broken


def test_health_is_asked_both_ways(client: Client) -> None:
    assert client.health().status == "healthy"
    assert client.serving() == "SERVING"
    assert client.server_info().engine == "memory"
