"""Errors to gRPC statuses: one way for all of them.

A status carries ``google.rpc.Status`` details (https://google.aip.dev/193): an ErrorInfo always,
a BadRequest where a request field is at fault, a QuotaFailure where a bound is reached, a
RetryInfo where waiting helps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from .. import errors
from ..observe.logging import incident

log = logging.getLogger(__name__)

#: ErrorInfo.domain.
DOMAIN = "takhin"
DETAILS_KEY = "grpc-status-details-bin"

#: Bounds on what a status repeats of a request, bytes of UTF-8. The trailers must fit in 8 KiB (a
#: client's default), with the message in them up to four times, once percent-encoded.
MAX_MESSAGE = 600
MAX_FIELD = 150
MAX_FIELDS = 8

#: The table: ``TakhinError.code`` to gRPC.
CODES: Mapping[str, grpc.StatusCode] = {code.name: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}

#: Errors that are about a bound, which a QuotaFailure names. A record that is too large is
#: not: no waiting and no larger quota makes it fit.
QUOTAS: tuple[type[errors.TakhinError], ...] = (
    errors.TooManyBytesInFlight,
    errors.TooManyStreams,
    errors.TooManyCalls,
    errors.LimitReached,
    errors.DiskFull,
    errors.DescriptorsExhausted,
)


class StatusSink(Protocol):
    """The part of a call's context that takes a status."""

    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: tuple[tuple[str, str | bytes], ...]) -> None: ...


def known(exc: BaseException, **fields: object) -> errors.TakhinError:
    """``exc`` as something that a caller may see. What is not a ``TakhinError`` is a defect: it is
    logged with its trace under an id, and the id is all that the caller is told."""
    if isinstance(exc, errors.TakhinError) and type(exc) is not errors.TakhinError:
        if not isinstance(exc, errors.Internal):
            return exc
        if "incident" in exc.fields:
            return exc
    incident_id = incident(log, exc, **fields)
    return errors.Internal(f"internal error, incident {incident_id}", incident=incident_id)


def grpc_code(error: errors.TakhinError) -> grpc.StatusCode:
    return CODES[error.code]


def number(error: errors.TakhinError) -> int:
    """The numeric gRPC code, for ``error_code`` in the answers of streams."""
    return int(CODES[error.code].value[0])


def message_of(error: errors.TakhinError) -> str:
    return clipped(error.message, MAX_MESSAGE)


def to_proto(error: errors.TakhinError) -> status_pb2.Status:
    """The ``google.rpc.Status`` of an error."""
    message = message_of(error)
    status = status_pb2.Status(code=number(error), message=message)
    metadata = {name: clipped(value, MAX_FIELD) for name, value in list(error.fields.items())[:MAX_FIELDS]}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata),
    ]
    if error.bad_field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.bad_field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, QUOTAS):
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.reason.lower(), description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if error.retriable:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_delay_ms)
        details.append(retry)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def fill(context: StatusSink, error: errors.TakhinError) -> None:
    """Make the call end with the error once it ends."""
    context.set_trailing_metadata(((DETAILS_KEY, to_proto(error).SerializeToString()),))
    context.set_code(CODES[error.code])
    context.set_details(message_of(error))


def clipped(text: str, limit: int) -> str:
    """``text``, at most ``limit`` bytes of it in UTF-8, without what would break a line or a terminal."""
    if not text.isprintable():
        text = "".join(ch if ch.isprintable() else "?" for ch in text[: limit + 1])
    if len(text) > limit or len(text.encode()) > limit:
        text = text[:limit].encode()[: limit - 3].decode(errors="ignore") + "…"
    return text
