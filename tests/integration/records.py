"""Short words for what nearly every test does over the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from takhin.v1 import takhin_pb2 as pb

#: Keeps records whatever their timestamps say.
FOR_EVER = {"retention.ms": "-1"}


def create_topic(client: Any, topic: str, partitions: int = 1, configs: Mapping[str, str] = FOR_EVER) -> None:
    client.CreateTopic(pb.CreateTopicRequest(name=topic, num_partitions=partitions, configs=configs), timeout=60)


def produce(client: Any, topic: str, values: Iterable[bytes], partition: int = 0, acks: int = -1) -> int:
    """Append the values as one batch; gives the first offset."""
    request = pb.ProduceBatchRequest(
        topic=topic, partition=partition, records=[pb.Record(value=value) for value in values], required_acks=acks
    )
    return int(client.ProduceBatch(request, timeout=30).base_offset)


def read_all(client: Any, topic: str, partition: int = 0, offset: int = -1) -> list[pb.Record]:
    """All readable records from an offset on."""
    request = pb.ConsumeMessagesRequest(topic=topic, partition=partition, offset=offset, until_end=True)
    return [record for response in client.ConsumeMessages(request, timeout=60) for record in response.records]


def end_offset(client: Any, topic: str, partition: int = 0) -> int:
    request = pb.GetPartitionOffsetsRequest(topic=topic, partition=partition)
    return int(client.GetPartitionOffsets(request, timeout=30).end_offset)
