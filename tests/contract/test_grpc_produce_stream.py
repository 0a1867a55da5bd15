"""Over gRPC: the two produce streams."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from takhin.config import Config, GrpcConfig, MemoryConfig
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc

from .harness import PATIENCE, MakeServer, Server, failure, small, wait_until


def message(n: int = 0, **fields: Any) -> pb.ProduceMessageRequest:
    return pb.ProduceMessageRequest(**{"topic": "t", "record": pb.Record(value=b"%d" % n), **fields})


class Requests:
    """A request iterator that is fed by hand."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._queue.put(request)

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def test_every_request_is_answered_in_order(server: Server) -> None:
    server.topic("t")
    answers = list(server.stub.ProduceMessageStream(message(n) for n in range(1000)))
    assert [answer.offset for answer in answers] == list(range(1000))
    assert server.values("t") == [b"%d" % n for n in range(1000)]


def test_batches_are_answered_in_order_with_their_correlation_ids(server: Server) -> None:
    server.topic("t", 2)
    requests = [
        pb.ProduceBatchRequest(
            topic="t", partition=n % 2, records=[pb.Record(value=b"a"), pb.Record(value=b"b")], correlation_id=1000 + n
        )
        for n in range(100)
    ]
    answers = list(server.stub.ProduceBatchStream(iter(requests)))
    assert [answer.correlation_id for answer in answers] == [1000 + n for n in range(100)]
    assert [(a.partition, a.base_offset, a.last_offset) for a in answers] == [
        (n % 2, n // 2 * 2, n // 2 * 2 + 1) for n in range(100)
    ]


def test_an_answer_comes_while_the_stream_is_open(server: Server) -> None:
    server.topic("t")
    requests = Requests()
    stream = server.stub.ProduceMessageStream(iter(requests), timeout=PATIENCE)
    for n in range(5):
        requests.send(message(n))
        assert next(stream).offset == n
    requests.close()
    assert list(stream) == []
    assert stream.code() is grpc.StatusCode.OK


def test_an_empty_stream_ends_well(server: Server) -> None:
    stream = server.stub.ProduceMessageStream(iter([]))
    assert list(stream) == []
    assert stream.code() is grpc.StatusCode.OK


def test_a_request_that_fails_is_answered_in_its_place_and_the_stream_lives_on(server: Server) -> None:
    server.topic("t", max_message_bytes="1000")
    answers = list(
        server.stub.ProduceMessageStream(
            iter(
                [
                    message(0),
                    message(1, topic="none"),
                    message(2, partition=9),
                    message(3, required_acks=7),
                    message(4, record=pb.Record(value=b"x" * 1000)),
                    message(5, timeout_ms=-1),
                    message(6, topic="../x"),
                    message(7),
                ]
            )
        )
    )
    assert [answer.error_code for answer in answers] == [0, 5, 5, 3, 8, 3, 3, 0]
    assert [bool(answer.error) for answer in answers] == [False, True, True, True, True, True, True, False]
    assert [answer.offset for answer in answers] == [0, -1, -1, -1, -1, -1, -1, 1]
    assert (answers[1].topic, answers[2].partition) == ("none", 9)
    assert server.values("t") == [b"0", b"7"]


def test_a_failing_batch_keeps_its_correlation_id(server: Server) -> None:
    server.topic("t")
    bad = pb.ProduceBatchRequest(topic="none", records=[pb.Record()], correlation_id=77)
    [answer] = server.stub.ProduceBatchStream(iter([bad]))
    assert (answer.correlation_id, answer.error_code, answer.base_offset, answer.last_offset) == (77, 5, -1, -1)


def test_a_malformed_message_is_answered_and_the_stream_lives_on(server: Server) -> None:
    server.topic("t")
    good = message(1).SerializeToString()
    for method, kind in (
        ("ProduceMessageStream", pb.ProduceMessageResponse),
        ("ProduceBatchStream", pb.ProduceBatchResponse),
    ):
        stream = server.raw_stream(method)
        answers = [kind.FromString(data) for data in stream(iter([b"\xff\xff", good[:-1], b"\x0a\x7f"]))]
        assert [answer.error_code for answer in answers] == [3, 3, 3]
        assert all(answer.error for answer in answers)
    mixed = server.raw_stream("ProduceMessageStream")(iter([b"\xff", good]))
    assert [pb.ProduceMessageResponse.FromString(data).error_code for data in mixed] == [3, 0]


def test_acks_may_be_mixed(server: Server) -> None:
    server.topic("t")
    acks = [(-1, 0, 1)[n % 3] for n in range(60)]
    answers = list(server.stub.ProduceMessageStream(message(n, required_acks=a) for n, a in enumerate(acks)))
    assert [answer.offset for answer in answers if answer.offset >= 0] == [
        n for n in range(60) if answers[n].offset >= 0
    ]
    wait_until(lambda: len(server.values("t")) == 60)


def test_idempotent_requests_are_written_once_in_streams_too(server: Server) -> None:
    server.topic("t")
    producer = server.stub.InitProducerId(pb.InitProducerIdRequest())
    requests = [message(n, producer_id=producer.producer_id, sequence=n) for n in range(5)]
    answers = list(server.stub.ProduceMessageStream(iter([*requests, *requests])))
    assert [answer.offset for answer in answers] == [0, 1, 2, 3, 4] * 2
    assert server.values("t") == [b"%d" % n for n in range(5)]


def test_streams_side_by_side_each_get_their_own_answers(server: Server) -> None:
    server.topic("t", 4)
    results: dict[int, list[int]] = {}

    def produce(n: int) -> None:
        stream = server.stub.ProduceMessageStream(message(m, partition=n) for m in range(200))
        results[n] = [answer.offset for answer in stream]

    threads = [threading.Thread(target=produce, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: list(range(200)) for n in range(4)}


def test_a_stream_that_is_cancelled_leaves_nothing_behind(server: Server) -> None:
    server.topic("t")
    requests = Requests()
    streams = [server.stub.ProduceMessageStream(iter(requests)) for _ in range(3)]
    requests.send(message(0))
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 3)
    for stream in streams:
        stream.cancel()
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 0)
    wait_until(lambda: server.grpc._pools.streams.load == 0)
    wait_until(lambda: server.grpc._inflight.used_bytes == 0)  # the flush may still be under way
    for _ in streams:
        requests.close()


