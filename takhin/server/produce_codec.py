"""The two produce messages, one record and many, behind one face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import _wire
from .._wire import ProduceRequest
from ..engine.base import ACKS_DURABLE, ACKS_NONE, ACKS_WRITTEN, Appended, ProducerStamp
from ..errors import InvalidArgument, InvalidRequiredAcks, TakhinError
from . import status

#: (topic, correlation id, outcome) to response bytes.
EncodeAnswer = Callable[[str, int, Appended], bytes]
#: (topic, partition, correlation id, error) to response bytes, for streams.
EncodeFailure = Callable[[str, int, int, TakhinError], bytes]

_ALL_ACKS = (ACKS_DURABLE, ACKS_NONE, ACKS_WRITTEN)
#: Kafka's bounds: an epoch is an int16, a sequence an int32.
MAX_EPOCH = 2**15 - 1


@dataclass(frozen=True, slots=True)
class ProduceCodec:
    decode: Callable[[bytes], ProduceRequest]
    encode: EncodeAnswer
    encode_failure: EncodeFailure


def _encode_message(topic: str, _correlation_id: int, at: Appended) -> bytes:
    return _wire.encode_produce_message_response(topic, at.partition, at.base_offset, at.timestamp)


def _encode_message_failure(topic: str, partition: int, _correlation_id: int, error: TakhinError) -> bytes:
    return _wire.encode_produce_message_response(
        status.clipped(topic, status.MAX_FIELD), partition, -1, 0, status.message_of(error), status.number(error)
    )


def _encode_batch(topic: str, correlation_id: int, at: Appended) -> bytes:
    return _wire.encode_produce_batch_response(
        topic, at.partition, at.base_offset, at.last_offset, at.timestamp, correlation_id, at.high_watermark
    )


def _encode_batch_failure(topic: str, partition: int, correlation_id: int, error: TakhinError) -> bytes:
    return _wire.encode_produce_batch_response(
        status.clipped(topic, status.MAX_FIELD),
        partition,
        -1,
        -1,
        0,
        correlation_id,
        0,
        status.message_of(error),
        status.number(error),
    )


MESSAGE = ProduceCodec(_wire.decode_produce_message, _encode_message, _encode_message_failure)
BATCH = ProduceCodec(_wire.decode_produce_batch, _encode_batch, _encode_batch_failure)


def acks_of(request: ProduceRequest, default_acks: int) -> int:
    """Raises ``InvalidRequiredAcks``."""
    acks = request.required_acks
    if acks is None:
        return default_acks
    if acks not in _ALL_ACKS:
        raise InvalidRequiredAcks(
            f"required_acks is {acks}: must be -1 (on stable storage), 1 (written) or 0 (accepted)",
            bad_field="required_acks",
            required_acks=acks,
        )
    return acks


def timeout_of(request: ProduceRequest) -> float | None:
    """Seconds; None when the request sets no bound. Raises ``InvalidArgument``."""
    if request.timeout_ms < 0:
        raise InvalidArgument(f"timeout_ms is {request.timeout_ms}: must not be negative", bad_field="timeout_ms")
    return request.timeout_ms / 1000 if request.timeout_ms else None


def producer_of(request: ProduceRequest) -> ProducerStamp | None:
    """Who sent it; None without idempotence. Raises ``InvalidArgument``."""
    producer_id, epoch, sequence = request.producer_id, request.producer_epoch, request.sequence
    if producer_id == 0 and epoch == 0 and sequence == 0:
        return None
    if producer_id <= 0:
        raise InvalidArgument(
            f"producer_id is {producer_id}: an epoch or a sequence needs a producer id from InitProducerId",
            bad_field="producer_id",
        )
    if not 0 <= epoch <= MAX_EPOCH:
        raise InvalidArgument(f"producer_epoch is {epoch}: must be 0 to {MAX_EPOCH}", bad_field="producer_epoch")
    if sequence < 0:
        raise InvalidArgument(f"sequence is {sequence}: must not be negative", bad_field="sequence")
    return ProducerStamp(producer_id, epoch, sequence)
