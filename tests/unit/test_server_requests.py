"""What is checked in requests, channel options, bytes in flight, and late requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from takhin import errors
from takhin.config import GrpcConfig
from takhin.server.calls import Arrivals
from takhin.server.consume import host_of
from takhin.server.consume_plan import DEFAULT_MAX_BYTES, plan_of
from takhin.server.inflight import InFlight
from takhin.server.names import is_topic_name, names_in, refine
from takhin.server.options import OVERSIZE_ANSWERED, server_options
from takhin.server.pools import CallPool
from takhin.server.timers import Timers
from takhin.v1 import takhin_pb2 as pb


def plan(**fields: Any) -> Any:
    names = ("topic", "partition", "offset", "max_bytes", "min_bytes", "max_wait_ms", "until_end")
    more = ("start_timestamp", "group_id", "max_records", "heartbeat_ms")
    zeros = dict.fromkeys((*names, *more), 0)
    return plan_of(SimpleNamespace(**{**zeros, "topic": "t", "group_id": "", **fields}), 10_000_000)  # type: ignore[arg-type]


def test_absent_fields_have_their_defaults() -> None:
    found = plan()
    assert (found.max_bytes, found.min_bytes, found.start_timestamp) == (DEFAULT_MAX_BYTES, 0, None)


def test_sizes_are_bounded_by_the_largest_message() -> None:
    found = plan(max_bytes=2**31 - 1, min_bytes=2**31 - 1)
    assert (found.max_bytes, found.min_bytes) == (10_000_000, 10_000_000)
    assert plan(max_bytes=100, min_bytes=200).min_bytes == 100


def test_times_become_seconds() -> None:
    found = plan(max_wait_ms=1500, heartbeat_ms=20)
    assert (found.max_wait_seconds, found.heartbeat_seconds) == (1.5, 0.02)


def test_every_option_of_the_configuration_reaches_the_server() -> None:
    config = GrpcConfig(
        max_message_size=11_111_111,
        keepalive_interval=11,
        keepalive_timeout=12,
        min_ping_interval=13,
        max_connection_idle=14,
        max_connection_age=15,
        max_connection_age_grace=16,
        max_concurrent_streams=17,
        max_connections=18,
        max_metadata_size=19_000,
        handshake_timeout=20,
        max_pending_requests=21,
    )
    options = dict(server_options(config))
    assert options["grpc.so_reuseport"] == 0
    # A message a little too large is taken in, to be refused with details.
    assert options["grpc.max_receive_message_length"] == 11_111_111 + OVERSIZE_ANSWERED
    assert options["grpc.keepalive_time_ms"] == 11_000
    assert options["grpc.keepalive_timeout_ms"] == 12_000
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 13_000
    assert options["grpc.max_connection_idle_ms"] == 14_000
    assert options["grpc.max_connection_age_ms"] == 15_000
    assert options["grpc.max_connection_age_grace_ms"] == 16_000
    assert options["grpc.max_concurrent_streams"] == 17
    assert options["grpc.max_allowed_incoming_connections"] == 18
    assert options["grpc.max_metadata_size"] == options["grpc.absolute_max_metadata_size"] == 19_000
    assert options["grpc.server_handshake_timeout_ms"] == 20_000
    assert options["grpc.server.max_pending_requests"] == 21


def test_zero_turns_a_time_limit_off() -> None:
    never = GrpcConfig(keepalive_interval=0, max_connection_idle=0, max_connection_age=0, max_connection_age_grace=0)
    options = dict(server_options(never))
    for name in (
        "keepalive_time_ms",
        "max_connection_idle_ms",
        "max_connection_age_ms",
        "max_connection_age_grace_ms",
    ):
        assert options[f"grpc.{name}"] == 2**31 - 1


def test_bytes_in_flight_are_bounded_and_given_back() -> None:
    account = InFlight(100)
    account.take(60)
    with pytest.raises(errors.TooManyBytesInFlight):
        account.take(41)
    account.take(40)
    account.give(60)
    account.give(40)
    assert account.used_bytes == 0


def test_whoever_waits_for_room_gets_it() -> None:
    account = InFlight(100)
    account.take(100)
    taken = threading.Event()
    thread = threading.Thread(target=lambda: (account.take(50, wait_seconds=5), taken.set()))
    thread.start()
    assert not taken.wait(0.05)
    account.give(60)
    assert taken.wait(5)
    thread.join()
    assert account.used_bytes == 90


def test_a_wait_for_room_ends() -> None:
    account = InFlight(100)
    account.take(100)
    begun = time.monotonic()
    with pytest.raises(errors.TooManyBytesInFlight):
        account.take(1, wait_seconds=0.05)
    assert time.monotonic() - begun < 2


def test_whoever_wants_to_know_of_room_is_told_in_turn() -> None:
    account = InFlight(100)
    account.take(100)
    told: list[int] = []
    for n in range(6):
        account.when_room(lambda n=n: told.append(n))
    assert not account.has_room(1)
    assert told == []
    account.give(10)
    assert account.has_room(10)
    assert told == [0, 1, 2, 3]
    account.give(10)
    account.give(10)
    assert told == [0, 1, 2, 3, 4, 5]


def test_a_missing_topic_with_a_name_that_cannot_be_is_a_bad_argument() -> None:
    missing = errors.TopicNotFound("no")
    assert isinstance(refine(missing, [("topic", "a/b")]), errors.InvalidTopicName)
    assert refine(missing, [("topic", "fine")]) is missing
    other = errors.PartitionNotFound("no")
    assert refine(other, [("topic", "a/b")]) is other


def test_topic_names_are_kafkas() -> None:
    assert all(is_topic_name(name) for name in ("a", "A.b_c-9", "x" * 249, "..."))
    assert not any(is_topic_name(name) for name in ("", ".", "..", "x" * 250, "a b", "\u00e4", "a\n", "a/b"))


def test_the_names_in_a_request_are_found_with_their_fields() -> None:
    place = pb.TopicPartitionOffset(topic="p")
    assert list(names_in(pb.GetTopicRequest(name="n"))) == [("name", "n")]
    assert list(names_in(pb.CommitOffsetRequest(offsets=[place]))) == [("offsets.topic", "p")]
    assert list(names_in(pb.DescribeTopicsRequest(topics=["a", "b"]))) == [("topics", "a"), ("topics", "b")]
    query = pb.ListOffsetsRequest.Query(topic="q")
    assert list(names_in(pb.ListOffsetsRequest(queries=[query]))) == [("queries.topic", "q")]


@pytest.mark.parametrize(
    ("peer", "host"),
    [("ipv4:127.0.0.1:5000", "127.0.0.1"), ("ipv6:%5B::1%5D:5000", "::1"), ("ipv6:[::1]:5", "::1"), ("unix:", "unix:")],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_a_pool_counts_what_it_holds() -> None:
    pool = CallPool("test", 1, 2)
    hold = threading.Event()
    futures = [pool.submit(hold.wait, 10) for _ in range(2)]
    assert (pool.load, pool.is_full) == (2, True)
    hold.set()
    for future in futures:
        future.result(5)
    pool.shutdown()
    assert (pool.load, pool.is_full) == (0, False)


class FakeContext:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class FakeCall:
    """Has its message at once, or ends as gRPC's does when the call is cancelled."""

    def __init__(self, message: bytes | None = None) -> None:
        self.context = FakeContext()
        self.message = message

    def receive(self, deliver: Callable[[bytes | None], None]) -> None:
        if self.message is None:
            assert self.context.cancelled.wait(5)
        deliver(self.message)

    def spawn(self, work: Callable[[], None]) -> None:
        work()


def test_a_request_in_time_is_given_and_a_late_one_is_cancelled() -> None:
    timers = Timers()
    timers.start()
    arrivals = Arrivals(timers, 1000, 0.1)
    given: list[tuple[Any, bytes | None]] = []

    def receive(call: FakeCall) -> FakeCall:
        arrivals.receive(call, lambda call, data: given.append((call, data)))  # type: ignore[arg-type]
        return call

    in_time = receive(FakeCall(b"data"))
    begun = time.monotonic()
    late = receive(FakeCall())
    assert 0.1 <= time.monotonic() - begun < 3
    assert not in_time.context.cancelled.is_set()
    # One timer serves all of them, again and again.
    another = receive(FakeCall())
    assert given == [(in_time, b"data"), (late, None), (another, None)]
    timers.stop()


def test_a_request_that_is_too_large_or_missing_is_an_error() -> None:
    arrivals = Arrivals(Timers(), 4)
    assert arrivals.checked(b"1234") == b"1234"
    with pytest.raises(errors.MessageTooLarge):
        arrivals.checked(b"12345")
    with pytest.raises(errors.Unimplemented):
        arrivals.checked(None)
