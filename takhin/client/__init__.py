"""The Python client.

::

    with Client("127.0.0.1:9092") as client:
        client.create_topic("events", partitions=3)
        with client.producer("events") as producer:
            producer.send(b"hello", key=b"user-1")
        for record in client.consume("events", 0, until_end=True):
            print(record.offset, record.value)

Everything that fails raises ``ClientError``.
"""

from __future__ import annotations

from .batch import ProducerOptions
from .client import Client
from .consumer import Consumer
from .errors import ClientError
from .models import (
    EARLIEST,
    LATEST,
    CommittedOffset,
    ConsumedRecord,
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
from .partitioner import murmur2, partition_for_key
from .producer import Producer

__all__ = [
    "EARLIEST",
    "LATEST",
    "Client",
    "ClientError",
    "CommittedOffset",
    "ConsumedRecord",
    "Consumer",
    "Delivery",
    "Group",
    "GroupMember",
    "GroupOffset",
    "Health",
    "OffsetAtTime",
    "Partition",
    "Produced",
    "Producer",
    "ProducerOptions",
    "ServerInfo",
    "Topic",
    "TopicConfig",
    "murmur2",
    "partition_for_key",
]
