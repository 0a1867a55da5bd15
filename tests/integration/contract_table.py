"""What clients in the field speak, as data: the fixed part of the wire contract.

A method is (request, response, client streams, server streams). A field is (number, name, type);
`[]` after a type means repeated, `?` optional (presence is tracked).
"""

from __future__ import annotations

METHODS: dict[str, tuple[str, str, bool, bool]] = {
    "CreateTopic": ("CreateTopicRequest", "CreateTopicResponse", False, False),
    "DeleteTopic": ("DeleteTopicRequest", "DeleteTopicResponse", False, False),
    "ListTopics": ("ListTopicsRequest", "ListTopicsResponse", False, False),
    "GetTopic": ("GetTopicRequest", "GetTopicResponse", False, False),
    "DescribeTopics": ("DescribeTopicsRequest", "DescribeTopicsResponse", False, False),
    "ProduceMessage": ("ProduceMessageRequest", "ProduceMessageResponse", False, False),
    "ProduceMessageStream": ("ProduceMessageRequest", "ProduceMessageResponse", True, True),
    "ConsumeMessages": ("ConsumeMessagesRequest", "ConsumeMessagesResponse", False, True),
    "CommitOffset": ("CommitOffsetRequest", "CommitOffsetResponse", False, False),
    "ListConsumerGroups": ("ListConsumerGroupsRequest", "ListConsumerGroupsResponse", False, False),
    "DescribeConsumerGroup": ("DescribeConsumerGroupRequest", "DescribeConsumerGroupResponse", False, False),
    "DeleteConsumerGroup": ("DeleteConsumerGroupRequest", "DeleteConsumerGroupResponse", False, False),
    "GetPartitionOffsets": ("GetPartitionOffsetsRequest", "GetPartitionOffsetsResponse", False, False),
    "HealthCheck": ("HealthCheckRequest", "HealthCheckResponse", False, False),
}

_SUCCESS = [(1, "success", "bool"), (2, "error", "string")]
_NAME = [(1, "name", "string")]
_GROUP = [(1, "group_id", "string")]

MESSAGES: dict[str, list[tuple[int, str, str]]] = {
    "TopicPartitionOffset": [(1, "topic", "string"), (2, "partition", "int32"), (3, "offset", "int64")],
    "RecordHeader": [(1, "key", "string"), (2, "value", "bytes")],
    "Record": [
        (1, "key", "bytes?"),
        (2, "value", "bytes?"),
        (3, "headers", "RecordHeader[]"),
        (4, "timestamp", "int64"),
        (5, "offset", "int64"),
        (6, "partition", "int32"),
    ],
    "CreateTopicRequest": [
        (1, "name", "string"),
        (2, "num_partitions", "int32"),
        (3, "replication_factor", "int32"),
        (4, "configs", "map<string,string>"),
    ],
    "CreateTopicResponse": _SUCCESS,
    "DeleteTopicResponse": _SUCCESS,
    "CommitOffsetResponse": _SUCCESS,
    "DeleteConsumerGroupResponse": _SUCCESS,
    "DeleteTopicRequest": _NAME,
    "GetTopicRequest": _NAME,
    "ListTopicsRequest": [],
    "ListConsumerGroupsRequest": [],
    "HealthCheckRequest": [],
    "ListTopicsResponse": [(1, "topics", "string[]")],
    "TopicInfo": [
        (1, "name", "string"),
        (2, "num_partitions", "int32"),
        (3, "replication_factor", "int32"),
        (4, "partitions", "map<int32,PartitionInfo>"),
    ],
    "PartitionInfo": [
        (1, "partition_id", "int32"),
        (2, "beginning_offset", "int64"),
        (3, "end_offset", "int64"),
        (4, "leader", "int32"),
        (5, "replicas", "int32[]"),
        (6, "isr", "int32[]"),
    ],
    "GetTopicResponse": [(1, "topic", "TopicInfo"), (2, "error", "string")],
    "DescribeTopicsRequest": [(1, "topics", "string[]")],
    "DescribeTopicsResponse": [(1, "topics", "TopicInfo[]")],
    "ProduceMessageRequest": [
        (1, "topic", "string"),
        (2, "partition", "int32"),
        (3, "record", "Record"),
        (4, "required_acks", "int32?"),
        (5, "timeout_ms", "int32"),
    ],
    "ProduceMessageResponse": [
        (1, "topic", "string"),
        (2, "partition", "int32"),
        (3, "offset", "int64"),
        (4, "timestamp", "int64"),
        (5, "error", "string"),
    ],
    "ConsumeMessagesRequest": [
        (1, "topic", "string"),
        (2, "partition", "int32"),
        (3, "offset", "int64"),
        (4, "max_bytes", "int32"),
        (5, "min_bytes", "int32"),
        (6, "max_wait_ms", "int32"),
    ],
    "ConsumeMessagesResponse": [
        (1, "topic", "string"),
        (2, "partition", "int32"),
        (3, "high_watermark", "int64"),
        (4, "records", "Record[]"),
        (5, "error", "string"),
    ],
    "CommitOffsetRequest": [(1, "group_id", "string"), (2, "offsets", "TopicPartitionOffset[]")],
    "ConsumerGroupInfo": [
        (1, "group_id", "string"),
        (2, "state", "string"),
        (3, "protocol_type", "string"),
        (4, "member_count", "int32"),
    ],
    "ListConsumerGroupsResponse": [(1, "groups", "ConsumerGroupInfo[]")],
    "DescribeConsumerGroupRequest": _GROUP,
    "DeleteConsumerGroupRequest": _GROUP,
    "ConsumerGroupMember": [
        (1, "member_id", "string"),
        (2, "client_id", "string"),
        (3, "client_host", "string"),
        (4, "assignments", "TopicPartitionOffset[]"),
    ],
    "DescribeConsumerGroupResponse": [
        (1, "group_id", "string"),
        (2, "state", "string"),
        (3, "protocol_type", "string"),
        (4, "members", "ConsumerGroupMember[]"),
        (5, "error", "string"),
    ],
    "GetPartitionOffsetsRequest": [(1, "topic", "string"), (2, "partition", "int32")],
    "GetPartitionOffsetsResponse": [
        (1, "topic", "string"),
        (2, "partition", "int32"),
        (3, "beginning_offset", "int64"),
        (4, "end_offset", "int64"),
        (5, "error", "string"),
    ],
    "HealthCheckResponse": [(1, "status", "string"), (2, "version", "string"), (3, "uptime_seconds", "int64")],
}
