"""The table of methods: which function, which messages, which pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from ..engine.base import Engine
from ..v1 import takhin_pb2 as pb
from . import health as health_module
from .calls import Arrivals, cold, late, parked, parked_bidi, unary
from .consume import Consumer
from .groups import Groups
from .health import Health
from .info import Info
from .offsets import Offsets
from .pools import CallPool, Pools
from .produce import Producer
from .produce_stream import ProduceStreams
from .producers import Producers
from .reflection import METHOD as REFLECTION_METHOD
from .reflection import SERVICES as REFLECTION_SERVICES
from .reflection import reflection_handler
from .router import Router
from .topics import Topics

SERVICE = "takhin.v1.TakhinService"

_Cold = Callable[[Any, grpc.ServicerContext], Message]


def add_takhin(
    router: Router,
    pools: Pools,
    arrivals: Arrivals,
    engine: Engine,
    info: Info,
    producer: Producer,
    produce_streams: ProduceStreams,
    consumer: Consumer,
) -> None:
    """Every method of ``takhin.v1.TakhinService``."""
    topics, groups, offsets, producers = Topics(engine), Groups(engine), Offsets(engine), Producers(engine)
    data, admin, health = pools.data, pools.admin, pools.health
    table: list[tuple[str, CallPool, type[Message], _Cold]] = [
        ("CreateTopic", admin, pb.CreateTopicRequest, topics.create),
        ("DeleteTopic", admin, pb.DeleteTopicRequest, topics.delete),
        ("ListTopics", admin, pb.ListTopicsRequest, topics.list),
        ("GetTopic", admin, pb.GetTopicRequest, topics.get),
        ("DescribeTopics", admin, pb.DescribeTopicsRequest, topics.describe),
        ("CreatePartitions", admin, pb.CreatePartitionsRequest, topics.create_partitions),
        ("AlterTopicConfigs", admin, pb.AlterTopicConfigsRequest, topics.alter_configs),
        ("DescribeTopicConfigs", admin, pb.DescribeTopicConfigsRequest, topics.describe_configs),
        ("DeleteRecords", admin, pb.DeleteRecordsRequest, topics.delete_records),
        ("ListConsumerGroups", admin, pb.ListConsumerGroupsRequest, groups.list),
        ("DescribeConsumerGroup", admin, pb.DescribeConsumerGroupRequest, groups.describe),
        ("DeleteConsumerGroup", admin, pb.DeleteConsumerGroupRequest, groups.delete),
        ("CommitOffset", data, pb.CommitOffsetRequest, offsets.commit),
        ("FetchCommittedOffsets", data, pb.FetchCommittedOffsetsRequest, offsets.committed),
        ("GetPartitionOffsets", data, pb.GetPartitionOffsetsRequest, offsets.of_partition),
        ("ListOffsets", data, pb.ListOffsetsRequest, offsets.by_time),
        ("InitProducerId", data, pb.InitProducerIdRequest, producers.init),
        ("HealthCheck", health, pb.HealthCheckRequest, info.health_check),
        ("GetServerInfo", health, pb.GetServerInfoRequest, info.server_info),
    ]
    for name, pool, request_type, method in table:
        router.add(SERVICE, name, "unary", unary(cold(request_type, method), name, arrivals), pool)
    for name, hot in (("ProduceMessage", producer.produce_message), ("ProduceBatch", producer.produce_batch)):
        router.add(SERVICE, name, "unary", late(hot, name, arrivals, short=True), data)
    for name, bidi in (
        ("ProduceMessageStream", produce_streams.produce_message_stream),
        ("ProduceBatchStream", produce_streams.produce_batch_stream),
    ):
        router.add(SERVICE, name, "bidi_stream", parked_bidi(bidi, name), pools.streams)
    consume = parked(consumer.consume_messages, "ConsumeMessages", arrivals)
    router.add(SERVICE, "ConsumeMessages", "server_stream", consume, data)


def add_health(router: Router, pools: Pools, arrivals: Arrivals, health: Health) -> None:
    pool = pools.health
    service = health_module.SERVICE
    router.add(service, "Check", "unary", unary(health.check, "Check", arrivals), pool)
    router.add(service, "List", "unary", unary(health.list, "List", arrivals), pool)
    router.add(service, "Watch", "server_stream", parked(health.watch, "Watch", arrivals), pool)


def add_reflection(router: Router, pools: Pools) -> None:
    handler = reflection_handler((SERVICE, health_module.SERVICE), pools.reflection)
    for service in REFLECTION_SERVICES:
        router.add_handler(service, REFLECTION_METHOD, "bidi_stream", handler, pools.reflection)
