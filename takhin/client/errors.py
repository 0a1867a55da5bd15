"""The one exception of the client: a gRPC status with what its details say."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

#: Status codes whose call may succeed later without a change, when the server says no more.
_RETRIABLE = frozenset({"UNAVAILABLE"})

#: What a broken transport looks like where gRPC does not call it UNAVAILABLE.
_TRANSPORT_FAILURES = ("Received RST_STREAM", "Stream removed", "Socket closed", "Connection reset")

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class ClientError(Exception):
    """A call that failed.

    ``code`` is the name of the gRPC status code, ``reason`` the ErrorInfo reason (empty when the
    failure did not come from the server's own code, such as a refused connection), ``metadata``
    the facts beside it, ``retriable`` says that the same call may succeed later, and
    ``retry_delay`` how long to wait before (seconds; 0: unsaid).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retriable: bool | None = None,
        retry_delay: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retriable = code in _RETRIABLE if retriable is None else retriable
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        return f"{self.message} ({self.label})"

    @property
    def label(self) -> str:
        """``CODE/REASON``, or ``CODE`` when there is no reason."""
        return f"{self.code}/{self.reason}" if self.reason else self.code

    @property
    def transport_broken(self) -> bool:
        """True when the connection ended rather than the call: another one may go on with it."""
        if self.code == "UNAVAILABLE":
            return True
        return not self.reason and any(text in self.message for text in _TRANSPORT_FAILURES)


def code_name(number: int) -> str:
    """The name of a gRPC status code's number; ``UNKNOWN`` for one that gRPC does not have."""
    return _CODES.get(number, "UNKNOWN")


def from_rpc_error(error: grpc.RpcError) -> ClientError:
    """Turn what grpc raises into a ``ClientError``, with the ErrorInfo and RetryInfo of its details."""
    if not isinstance(error, grpc.Call):
        return ClientError(str(error) or type(error).__name__)
    code = error.code()
    name = code.name if code is not None else "UNKNOWN"
    message = error.details() or name
    reason = ""
    metadata: dict[str, str] = {}
    retriable = name in _RETRIABLE
    retry_delay = 0.0
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: believe the status
        status = None
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retriable = True
            retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return ClientError(
        message, code=name, reason=reason, metadata=metadata, retriable=retriable, retry_delay=retry_delay
    )
