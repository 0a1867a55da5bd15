"""The client: each method of the service as a typed call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc as pb_grpc

from .batch import ProducerOptions
from .channel import DEFAULT_MAX_RECEIVE_BYTES, open_channel
from .consumer import Consumer
from .errors import from_rpc_error
from .models import (
    EARLIEST,
    LATEST,
    CommittedOffset,
    Delivery,
    Group,
    GroupMember,
    GroupOffset,
    Health,
    OffsetAtTime,
    Partition,
    Produced,
    ServerInfo,
    Topic,
    TopicConfig,
)
from .producer import Producer

DEFAULT_TIMEOUT: Final = 30.0


class Client:
    """One connection to a server at ``host:port``. Safe to use from many threads.

    ``timeout`` bounds each unary call, in seconds. Every method raises ``ClientError``; nothing is
    tried again, except by ``producer`` (idempotent) and ``consume``, which say so.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        max_receive_bytes: int = DEFAULT_MAX_RECEIVE_BYTES,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._channel = open_channel(address, credentials=credentials, max_receive_bytes=max_receive_bytes)
        self._stub: Any = pb_grpc.TakhinServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connection; calls under way end. Idempotent."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- topics -------------------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        partitions: int = 0,
        *,
        replication_factor: int = 0,
        configs: Mapping[str, str] | None = None,
    ) -> None:
        """Zeros mean the server's defaults; ``configs`` takes Kafka's names."""
        request = pb.CreateTopicRequest(
            name=name, num_partitions=partitions, replication_factor=replication_factor, configs=configs or {}
        )
        self._unary(self._stub.CreateTopic, request)

    def delete_topic(self, name: str) -> None:
        self._unary(self._stub.DeleteTopic, pb.DeleteTopicRequest(name=name))

    def list_topics(self) -> list[str]:
        """All names, sorted."""
        return list(self._unary(self._stub.ListTopics, pb.ListTopicsRequest()).topics)

    def describe_topics(self, names: Iterable[str] = ()) -> list[Topic]:
        """In the order asked; no names means all topics."""
        response = self._unary(self._stub.DescribeTopics, pb.DescribeTopicsRequest(topics=list(names)))
        return [_topic(info) for info in response.topics]

    def describe_topic(self, name: str) -> Topic:
        return self.describe_topics([name])[0]

    def create_partitions(self, topic: str, total: int) -> int:
        """Grow a topic to ``total`` partitions; gives the total that it has now."""
        request = pb.CreatePartitionsRequest(topic=topic, num_partitions=total)
        return int(self._unary(self._stub.CreatePartitions, request).num_partitions)

    def alter_topic_configs(
        self, topic: str, changes: Mapping[str, str] | None = None, unset: Sequence[str] = ()
    ) -> list[TopicConfig]:
        """Set and unset configs, all or none; gives the effective configs."""
        request = pb.AlterTopicConfigsRequest(topic=topic, set=changes or {}, unset=list(unset))
        return [_config(entry) for entry in self._unary(self._stub.AlterTopicConfigs, request).configs]

    def topic_configs(self, topic: str) -> list[TopicConfig]:
        """The effective configs of a topic."""
        request = pb.DescribeTopicConfigsRequest(topic=topic)
        return [_config(entry) for entry in self._unary(self._stub.DescribeTopicConfigs, request).configs]

    def delete_records(self, offsets: Iterable[tuple[str, int, int]]) -> list[CommittedOffset]:
        """Forget the records below each (topic, partition, offset), -1 meaning the high watermark;
        gives the new first offsets."""
        request = pb.DeleteRecordsRequest(offsets=[_position(*offset) for offset in offsets])
        response = self._unary(self._stub.DeleteRecords, request)
        return [CommittedOffset(o.topic, o.partition, o.offset) for o in response.log_start_offsets]

    # -- records ------------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        timestamp: int = 0,
        partition: int = -1,
        acks: int | None = None,
    ) -> Produced:
        """Append one record and wait for its acknowledgement. For many, use ``producer``.

        ``acks``: -1 on stable storage, 1 written, 0 accepted, None as the server's default.
        """
        record = pb.Record(timestamp=timestamp, headers=[pb.RecordHeader(key=k, value=v) for k, v in headers])
        if key is not None:
            record.key = key
        if value is not None:
            record.value = value
        request = pb.ProduceMessageRequest(topic=topic, partition=partition, record=record)
        if acks is not None:
            request.required_acks = acks
        response = self._unary(self._stub.ProduceMessage, request)
        return Produced(response.topic, response.partition, response.offset, response.timestamp)

    def producer(
        self,
        topic: str,
        *,
        options: ProducerOptions | None = None,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> Producer:
        """A pipelined, batching producer for one topic, which must be there."""
        return Producer(self, self._stub, topic, options or ProducerOptions(), on_delivery)

    def consume(
        self,
        topic: str,
        partition: int = 0,
        *,
        offset: int = EARLIEST,
        start_timestamp: int = 0,
        group: str = "",
        until_end: bool = False,
        end_offset: int | None = None,
        max_records: int = 0,
        max_bytes: int = 0,
        min_bytes: int = 0,
        max_wait_ms: int = 0,
        heartbeat_ms: int = 0,
        reconnect_timeout: float | None = None,
    ) -> Consumer:
        """Read a partition from ``offset`` on (``EARLIEST`` and ``LATEST`` too), without an end.

        ``start_timestamp`` starts at the first record at or after it (ms; 0: unused); ``group`` starts
        at the group's committed offset, else at ``offset``, and counts as a member. ``until_end`` ends at
        the high watermark of now, ``end_offset`` before that offset, ``max_records`` after so many (0: no such
        end). ``reconnect_timeout`` is how long the server may be away, in seconds; None: for ever.

        Raises at once when the partition is not there or the server cannot be reached.
        """
        end = self.partition_offsets(topic, partition)[1]
        if offset == LATEST:
            # Resolved here, so that a connection that breaks before the first record loses none.
            offset = end
        if until_end:
            end_offset = end if end_offset is None else min(end, end_offset)
        request = pb.ConsumeMessagesRequest(
            topic=topic,
            partition=partition,
            offset=offset,
            start_timestamp=start_timestamp,
            group_id=group,
            until_end=until_end,
            max_records=max_records,
            max_bytes=max_bytes,
            min_bytes=min_bytes,
            max_wait_ms=max_wait_ms,
            heartbeat_ms=heartbeat_ms,
        )
        return Consumer(self._stub.ConsumeMessages, request, end_offset=end_offset, reconnect_timeout=reconnect_timeout)

    def partition_offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset that can be read, high watermark)."""
        request = pb.GetPartitionOffsetsRequest(topic=topic, partition=partition)
        response = self._unary(self._stub.GetPartitionOffsets, request)
        return response.beginning_offset, response.end_offset

    def list_offsets(self, queries: Iterable[tuple[str, int, int]]) -> list[OffsetAtTime]:
        """For each (topic, partition, ms since the epoch, ``EARLIEST`` or ``LATEST``), the earliest record
        at or after that time."""
        request = pb.ListOffsetsRequest(
            queries=[pb.ListOffsetsRequest.Query(topic=t, partition=p, timestamp=at) for t, p, at in queries]
        )
        response = self._unary(self._stub.ListOffsets, request)
        return [OffsetAtTime(r.topic, r.partition, r.offset, r.timestamp) for r in response.results]

    def init_producer_id(self, producer_id: int = 0, epoch: int = 0) -> tuple[int, int]:
        """(producer id, epoch): a new producer, or the next epoch of one."""
        request = pb.InitProducerIdRequest(producer_id=producer_id, producer_epoch=epoch)
        response = self._unary(self._stub.InitProducerId, request)
        return response.producer_id, response.producer_epoch

    # -- groups -------------------------------------------------------------------------------

    def commit(self, group: str, offsets: Iterable[tuple[str, int, int]]) -> None:
        """Store (topic, partition, next offset to read) for a group: all, on stable storage, or none."""
        request = pb.CommitOffsetRequest(group_id=group, offsets=[_position(*offset) for offset in offsets])
        self._unary(self._stub.CommitOffset, request)

    def committed(self, group: str, partitions: Iterable[tuple[str, int]] | None = None) -> list[CommittedOffset]:
        """What a group has committed: for the (topic, partition) asked, -1 where nothing, or all."""
        request = pb.FetchCommittedOffsetsRequest(group_id=group)
        if partitions is not None:
            request.partitions.extend(pb.TopicPartition(topic=t, partition=p) for t, p in partitions)
            if not request.partitions:
                return []
        response = self._unary(self._stub.FetchCommittedOffsets, request)
        return [CommittedOffset(o.topic, o.partition, o.offset) for o in response.offsets]

    def list_groups(self) -> list[Group]:
        response = self._unary(self._stub.ListConsumerGroups, pb.ListConsumerGroupsRequest())
        return [Group(g.group_id, g.state, g.protocol_type, g.member_count) for g in response.groups]

    def describe_group(self, group: str) -> Group:
        """A group with its members, committed offsets and lag."""
        response = self._unary(self._stub.DescribeConsumerGroup, pb.DescribeConsumerGroupRequest(group_id=group))
        members = tuple(
            GroupMember(
                m.member_id,
                m.client_id,
                m.client_host,
                tuple((a.topic, a.partition, a.offset) for a in m.assignments),
            )
            for m in response.members
        )
        offsets = tuple(
            GroupOffset(o.topic, o.partition, o.committed_offset, o.log_end_offset, o.lag) for o in response.offsets
        )
        return Group(response.group_id, response.state, response.protocol_type, len(members), members, offsets)

    def delete_group(self, group: str) -> None:
        self._unary(self._stub.DeleteConsumerGroup, pb.DeleteConsumerGroupRequest(group_id=group))

    # -- the server ---------------------------------------------------------------------------

    def health(self) -> Health:
        response = self._unary(self._stub.HealthCheck, pb.HealthCheckRequest())
        return Health(response.status, response.version, response.uptime_seconds)

    def serving(self, service: str = "") -> str:
        """What the standard health service says: ``SERVING``, ``NOT_SERVING`` or ``UNKNOWN``."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        response = self._unary(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))

    def server_info(self) -> ServerInfo:
        r = self._unary(self._stub.GetServerInfo, pb.GetServerInfoRequest())
        return ServerInfo(
            r.version, r.engine, r.server_id, r.start_time_ms, dict(r.limits), tuple(r.methods), tuple(r.features)
        )

    def _unary(self, method: Any, request: object) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


def _position(topic: str, partition: int, offset: int) -> pb.TopicPartitionOffset:
    return pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)


def _config(entry: pb.TopicConfig) -> TopicConfig:
    return TopicConfig(entry.name, entry.value, entry.source, entry.documentation)


def _topic(info: pb.TopicInfo) -> Topic:
    partitions = tuple(
        Partition(number, p.beginning_offset, p.end_offset, p.leader, tuple(p.replicas), tuple(p.isr))
        for number, p in sorted(info.partitions.items())
    )
    return Topic(info.name, info.replication_factor, partitions)
