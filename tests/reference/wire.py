"""What a request says, as plain values: once as google.protobuf reads it, once as ``_wire`` does.

``None`` stands for bytes that are refused.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from takhin import _wire
from takhin.errors import MalformedMessage
from takhin.v1 import takhin_pb2 as pb

#: A record: key, value, headers, timestamp.
Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]

PRODUCE_FIELDS = ("topic", "partition", "timeout_ms", "producer_id", "producer_epoch")
CONSUME_FIELDS = (
    "topic",
    "partition",
    "offset",
    "max_bytes",
    "min_bytes",
    "max_wait_ms",
    "until_end",
    "start_timestamp",
    "group_id",
    "max_records",
    "heartbeat_ms",
)


def present(message: Any, field: str) -> Any:
    """An ``optional`` field: None when it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def record_of(message: pb.Record) -> Record:
    headers = [(header.key, header.value) for header in message.headers]
    return present(message, "key"), present(message, "value"), headers, message.timestamp


def google_produce_message(data: bytes) -> dict[str, Any] | None:
    try:
        message = pb.ProduceMessageRequest.FromString(data)
    except DecodeError:
        return None
    return {
        **{field: getattr(message, field) for field in PRODUCE_FIELDS},
        "required_acks": present(message, "required_acks"),
        "sequence": message.sequence,
        "correlation_id": 0,
        "records": [record_of(message.record)],
    }


def google_produce_batch(data: bytes) -> dict[str, Any] | None:
    try:
        message = pb.ProduceBatchRequest.FromString(data)
    except DecodeError:
        return None
    return {
        **{field: getattr(message, field) for field in PRODUCE_FIELDS},
        "required_acks": present(message, "required_acks"),
        "sequence": message.base_sequence,
        "correlation_id": message.correlation_id,
        "records": [record_of(record) for record in message.records],
    }


def google_consume(data: bytes) -> dict[str, Any] | None:
    try:
        message = pb.ConsumeMessagesRequest.FromString(data)
    except DecodeError:
        return None
    return {field: getattr(message, field) for field in CONSUME_FIELDS}


def fields_of(request: _wire.ProduceRequest) -> dict[str, Any]:
    return {
        **{field: getattr(request, field) for field in PRODUCE_FIELDS},
        "required_acks": request.required_acks,
        "sequence": request.sequence,
        "correlation_id": request.correlation_id,
        "records": request.copy_records(),
    }


def takhin_produce_message(data: bytes) -> dict[str, Any] | None:
    try:
        return fields_of(_wire.decode_produce_message(data))
    except MalformedMessage:
        return None


def takhin_produce_batch(data: bytes) -> dict[str, Any] | None:
    try:
        return fields_of(_wire.decode_produce_batch(data))
    except MalformedMessage:
        return None


def takhin_consume(data: bytes) -> dict[str, Any] | None:
    try:
        request = _wire.decode_consume(data)
    except MalformedMessage:
        return None
    return {field: getattr(request, field) for field in CONSUME_FIELDS}


#: Each request: its class, how google.protobuf reads it, how ``_wire`` does.
REQUESTS = {
    "ProduceMessageRequest": (pb.ProduceMessageRequest, google_produce_message, takhin_produce_message),
    "ProduceBatchRequest": (pb.ProduceBatchRequest, google_produce_batch, takhin_produce_batch),
    "ConsumeMessagesRequest": (pb.ConsumeMessagesRequest, google_consume, takhin_consume),
}
