"""Offsets: of partitions, by time, and committed by groups."""

from __future__ import annotations

import grpc

from ..engine.base import EARLIEST, LATEST, Engine
from ..errors import InvalidTimestamp
from ..v1 import takhin_pb2 as pb


class Offsets:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_partition(
        self, request: pb.GetPartitionOffsetsRequest, _context: grpc.ServicerContext
    ) -> pb.GetPartitionOffsetsResponse:
        at = self._engine.describe_partition(request.topic, request.partition)
        return pb.GetPartitionOffsetsResponse(
            topic=request.topic,
            partition=request.partition,
            beginning_offset=at.log_start_offset,
            end_offset=at.high_watermark,
        )

    def by_time(self, request: pb.ListOffsetsRequest, _context: grpc.ServicerContext) -> pb.ListOffsetsResponse:
        return pb.ListOffsetsResponse(results=[self._find(query) for query in request.queries])

    def _find(self, query: pb.ListOffsetsRequest.Query) -> pb.ListOffsetsResponse.Result:
        timestamp = -1
        if query.timestamp < LATEST:
            raise InvalidTimestamp(
                f"timestamp is {query.timestamp}: must be milliseconds since the epoch, -1 (earliest) or -2 (latest)",
                bad_field="queries.timestamp",
            )
        if query.timestamp in (EARLIEST, LATEST):
            at = self._engine.describe_partition(query.topic, query.partition)
            offset = at.log_start_offset if query.timestamp == EARLIEST else at.high_watermark
        else:
            found = self._engine.offset_at_time(query.topic, query.partition, query.timestamp)
            offset, timestamp = found.offset, found.timestamp
        return pb.ListOffsetsResponse.Result(
            topic=query.topic, partition=query.partition, offset=offset, timestamp=timestamp
        )

    def commit(self, request: pb.CommitOffsetRequest, _context: grpc.ServicerContext) -> pb.CommitOffsetResponse:
        self._engine.commit_offsets(
            request.group_id, [(each.topic, each.partition, each.offset) for each in request.offsets]
        )
        return pb.CommitOffsetResponse(success=True)

    def committed(
        self, request: pb.FetchCommittedOffsetsRequest, _context: grpc.ServicerContext
    ) -> pb.FetchCommittedOffsetsResponse:
        asked = [(each.topic, each.partition) for each in request.partitions] or None
        found = self._engine.committed_offsets(request.group_id, asked)
        return pb.FetchCommittedOffsetsResponse(
            group_id=request.group_id,
            offsets=[
                pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)
                for topic, partition, offset in found
            ],
        )