def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    server.topic("t")
    requests = Requests()
    channel = server.connect()
    stream = takhin_pb2_grpc.TakhinServiceStub(channel).ProduceMessageStream(iter(requests))
    requests.send(message(0))
    assert next(stream).offset == 0
    channel.close()
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 0)
    requests.close()


def test_too_many_streams_are_refused(make_server: MakeServer) -> None:
    server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0", data_threads=2)))
    server.topic("t")
    requests = [Requests(), Requests()]
    streams = [server.stub.ProduceMessageStream(iter(each)) for each in requests]
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 2)
    found = failure(lambda: server.stub.ProduceMessageStream(iter([message(0)])))
    assert (found.code, found.reason, found.has_quota) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", True)
    # Single calls have threads of their own.
    server.produce("t", b"v")
    for each, stream in zip(requests, streams, strict=True):
        each.close()
        assert list(stream) == []


class TestSlowFlush:
    """On an engine whose flush can be held up."""

    @pytest.fixture
    def engine_name(self) -> str:
        return "memory"

    @pytest.fixture(params=[True, False], ids=["direct", "public"])
    def direct_calls(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def stuck(self, make_server: MakeServer) -> Server:
        server = make_server(small(stream_buffer_bytes=65536))
        server.topic("t")
        server.engine.flushing.clear()  # type: ignore[attr-defined]
        return server

    def release(self, server: Server) -> None:
        server.engine.flushing.set()  # type: ignore[attr-defined]

    def log_end(self, server: Server) -> int:
        return server.engine.describe_partition("t", 0).log_end_offset

    def test_many_requests_are_under_way_at_once(self, stuck: Server) -> None:
        stream = stuck.stub.ProduceMessageStream(message(n) for n in range(50))
        wait_until(lambda: self.log_end(stuck) == 50)
        self.release(stuck)
        assert [answer.offset for answer in stream] == list(range(50))

    def test_reading_stops_while_too_many_bytes_wait_and_goes_on_after(self, stuck: Server) -> None:
        big = [message(0, record=pb.Record(value=b"x" * 10_000)) for _ in range(100)]
        stream = stuck.stub.ProduceMessageStream(iter(big))
        wait_until(lambda: self.log_end(stuck) >= 6)
        time.sleep(0.1)
        assert self.log_end(stuck) <= 8
        self.release(stuck)
        assert [answer.offset for answer in stream] == list(range(100))

    def test_answers_keep_their_order_when_later_ones_are_ready_first(self, stuck: Server) -> None:
        requests = [message(n, required_acks=-1 if n % 2 == 0 else 1) for n in range(20)]
        stream = stuck.stub.ProduceMessageStream(iter(requests))
        wait_until(lambda: self.log_end(stuck) == 20)
        self.release(stuck)
        assert [answer.offset for answer in stream] == list(range(20))

    def test_the_timeout_of_a_request_bounds_its_wait(self, stuck: Server) -> None:
        requests = Requests()
        stream = stuck.stub.ProduceMessageStream(iter(requests), timeout=PATIENCE)
        requests.send(message(0, timeout_ms=50), message(1, timeout_ms=50), message(2))
        answers = [next(stream), next(stream)]
        assert [answer.error_code for answer in answers] == [4, 4]
        self.release(stuck)
        assert (next(stream).offset, stuck.grpc._inflight.used_bytes) == (2, 0)
        requests.close()
        assert list(stream) == []

    def test_a_cancelled_stream_gives_its_bytes_back_when_the_engine_is_through(self, stuck: Server) -> None:
        stream = stuck.stub.ProduceMessageStream(message(n) for n in range(10))
        wait_until(lambda: self.log_end(stuck) == 10)
        stream.cancel()
        wait_until(lambda: len(stuck.grpc._produce_streams.streams) == 0)
        assert stuck.grpc._inflight.used_bytes > 0
        self.release(stuck)
        wait_until(lambda: stuck.grpc._inflight.used_bytes == 0)

    def test_a_stream_waits_for_room_among_the_bytes_in_flight(self, make_server: MakeServer) -> None:
        config = Config(
            grpc=GrpcConfig(addr="127.0.0.1:0", max_message_size=1_048_576),
            memory=MemoryConfig(max_inflight_bytes=1_048_576),
        )
        server = make_server(config)
        server.topic("t")
        server.grpc._inflight.take(1_048_576)
        stream = server.stub.ProduceMessageStream(iter([message(0)]), timeout=PATIENCE)
        time.sleep(0.1)
        assert self.log_end(server) == 0
        server.grpc._inflight.give(1_048_576)
        assert [answer.offset for answer in stream] == [0]

    def test_a_stopping_server_answers_what_it_took_and_then_ends_the_stream(self, stuck: Server) -> None:
        requests = Requests()
        stream = stuck.stub.ProduceMessageStream(iter(requests), timeout=PATIENCE)
        requests.send(*[message(n) for n in range(5)])
        wait_until(lambda: self.log_end(stuck) == 5)
        stopper = threading.Thread(target=stuck.grpc.stop, args=(5,))
        stopper.start()
        time.sleep(0.1)
        self.release(stuck)
        answers = []
        with pytest.raises(grpc.RpcError) as caught:
            answers.extend(stream)
        answers_seen = stuck.engine.describe_partition("t", 0).log_end_offset
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert answers_seen == 5
        stopper.join()
        requests.close()
