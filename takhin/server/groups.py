"""Consumer groups: list, describe, delete."""

from __future__ import annotations

import grpc

from ..engine.base import Engine
from ..v1 import takhin_pb2 as pb


class Groups:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(
        self, _request: pb.ListConsumerGroupsRequest, _context: grpc.ServicerContext
    ) -> pb.ListConsumerGroupsResponse:
        return pb.ListConsumerGroupsResponse(
            groups=[
                pb.ConsumerGroupInfo(
                    group_id=group.group_id,
                    state=group.state,
                    protocol_type=group.protocol_type,
                    member_count=len(group.members),
                )
                for group in self._engine.groups()
            ]
        )

    def describe(
        self, request: pb.DescribeConsumerGroupRequest, _context: grpc.ServicerContext
    ) -> pb.DescribeConsumerGroupResponse:
        group = self._engine.describe_group(request.group_id)
        members = [
            pb.ConsumerGroupMember(
                member_id=member.member_id,
                client_id=member.client_id,
                client_host=member.client_host,
                assignments=[
                    pb.TopicPartitionOffset(topic=member.topic, partition=member.partition, offset=member.position)
                ],
            )
            for member in group.members
        ]
        offsets = [
            pb.GroupPartitionOffset(
                topic=at.topic,
                partition=at.partition,
                committed_offset=at.committed_offset,
                log_end_offset=at.log_end_offset,
                lag=at.lag,
            )
            for at in group.offsets
        ]
        return pb.DescribeConsumerGroupResponse(
            group_id=group.group_id,
            state=group.state,
            protocol_type=group.protocol_type,
            members=members,
            offsets=offsets,
        )

    def delete(
        self, request: pb.DeleteConsumerGroupRequest, _context: grpc.ServicerContext
    ) -> pb.DeleteConsumerGroupResponse:
        self._engine.delete_group(request.group_id)
        return pb.DeleteConsumerGroupResponse(success=True)
