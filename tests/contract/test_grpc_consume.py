"""Over gRPC: ConsumeMessages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc
import pytest

from takhin import errors
from takhin._fastlog import Batches
from takhin.config import Config, GrpcConfig, MemoryConfig
from takhin.engine import base
from takhin.server.consume import ConsumeStream
from takhin.server.senders import Senders
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc

from .harness import MakeServer, Server, cancelled_at_end, failure, offsets, records_of, wait_until


@pytest.fixture
def filled(server: Server) -> Server:
    """Topic ``t`` with ten batches of one record, and one of five: offsets 0 to 14."""
    server.topic("t")
    for n in range(10):
        server.produce("t", b"%d" % n)
    server.produce("t", *[b"%d" % n for n in range(10, 15)])
    return server


def open_streams(server: Server) -> int:
    return len(server.grpc._consumer.streams)


@pytest.mark.parametrize(("offset", "first"), [(-1, 0), (0, 0), (7, 7), (12, 12), (14, 14)])
def test_a_consumer_begins_at_its_offset_and_gets_every_record_once(filled: Server, offset: int, first: int) -> None:
    stream = filled.consume("t", offset)
    with cancelled_at_end(stream):
        records = records_of(stream, 15 - first)
    assert offsets(records) == list(range(first, 15))
    assert [record.value for record in records] == [b"%d" % n for n in range(first, 15)]
    assert {record.partition for record in records} == {0}


@pytest.mark.parametrize("offset", [-2, 15])
def test_a_consumer_at_the_end_gets_what_comes(filled: Server, offset: int) -> None:
    stream = filled.consume("t", offset)
    with cancelled_at_end(stream):
        # Sent when the place is fixed.
        stream.initial_metadata()
        filled.produce("t", b"new")
        [record] = next(stream).records
        assert (record.offset, record.value) == (15, b"new")


def test_a_tailing_consumer_gets_records_as_they_come(server: Server) -> None:
    server.topic("t")
    stream = server.consume("t")
    with cancelled_at_end(stream):
        for n in range(20):
            server.produce("t", b"%d" % n)
            response = next(stream)
            assert offsets(response.records) == [n]
            assert response.high_watermark == n + 1


def test_until_end_ends_at_the_high_watermark_of_the_beginning(filled: Server) -> None:
    assert filled.values("t") == [b"%d" % n for n in range(15)]
    assert filled.values("t", offset=13) == [b"13", b"14"]
    assert filled.values("t", offset=15) == []
    assert filled.values("t", offset=-2) == []
    stream = filled.consume("t", 12, until_end=True, max_bytes=1)
    assert [len(response.records) for response in stream] == [1, 1, 1]
    assert stream.code() is grpc.StatusCode.OK


def test_until_end_does_not_give_what_came_later(make_server: MakeServer) -> None:
    server = make_server()
    server.topic("t")
    for _ in range(16):
        server.produce("t", b"x" * 1_000_000)
    channel = server.connect(narrow=True)
    request = pb.ConsumeMessagesRequest(topic="t", until_end=True)
    stream = takhin_pb2_grpc.TakhinServiceStub(channel).ConsumeMessages(request)
    stream.initial_metadata()
    # The stream is held up; its last read gives more than it may send.
    server.produce("t", b"later")
    assert offsets([record for response in stream for record in response.records]) == list(range(16))
    channel.close()


@pytest.mark.parametrize("count", [1, 3, 12, 15])
def test_max_records_ends_the_stream(filled: Server, count: int) -> None:
    stream = filled.consume("t", max_records=count)
    assert offsets([r for response in stream for r in response.records]) == list(range(count))
    assert stream.code() is grpc.StatusCode.OK


def test_max_records_waits_for_the_rest(filled: Server) -> None:
    stream = filled.consume("t", 14, max_records=2)
    assert offsets(next(stream).records) == [14]
    filled.produce("t", b"a", b"b")
    assert offsets([r for response in stream for r in response.records]) == [15]


def test_max_bytes_bounds_a_response_but_one_record_always_fits(server: Server) -> None:
    server.topic("t")
    server.produce("t", *[b"x" * 900 for _ in range(20)])
    server.produce("t", b"y" * 50_000)
    sizes = [
        [len(r.value) for r in response.records] for response in server.consume("t", until_end=True, max_bytes=3000)
    ]
    assert [size for response in sizes for size in response] == [900] * 20 + [50_000]
    assert all(sum(size) <= 3000 or len(size) == 1 for size in sizes)
    assert max(len(size) for size in sizes) == 3


def test_the_default_response_is_about_a_mebibyte(server: Server) -> None:
    server.topic("t")
    for _ in range(4):
        server.produce("t", *[b"x" * 1000 for _ in range(1000)])
    responses = list(server.consume("t", until_end=True))
    assert sum(len(response.records) for response in responses) == 4000
    assert all(response.ByteSize() <= 1_050_000 for response in responses)
    assert len(responses) <= 8


def test_a_large_log_is_read_through_in_order(server: Server) -> None:
    server.topic("t")
    for n in range(30):
        server.produce("t", *[b"%d" % (n * 100 + m) * 50 for m in range(100)])
    for max_bytes in (0, 1, 5000, 100_000, 2**31 - 1):
        records = [r for response in server.consume("t", until_end=True, max_bytes=max_bytes) for r in response.records]
        assert offsets(records) == list(range(3000))
        assert [record.value for record in records] == [b"%d" % n * 50 for n in range(3000)]


def test_min_bytes_are_gathered_while_there_is_time(server: Server) -> None:
    server.topic("t")
    stream = server.consume("t", min_bytes=10_000, max_wait_ms=10_000)
    with cancelled_at_end(stream):
        begun = time.monotonic()
        for _ in range(12):
            server.produce("t", b"x" * 1000)
        response = next(stream)
        assert time.monotonic() - begun < 8
    assert len(response.records) >= 8


def test_too_few_bytes_are_sent_when_the_time_is_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = ConsumeStream.step
    monkeypatch.setattr(ConsumeStream, "step", lambda stream: (steps.append(1), step(stream))[1])
    server.topic("t")
    stream = server.consume("t", min_bytes=1_000_000, max_wait_ms=300)
    with cancelled_at_end(stream):
        server.produce("t", b"a")
        begun = time.monotonic()
        server.produce("t", b"b")
        response = next(stream)
        waited = time.monotonic() - begun
    assert [record.value for record in response.records] == [b"a", b"b"]
    assert 0.2 <= waited < 5
    # Waiting is sleeping.
    assert len(steps) < 10


def test_min_bytes_without_a_wait_are_not_waited_for(filled: Server) -> None:
    stream = filled.consume("t", 14, min_bytes=1_000_000)
    with cancelled_at_end(stream):
        assert offsets(next(stream).records) == [14]


def test_an_idle_stream_beats(server: Server) -> None:
    server.topic("t")
    server.produce("t", b"a")
    stream = server.consume("t", 1, heartbeat_ms=50)
    with cancelled_at_end(stream):
        begun = time.monotonic()
        for _ in range(3):
            response = next(stream)
            assert (len(response.records), response.high_watermark, response.topic) == (0, 1, "t")
        assert 0.14 <= time.monotonic() - begun < 5
        server.produce("t", b"b")
        while not (response := next(stream)).records:
            pass
        assert offsets(response.records) == [1]


def test_a_stream_without_heartbeat_is_silent(server: Server) -> None:
    server.topic("t")
    stream = server.consume("t", timeout=0.3)
    assert failure(lambda: list(stream)).code == "DEADLINE_EXCEEDED"


def test_a_stream_begins_at_a_time(server: Server) -> None:
    server.topic("t")
    for n in range(5):
        request = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"%d" % n, timestamp=1000 * (n + 1)))
        server.stub.ProduceMessage(request)
    assert server.values("t", start_timestamp=3000) == [b"2", b"3", b"4"]
    assert server.values("t", start_timestamp=3001) == [b"3", b"4"]
    assert server.values("t", start_timestamp=1) == [b"0", b"1", b"2", b"3", b"4"]
    assert server.values("t", start_timestamp=2**62) == []


def test_a_group_begins_at_its_committed_offset_else_at_the_offset(filled: Server) -> None:
    assert filled.values("t", group_id="g", offset=13) == [b"13", b"14"]
    place = pb.TopicPartitionOffset(topic="t", partition=0, offset=10)
    filled.stub.CommitOffset(pb.CommitOffsetRequest(group_id="g", offsets=[place]))
    assert filled.values("t", group_id="g", offset=0) == [b"10", b"11", b"12", b"13", b"14"]


def test_a_group_has_the_reader_as_a_member_while_it_reads(filled: Server) -> None:
    stub = filled.stub
    request = pb.ConsumeMessagesRequest(topic="t", offset=12, group_id="g")
    stream = stub.ConsumeMessages(request, metadata=[("client-id", "the client")])
    with cancelled_at_end(stream):
        records_of(stream, 3)
        wait_until(
            lambda: (
                stub.DescribeConsumerGroup(pb.DescribeConsumerGroupRequest(group_id="g"))
                .members[0]
                .assignments[0]
                .offset
                == 15
            )
        )
        group = stub.DescribeConsumerGroup(pb.DescribeConsumerGroupRequest(group_id="g"))
        assert (group.group_id, group.state) == ("g", "Stable")
        [member] = group.members
        assert member.member_id
        assert (member.client_id, member.client_host) == ("the client", "127.0.0.1")
        [at] = member.assignments
        assert (at.topic, at.partition, at.offset) == ("t", 0, 15)
        [listed] = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest()).groups
        assert (listed.group_id, listed.state, listed.member_count) == ("g", "Stable", 1)
        found = failure(lambda: stub.DeleteConsumerGroup(pb.DeleteConsumerGroupRequest(group_id="g")))
        assert found.code in ("FAILED_PRECONDITION", "NOT_FOUND")
    wait_until(lambda: not stub.ListConsumerGroups(pb.ListConsumerGroupsRequest()).groups)


@pytest.mark.parametrize("offset", [16, 2**62, 2**63 - 1])
def test_an_offset_outside_of_the_log_is_out_of_range_with_the_range(filled: Server, offset: int) -> None:
    found = failure(lambda: filled.consume("t", offset))
    assert (found.code, found.reason) == ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE")
    assert found.metadata["log_start_offset"] == "0"
    assert found.metadata["high_watermark"] == "15"
    assert open_streams(filled) == 0


BAD_FIELDS: list[tuple[dict[str, int], str]] = [
    ({"offset": -3}, "INVALID_OFFSET"),
    ({"offset": -(2**63)}, "INVALID_OFFSET"),
    ({"max_bytes": -1}, "INVALID_ARGUMENT"),
    ({"min_bytes": -1}, "INVALID_ARGUMENT"),
    ({"max_wait_ms": -1}, "INVALID_ARGUMENT"),
    ({"max_wait_ms": 2**31 - 1}, "INVALID_ARGUMENT"),
    ({"max_records": -1}, "INVALID_ARGUMENT"),
    ({"heartbeat_ms": -1}, "INVALID_ARGUMENT"),
    ({"heartbeat_ms": 1}, "INVALID_ARGUMENT"),
    ({"start_timestamp": -1}, "INVALID_TIMESTAMP"),
]


def test_a_bad_field_is_named(filled: Server) -> None:
    for fields, reason in BAD_FIELDS:
        found = failure(lambda fields=fields: filled.consume("t", **fields))
        assert (found.code, found.reason, found.bad_fields) == ("INVALID_ARGUMENT", reason, tuple(fields))
    assert open_streams(filled) == 0


def test_a_bad_group_id_is_refused(filled: Server) -> None:
    for group_id in ("x" * 65536, "a\0b"):
        found = failure(lambda group_id=group_id: filled.consume("t", group_id=group_id))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_GROUP_ID")
    assert open_streams(filled) == 0


def test_a_stream_whose_topic_is_deleted_ends(filled: Server) -> None:
    stream = filled.consume("t", 15)
    stream.initial_metadata()
    filled.stub.DeleteTopic(pb.DeleteTopicRequest(name="t"))
    found = failure(lambda: list(stream))
    assert (found.code, found.reason) == ("NOT_FOUND", "TOPIC_NOT_FOUND")
    assert open_streams(filled) == 0


def test_a_stream_that_retention_passes_ends_out_of_range(server: Server) -> None:
    server.topic("t")
    for _ in range(16):
        server.produce("t", b"x" * 1_000_000)
    channel = server.connect(narrow=True)
    stream = takhin_pb2_grpc.TakhinServiceStub(channel).ConsumeMessages(pb.ConsumeMessagesRequest(topic="t"))
    # It is held up by a client that does not read on.
    assert offsets(next(stream).records) == [0]
    place = pb.TopicPartitionOffset(topic="t", partition=0, offset=15)
    server.stub.DeleteRecords(pb.DeleteRecordsRequest(offsets=[place]))
    found = failure(lambda: list(stream))
    assert (found.code, found.reason) == ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE")
    assert found.metadata["log_start_offset"] == "15"
    channel.close()
    [response] = server.consume("t", until_end=True)
    assert response.log_start_offset == 15


def test_a_cancelled_stream_leaves_nothing_behind(filled: Server) -> None:
    streams = [filled.consume("t", offset, group_id="g", heartbeat_ms=1000) for offset in (0, 15, 15)]
    for stream in streams:
        stream.initial_metadata()
    assert open_streams(filled) == 3
    for stream in streams:
        stream.cancel()
    wait_until(lambda: open_streams(filled) == 0)
    wait_until(lambda: filled.engine.groups() == [])
    assert filled.grpc._sending.used_bytes == 0


def test_a_client_that_vanishes_leaves_nothing_behind(filled: Server) -> None:
    channel = filled.connect()
    request = pb.ConsumeMessagesRequest(topic="t", offset=15)
    stream = takhin_pb2_grpc.TakhinServiceStub(channel).ConsumeMessages(request)
    stream.initial_metadata()
    assert open_streams(filled) == 1
    channel.close()
    wait_until(lambda: open_streams(filled) == 0)


def test_too_many_streams_are_refused(make_server: MakeServer) -> None:
    server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0", max_streams=2)))
    server.topic("t")
    streams = [server.consume("t") for _ in range(2)]
    with cancelled_at_end(*streams):
        for stream in streams:
            stream.initial_metadata()
        found = failure(lambda: server.consume("t", group_id="g"))
        assert (found.code, found.reason, found.has_quota) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", True)
        assert found.retry_ms is not None
        # The one that was refused is no member of its group.
        assert server.engine.groups() == []
    wait_until(lambda: open_streams(server) == 0)
    assert server.values("t") == []


def test_parked_consumers_hold_no_thread(server: Server) -> None:
    server.topic("t")
    before = threading.active_count()
    streams = [server.consume("t") for _ in range(100)]
    with cancelled_at_end(*streams):
        for stream in streams:
            stream.initial_metadata()
        wait_until(lambda: server.grpc._pools.data.load == 0)
        assert server.grpc._senders.thread_count == server.config.grpc.sender_threads
        # Those of this client are among them.
        assert threading.active_count() - before < 100 + 60
        server.produce("t", b"v")
        for stream in streams:
            assert [record.value for record in next(stream).records] == [b"v"]


def test_consumers_that_do_not_read_hold_up_nobody(make_server: MakeServer, direct_calls: bool) -> None:
    server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0", sender_threads=2)))
    server.topic("t")
    for _ in range(16):
        server.produce("t", b"x" * 1_000_000)
    channel = server.connect(narrow=True)
    stub = takhin_pb2_grpc.TakhinServiceStub(channel)
    deaf = [stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", offset=0)) for _ in range(10)]
    for stream in deaf:
        stream.initial_metadata()
    wait_until(lambda: all(stream.stuck_since() for stream in server.grpc._consumer.streams.all()))
    # By the public interface, each of them holds a thread.
    wait_until(lambda: (server.grpc._senders.thread_count > 2) != direct_calls)
    begun = time.monotonic()
    server.topic("u")
    server.produce("u", b"v")
    assert server.values("u") == [b"v"]
    assert len(server.values("t")) == 16
    assert time.monotonic() - begun < 5
    # One of them begins to read after all: nothing is missing.
    assert offsets(records_of(deaf[0], 16)) == list(range(16))
    with cancelled_at_end(*deaf):
        pass
    wait_until(lambda: open_streams(server) == 0)
    wait_until(lambda: server.grpc._sending.used_bytes == 0)
    channel.close()


def test_what_consumers_that_do_not_read_hold_is_bounded(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Senders, "EVICT_AFTER_SECONDS", 0.2)
    server = make_server(
        Config(
            grpc=GrpcConfig(addr="127.0.0.1:0", max_message_size=1_048_576, sender_threads=2),
            memory=MemoryConfig(max_inflight_bytes=3_000_000),
        )
    )
    server.topic("t")
    for _ in range(10):
        server.produce("t", b"x" * 900_000)
    channel = server.connect(narrow=True)
    stub = takhin_pb2_grpc.TakhinServiceStub(channel)
    deaf = [stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", offset=0)) for _ in range(8)]
    for stream in deaf:
        stream.initial_metadata()
    # Somebody who reads gets through, at the cost of the deaf.
    assert len(server.values("t")) == 10
    assert server.grpc._sending.used_bytes <= 3_000_000
    with cancelled_at_end(*deaf):
        pass
    channel.close()
    wait_until(lambda: open_streams(server) == 0)


def test_many_consumers_each_get_every_record(server: Server) -> None:
    server.topic("t")
    streams = [server.consume("t", timeout=60) for _ in range(200)]
    with cancelled_at_end(*streams):
        for stream in streams:
            stream.initial_metadata()
        for n in range(20):
            server.produce("t", b"%d" % n)
        for stream in streams:
            assert offsets(records_of(stream, 20)) == list(range(20))


def test_a_stopping_server_ends_its_streams_as_unavailable(make_server: MakeServer) -> None:
    server = make_server()
    server.topic("t")
    streams = [server.consume("t") for _ in range(5)]
    for stream in streams:
        stream.initial_metadata()
    begun = time.monotonic()
    server.grpc.stop(5)
    assert time.monotonic() - begun < 2
    for stream in streams:
        found = failure(lambda stream=stream: list(stream))
        assert (found.code, found.reason) == ("UNAVAILABLE", "UNAVAILABLE")


class DamagedReader(base.Reader):
    """Another reader whose partition is damaged from offset 10 on."""

    def __init__(self, reader: base.Reader) -> None:
        self.reader = reader

    @property
    def next_offset(self) -> int:  # type: ignore[override]
        return self.reader.next_offset

    def read(self, max_bytes: int, cached_only: bool = False) -> Batches | None:
        if self.next_offset >= 10:
            raise errors.DataLoss("damaged", first_offset=10, last_offset=14)
        found = self.reader.read(max_bytes)
        return None if found is None else Batches(found.tobytes(), found.next_offset, 10)

    def advance(self, next_offset: int) -> None:
        self.reader.advance(next_offset)

    def watermarks(self) -> tuple[int, int]:
        return self.reader.watermarks()

    def available_bytes(self, limit: int) -> int:
        return self.reader.available_bytes(limit)

    def park(self, wake: Callable[[], None]) -> None:
        self.reader.park(wake)

    def close(self) -> None:
        self.reader.close()


def test_damaged_records_end_the_stream_with_their_range(filled: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    open_reader = filled.engine.open_reader
    monkeypatch.setattr(filled.engine, "open_reader", lambda *place: DamagedReader(open_reader(*place)))
    stream = filled.consume("t")
    got: list[int] = []
    found = failure(lambda: [got.extend(offsets(response.records)) for response in stream])
    # This client may throw away what it has not read when the error comes, but no more than that.
    assert got == list(range(len(got)))
    assert len(got) <= 10
    assert (found.code, found.reason) == ("DATA_LOSS", "CORRUPT_RECORDS")
    assert (found.metadata["first_offset"], found.metadata["last_offset"]) == ("10", "14")
    assert open_streams(filled) == 0
    # What lies before the damage can be read.
    assert filled.values("t", max_records=10) == [b"%d" % n for n in range(10)]
