"""The server's metrics, and the wrapper that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from takhin.observe.metrics import GrpcMetrics, build_registry, camel, gauge
from takhin.server.call import PublicCall
from takhin.server.instrument import instrument

LABELS = {"grpc_type": "unary", "grpc_service": "s", "grpc_method": "m"}


class FakeContext:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self._code: grpc.StatusCode | None = None
        self.active = True
        self.sent: list[bytes | None] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return True

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def is_active(self) -> bool:
        return self.active


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def wrap(registry: CollectorRegistry) -> Callable[[Any], Any]:
    metrics = GrpcMetrics(registry).method("unary", "s", "m")
    return lambda handler: instrument(handler, metrics)


def counts(registry: CollectorRegistry) -> dict[str, float]:
    get = registry.get_sample_value
    found = {
        "started": get("grpc_server_started_total", LABELS),
        "received": get("grpc_server_msg_received_total", LABELS),
        "sent": get("grpc_server_msg_sent_total", LABELS),
        "timed": get("grpc_server_handling_seconds_count", LABELS),
    }
    for code in grpc.StatusCode:
        found[camel(code)] = get("grpc_server_handled_total", {**LABELS, "grpc_code": camel(code)})
    return {name: value for name, value in found.items() if value}


def test_the_codes_are_spelled_as_dashboards_expect() -> None:
    assert camel(grpc.StatusCode.OK) == "OK"
    assert camel(grpc.StatusCode.OUT_OF_RANGE) == "OutOfRange"
    assert camel(grpc.StatusCode.CANCELLED) == "Canceled"


def test_an_answered_call_is_counted(registry: CollectorRegistry, wrap: Callable[[Any], Any]) -> None:
    handler = wrap(grpc.stream_unary_rpc_method_handler(lambda requests, context: next(requests)))
    assert handler.stream_unary(iter([b"answer"]), FakeContext()) == b"answer"
    assert counts(registry) == {"started": 1, "received": 1, "sent": 1, "timed": 1, "OK": 1}


def test_a_call_that_is_aborted_is_counted_with_its_code(
    registry: CollectorRegistry, wrap: Callable[[Any], Any]
) -> None:
    def behaviour(requests: Iterator[bytes], context: FakeContext) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        raise RuntimeError

    handler = wrap(grpc.stream_unary_rpc_method_handler(behaviour))
    with pytest.raises(RuntimeError):
        handler.stream_unary(iter([b""]), FakeContext())
    assert counts(registry) == {"started": 1, "timed": 1, "NotFound": 1}


def test_a_call_whose_client_went_away_is_counted_as_cancelled(
    registry: CollectorRegistry, wrap: Callable[[Any], Any]
) -> None:
    def behaviour(requests: Iterator[bytes], context: FakeContext) -> bytes:
        context.active = False
        raise grpc.RpcError

    handler = wrap(grpc.stream_unary_rpc_method_handler(behaviour))
    with pytest.raises(grpc.RpcError):
        handler.stream_unary(iter([b""]), FakeContext())
    assert counts(registry) == {"started": 1, "timed": 1, "Canceled": 1}


def test_the_messages_of_a_blocking_stream_are_counted(registry: CollectorRegistry, wrap: Callable[[Any], Any]) -> None:
    handler = wrap(grpc.stream_stream_rpc_method_handler(lambda requests, context: (r * 2 for r in requests)))
    assert list(handler.stream_stream(iter([b"a", b"b"]), FakeContext())) == [b"aa", b"bb"]
    assert counts(registry) == {"started": 1, "received": 2, "sent": 2, "timed": 1, "OK": 1}


def test_the_wrapper_carries_over_the_pool_of_the_handler(wrap: Callable[[Any], Any]) -> None:
    def behaviour(requests: Any, context: Any) -> None:
        pass

    pool = object()
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    assert wrap(grpc.stream_stream_rpc_method_handler(behaviour)).stream_stream.experimental_thread_pool is pool
    assert wrap(grpc.stream_unary_rpc_method_handler(behaviour)).stream_unary.experimental_thread_pool is pool


@pytest.fixture
def call(registry: CollectorRegistry) -> PublicCall:
    """A call with two requests; what it sends is in ``sent`` of its context."""
    context = FakeContext()
    metrics = GrpcMetrics(registry).method("unary", "s", "m")
    return PublicCall(iter([b"a", b"b"]), context, context.sent.append, metrics)  # type: ignore[arg-type]


def test_a_call_is_counted_until_its_end_and_ends_once(registry: CollectorRegistry, call: PublicCall) -> None:
    context: Any = call.context
    call.count_cancelled()
    assert counts(registry) == {"started": 1}
    assert [*call.take(), *call.take(), *call.take()] == [b"a", b"b"]
    taken: list[int] = []
    call.send(b"c", lambda: taken.append(1))
    call.send_all([b"d", b"e"])
    assert counts(registry) == {"started": 1, "received": 2, "sent": 3}
    context.set_code(grpc.StatusCode.DATA_LOSS)
    call.send(None)
    for callback in context.callbacks:
        callback()
    assert (context.sent, taken) == ([b"c", b"d", b"e", None], [1])
    assert counts(registry) == {"started": 1, "received": 2, "sent": 3, "timed": 1, "DataLoss": 1}


def test_a_call_with_one_answer_is_counted(registry: CollectorRegistry, call: PublicCall) -> None:
    given: list[bytes | None] = []
    call.receive(given.append)
    call.answer(b"c")
    assert (given, call.context.sent) == ([b"a"], [b"c", None])  # type: ignore[attr-defined]
    assert counts(registry) == {"started": 1, "received": 1, "sent": 1, "timed": 1, "OK": 1}


@pytest.mark.parametrize("seen", ["by grpc", "by the method"])
def test_a_call_that_is_cancelled_is_counted(registry: CollectorRegistry, call: PublicCall, seen: str) -> None:
    if seen == "by grpc":
        call.count_cancelled()
        for callback in call.context.callbacks:  # type: ignore[attr-defined]
            callback()
    else:
        call.abandon()
    assert counts(registry) == {"started": 1, "timed": 1, "Canceled": 1}


def test_the_registry_knows_the_process_and_what_is_running() -> None:
    registry = build_registry("1.2.3", "local")
    value = 1.0
    gauge(registry, "takhin_test", "A test.", lambda: value)
    text = generate_latest(registry).decode()
    assert 'takhin_build_info{engine="local",version="1.2.3"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "takhin_test 1.0" in text
