"""Topics: create, delete, list, describe, grow, configure, and delete their records."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from ..engine.base import Engine, TopicConfigEntry, TopicDescription
from ..errors import InvalidOffset
from ..v1 import takhin_pb2 as pb


class Topics:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, request: pb.CreateTopicRequest, _context: grpc.ServicerContext) -> pb.CreateTopicResponse:
        self._engine.create_topic(
            request.name, request.num_partitions, request.replication_factor, dict(request.configs)
        )
        return pb.CreateTopicResponse(success=True)

    def delete(self, request: pb.DeleteTopicRequest, _context: grpc.ServicerContext) -> pb.DeleteTopicResponse:
        self._engine.delete_topic(request.name)
        return pb.DeleteTopicResponse(success=True)

    def list(self, _request: pb.ListTopicsRequest, _context: grpc.ServicerContext) -> pb.ListTopicsResponse:
        return pb.ListTopicsResponse(topics=self._engine.topic_names())

    def get(self, request: pb.GetTopicRequest, _context: grpc.ServicerContext) -> pb.GetTopicResponse:
        return pb.GetTopicResponse(topic=_info(self._engine.describe_topic(request.name)))

    def describe(self, request: pb.DescribeTopicsRequest, _context: grpc.ServicerContext) -> pb.DescribeTopicsResponse:
        names: Iterable[str] = request.topics or self._engine.topic_names()
        return pb.DescribeTopicsResponse(topics=[_info(self._engine.describe_topic(name)) for name in names])

    def create_partitions(
        self, request: pb.CreatePartitionsRequest, _context: grpc.ServicerContext
    ) -> pb.CreatePartitionsResponse:
        total = self._engine.create_partitions(request.topic, request.num_partitions)
        return pb.CreatePartitionsResponse(num_partitions=total)

    def alter_configs(
        self, request: pb.AlterTopicConfigsRequest, _context: grpc.ServicerContext
    ) -> pb.AlterTopicConfigsResponse:
        self._engine.alter_topic_configs(request.topic, dict(request.set), list(request.unset))
        return pb.AlterTopicConfigsResponse(configs=_configs(self._engine.describe_topic_configs(request.topic)))

    def describe_configs(
        self, request: pb.DescribeTopicConfigsRequest, _context: grpc.ServicerContext
    ) -> pb.DescribeTopicConfigsResponse:
        entries = self._engine.describe_topic_configs(request.topic)
        return pb.DescribeTopicConfigsResponse(topic=request.topic, configs=_configs(entries))

    def delete_records(
        self, request: pb.DeleteRecordsRequest, _context: grpc.ServicerContext
    ) -> pb.DeleteRecordsResponse:
        asked = [(each.topic, each.partition, each.offset) for each in request.offsets]
        for topic, partition, offset in asked:
            if offset < -1:
                raise InvalidOffset(
                    f"offset is {offset}: must be an offset, or -1 for the high watermark",
                    bad_field="offsets.offset",
                    topic=topic,
                    partition=partition,
                    offset=offset,
                )
        starts = self._engine.delete_records(asked)
        return pb.DeleteRecordsResponse(
            log_start_offsets=[
                pb.TopicPartitionOffset(topic=topic, partition=partition, offset=start)
                for (topic, partition, _), start in zip(asked, starts, strict=True)
            ]
        )


def _info(topic: TopicDescription) -> pb.TopicInfo:
    info = pb.TopicInfo(
        name=topic.name, num_partitions=len(topic.partitions), replication_factor=topic.replication_factor
    )
    for partition in topic.partitions:
        info.partitions[partition.partition].MergeFrom(
            pb.PartitionInfo(
                partition_id=partition.partition,
                beginning_offset=partition.log_start_offset,
                end_offset=partition.high_watermark,
                leader=partition.leader,
                replicas=partition.replicas,
                isr=partition.isr,
            )
        )
    return info


def _configs(entries: Iterable[TopicConfigEntry]) -> list[pb.TopicConfig]:
    return [
        pb.TopicConfig(name=entry.name, value=entry.value, source=entry.source, documentation=entry.documentation)
        for entry in entries
    ]
