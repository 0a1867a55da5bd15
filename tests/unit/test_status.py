"""Every error of the taxonomy as a gRPC status with its details."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from takhin import errors
from takhin.server import status


def taxonomy(base: type[errors.TakhinError] = errors.TakhinError) -> Iterator[type[errors.TakhinError]]:
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from taxonomy(cls)


ALL = sorted(set(taxonomy()), key=lambda cls: cls.__name__)


class Sink:
    """Takes what a call's context takes."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailers: dict[str, Any] = {}

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailers = dict(trailing_metadata)


def details_of(proto: status_pb2.Status) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for packed in proto.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.QuotaFailure,
            error_details_pb2.RetryInfo,
        ):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind.DESCRIPTOR.name] = message
    return found


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_has_its_code_reason_and_details(cls: type[errors.TakhinError]) -> None:
    error = cls("what went wrong", bad_field="some_field", topic="t", partition=3)
    sink = Sink()
    status.fill(sink, error)
    assert sink.code is grpc.StatusCode[cls.code]
    assert sink.details == "what went wrong"
    proto = status_pb2.Status.FromString(sink.trailers["grpc-status-details-bin"])
    assert (proto.code, proto.message) == (sink.code.value[0], "what went wrong")
    details = details_of(proto)
    info = details["ErrorInfo"]
    assert (info.domain, info.reason, dict(info.metadata)) == ("takhin", cls.reason, {"topic": "t", "partition": "3"})
    assert details["BadRequest"].field_violations[0].field == "some_field"
    assert ("RetryInfo" in details) == cls.retriable
    if cls.retriable:
        assert details["RetryInfo"].retry_delay.ToMilliseconds() == cls.retry_delay_ms


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_reason_is_upper_snake_case(cls: type[errors.TakhinError]) -> None:
    assert cls.reason.replace("_", "").isalnum()
    assert cls.reason == cls.reason.upper()


def test_a_bound_that_is_reached_has_a_quota_failure() -> None:
    assert "QuotaFailure" in details_of(status.to_proto(errors.TooManyStreams("full", limit=3)))


def test_a_record_that_is_too_large_has_none() -> None:
    assert "QuotaFailure" not in details_of(status.to_proto(errors.RecordTooLarge("too large")))


def test_an_error_without_a_bad_field_has_no_bad_request() -> None:
    assert "BadRequest" not in details_of(status.to_proto(errors.TopicNotFound("gone")))


def test_an_unexpected_exception_leaks_nothing_but_an_id_that_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        error = status.known(ValueError("secret /etc/path"), method="CreateTopic")
    proto = status.to_proto(error)
    assert proto.code == grpc.StatusCode.INTERNAL.value[0]
    assert b"secret" not in proto.SerializeToString()
    incident = details_of(proto)["ErrorInfo"].metadata["incident"]
    assert incident
    assert incident in proto.message
    [record] = caplog.records
    assert record.fields["incident"] == incident
    assert record.exc_info
    assert "secret" in str(record.exc_info[1])


def test_an_internal_error_raised_on_purpose_leaks_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    error = status.known(errors.Internal("secret state"))
    assert "secret" not in error.message
    assert "incident" in error.fields
    assert status.known(error) is error
    assert len(caplog.records) == 1


def test_a_known_error_is_passed_on_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = errors.DiskFull("no room")
    assert status.known(error) is error
    assert not caplog.records


def test_what_a_status_repeats_of_a_request_is_bounded() -> None:
    name = "\u00e4\n" * 100_000
    error = errors.TopicNotFound(f"no topic {name}", bad_field="topic", **{f"field{n}": name for n in range(50)})
    sink = Sink()
    status.fill(sink, error)
    # Percent-encoded, a byte takes three.
    assert len(sink.details.encode()) * 3 + len(sink.trailers["grpc-status-details-bin"]) * 4 / 3 < 8192
    assert "\n" not in sink.details
