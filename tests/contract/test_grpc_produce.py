"""Over gRPC: ProduceMessage, ProduceBatch, InitProducerId."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest

from takhin import errors
from takhin._fastlog import murmur2
from takhin.config import Config, GrpcConfig, MemoryConfig
from takhin.server import produce as produce_module
from takhin.v1 import takhin_pb2 as pb

from .harness import MakeServer, Server, failure, small, wait_until


def test_a_record_is_produced_and_comes_back_whole(server: Server) -> None:
    server.topic("t")
    record = pb.Record(
        key=b"k", value=b"v", headers=[pb.RecordHeader(key="h", value=b"1")], timestamp=1234, offset=99, partition=7
    )
    answer = server.stub.ProduceMessage(pb.ProduceMessageRequest(topic="t", record=record))
    assert answer == pb.ProduceMessageResponse(topic="t", partition=0, offset=0, timestamp=1234)
    [response] = server.consume("t", until_end=True)
    record.offset, record.partition = 0, 0
    assert list(response.records) == [record]
    assert (response.topic, response.partition, response.high_watermark) == ("t", 0, 1)


def test_null_and_empty_stay_apart(server: Server) -> None:
    server.topic("t")
    for record in (pb.Record(), pb.Record(key=b"", value=b""), pb.Record(key=b"k"), pb.Record(value=b"v")):
        server.stub.ProduceMessage(pb.ProduceMessageRequest(topic="t", record=record))
    server.stub.ProduceMessage(pb.ProduceMessageRequest(topic="t"))
    records = [record for response in server.consume("t", until_end=True) for record in response.records]
    assert [(r.HasField("key"), r.HasField("value")) for r in records] == [
        (False, False),
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]


def test_keys_go_to_kafkas_partitions(server: Server) -> None:
    server.topic("t", 5)
    for key in (b"", b"a", b"key-17"):
        request = pb.ProduceMessageRequest(topic="t", partition=-1, record=pb.Record(key=key, value=b"v"))
        assert server.stub.ProduceMessage(request).partition == (murmur2(key) & 0x7FFFFFFF) % 5
    batch = pb.ProduceBatchRequest(topic="t", partition=-1, records=[pb.Record(key=b"a"), pb.Record(key=b"b")])
    assert server.stub.ProduceBatch(batch).partition == (murmur2(b"a") & 0x7FFFFFFF) % 5


def test_a_batch_is_answered_with_its_offsets_and_its_correlation_id(server: Server) -> None:
    server.topic("t")
    server.produce("t", b"before")
    records = [pb.Record(value=b"%d" % n, timestamp=100 + n) for n in range(3)]
    answer = server.stub.ProduceBatch(pb.ProduceBatchRequest(topic="t", records=records, correlation_id=-17))
    assert (answer.topic, answer.partition, answer.base_offset, answer.last_offset) == ("t", 0, 1, 3)
    assert (answer.timestamp, answer.correlation_id, answer.high_watermark) == (102, -17, 4)
    assert (answer.error, answer.error_code) == ("", 0)


def test_an_empty_batch_is_refused(server: Server) -> None:
    server.topic("t")
    assert failure(lambda: server.produce("t")).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("acks", [-1, 0, 1])
def test_all_acks_are_taken(server: Server, acks: int) -> None:
    server.topic("t")
    request = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), required_acks=acks)
    answer = server.stub.ProduceMessage(request)
    assert answer.offset == 0 or (acks == 0 and answer.offset == -1)
    wait_until(lambda: server.values("t") == [b"v"])


@pytest.mark.parametrize("acks", [2, -2, 2**31 - 1])
def test_other_acks_are_refused(server: Server, acks: int) -> None:
    server.topic("t")
    request = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), required_acks=acks)
    found = failure(lambda: server.stub.ProduceMessage(request))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUIRED_ACKS")
    assert found.bad_fields == ("required_acks",)
    assert server.values("t") == []


@pytest.mark.parametrize(
    ("fields", "reason", "bad_field"),
    [
        ({"timeout_ms": -1}, "INVALID_ARGUMENT", "timeout_ms"),
        ({"record": pb.Record(timestamp=-1)}, "INVALID_TIMESTAMP", None),
        ({"producer_id": -1}, "INVALID_ARGUMENT", "producer_id"),
        ({"producer_epoch": 1}, "INVALID_ARGUMENT", "producer_id"),
        ({"sequence": 1}, "INVALID_ARGUMENT", "producer_id"),
        ({"producer_id": 1, "producer_epoch": -1}, "INVALID_ARGUMENT", "producer_epoch"),
        ({"producer_id": 1, "producer_epoch": 40000}, "INVALID_ARGUMENT", "producer_epoch"),
        ({"producer_id": 1, "sequence": -1}, "INVALID_ARGUMENT", "sequence"),
    ],
)
def test_a_bad_field_is_named(server: Server, fields: dict[str, Any], reason: str, bad_field: str | None) -> None:
    server.topic("t")
    found = failure(lambda: server.stub.ProduceMessage(pb.ProduceMessageRequest(topic="t", **fields)))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)
    if bad_field:
        assert found.bad_fields == (bad_field,)
    assert server.values("t") == []


def test_a_record_over_the_topics_limit_is_refused(server: Server) -> None:
    server.topic("t", max_message_bytes="1000")
    found = failure(lambda: server.produce("t", b"x" * 1000))
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "RECORD_TOO_LARGE")
    assert not found.has_quota
    assert found.retry_ms is None
    assert server.produce("t", b"x" * 500).base_offset == 0


def test_a_message_of_ten_mebibytes_and_one_byte_is_refused_and_the_server_goes_on(server: Server) -> None:
    server.topic("t")
    fitting = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"x" * 10_485_000))
    server.stub.ProduceMessage(fitting)
    too_large = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"x" * (10 * 1024 * 1024 + 1)))
    assert failure(lambda: server.stub.ProduceMessage(too_large)).code == "RESOURCE_EXHAUSTED"
    assert server.values("t", max_bytes=1000) == [b"x" * 10_485_000]


def test_a_compressed_message_is_refused_before_it_is_inflated(server: Server) -> None:
    server.topic("t")
    request = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"\0" * 5_000_000))
    found = failure(lambda: server.stub.ProduceMessage(request, compression=grpc.Compression.Gzip))
    assert found.code == "UNIMPLEMENTED"
    assert server.values("t") == []


def test_what_is_sent_twice_is_written_once(server: Server) -> None:
    server.topic("t")
    producer = server.stub.InitProducerId(pb.InitProducerIdRequest())
    assert producer.producer_id > 0
    stamp = {"producer_id": producer.producer_id, "producer_epoch": producer.producer_epoch}
    one = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"a"), sequence=0, **stamp)
    two = pb.ProduceBatchRequest(
        topic="t", records=[pb.Record(value=b"b"), pb.Record(value=b"c")], base_sequence=1, **stamp
    )
    assert [server.stub.ProduceMessage(one).offset for _ in range(3)] == [0, 0, 0]
    answers = [server.stub.ProduceBatch(two) for _ in range(2)]
    assert [(a.base_offset, a.last_offset) for a in answers] == [(1, 2), (1, 2)]
    assert server.values("t") == [b"a", b"b", b"c"]
    gap = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"e"), sequence=5, **stamp)
    found = failure(lambda: server.stub.ProduceMessage(gap))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "OUT_OF_ORDER_SEQUENCE")


def test_a_newer_epoch_fences_the_older(server: Server) -> None:
    server.topic("t")
    first = server.stub.InitProducerId(pb.InitProducerIdRequest())
    again = pb.InitProducerIdRequest(producer_id=first.producer_id, producer_epoch=first.producer_epoch)
    second = server.stub.InitProducerId(again)
    assert (second.producer_id, second.producer_epoch) == (first.producer_id, first.producer_epoch + 1)
    found = failure(lambda: server.stub.InitProducerId(again))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "PRODUCER_FENCED")
    request = pb.ProduceMessageRequest(
        topic="t", producer_id=first.producer_id, producer_epoch=second.producer_epoch, record=pb.Record(value=b"v")
    )
    server.stub.ProduceMessage(request)
    request.producer_epoch = first.producer_epoch
    assert failure(lambda: server.stub.ProduceMessage(request)).reason == "PRODUCER_FENCED"


def test_producers_that_cannot_be_are_refused(server: Server) -> None:
    server.topic("t")
    unknown = pb.InitProducerIdRequest(producer_id=2**62)
    assert failure(lambda: server.stub.InitProducerId(unknown)).reason == "UNKNOWN_PRODUCER_ID"
    negative = pb.InitProducerIdRequest(producer_id=-1)
    found = failure(lambda: server.stub.InitProducerId(negative))
    assert (found.code, found.bad_fields) == ("INVALID_ARGUMENT", ("producer_id",))
    request = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), producer_id=2**62)
    assert failure(lambda: server.stub.ProduceMessage(request)).reason == "UNKNOWN_PRODUCER_ID"


def test_a_message_one_byte_too_large_is_refused_with_the_limit(make_server: MakeServer) -> None:
    server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0", max_message_size=1_048_576)))
    server.topic("t")
    size = 1_048_576
    room = size - pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"x" * size)).ByteSize()
    fits = pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"x" * (size + room)))
    assert fits.ByteSize() == size
    server.stub.ProduceMessage(fits)
    fits.record.value += b"x"
    found = failure(lambda: server.stub.ProduceMessage(fits))
    assert (found.code, found.reason, found.metadata["limit_bytes"]) == (
        "RESOURCE_EXHAUSTED",
        "MESSAGE_TOO_LARGE",
        "1048576",
    )
    answers = list(server.stub.ProduceMessageStream(iter([fits, pb.ProduceMessageRequest(topic="t")])))
    assert [answer.error_code for answer in answers] == [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 0]
    assert len(server.values("t")) == 2


def test_too_many_bytes_in_flight_are_refused_until_there_is_room(make_server: MakeServer) -> None:
    config = Config(
        grpc=GrpcConfig(addr="127.0.0.1:0", max_message_size=1_048_576),
        memory=MemoryConfig(max_inflight_bytes=1_048_576),
    )
    server = make_server(config)
    server.topic("t")
    account = server.grpc._inflight
    account.take(1_000_000)
    found = failure(lambda: server.produce("t", b"x" * 100_000))
    assert (found.code, found.reason, found.has_quota) == ("RESOURCE_EXHAUSTED", "TOO_MANY_BYTES_IN_FLIGHT", True)
    assert found.retry_ms == 100
    account.give(1_000_000)
    server.produce("t", b"x" * 100_000)
    assert account.used_bytes == 0
    assert server.values("t") == [b"x" * 100_000]


def test_many_callers_at_once_are_all_served(server: Server) -> None:
    server.topic("t", 4)
    answers: list[tuple[int, int]] = []

    def call(n: int) -> None:
        for m in range(5):
            at = server.stub.ProduceMessage(
                pb.ProduceMessageRequest(topic="t", partition=n % 4, record=pb.Record(value=b"%d-%d" % (n, m)))
            )
            answers.append((at.partition, at.offset))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 500
    assert sum(len(server.values("t", partition=n)) for n in range(4)) == 500


class TestSlowFlush:
    """What the contract says of waits, on an engine whose flush can be held up."""

    @pytest.fixture
    def engine_name(self) -> str:
        return "memory"

    @pytest.fixture(params=[True, False], ids=["direct", "public"])
    def direct_calls(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def stuck(self, make_server: MakeServer) -> Server:
        server = make_server(small())
        server.topic("t")
        server.engine.flushing.clear()  # type: ignore[attr-defined]
        return server

    def request(self, **fields: Any) -> pb.ProduceMessageRequest:
        return pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), **fields)

    def test_the_requests_timeout_bounds_the_wait(self, stuck: Server) -> None:
        begun = time.monotonic()
        found = failure(lambda: stuck.stub.ProduceMessage(self.request(timeout_ms=100)))
        assert (found.code, found.reason) == ("DEADLINE_EXCEEDED", "REQUEST_TIMED_OUT")
        assert "may or may not" in found.message
        assert 0.1 <= time.monotonic() - begun < 5
        # The bytes are in the works until the engine is through with them.
        assert stuck.grpc._inflight.used_bytes > 0
        stuck.engine.flushing.set()  # type: ignore[attr-defined]
        wait_until(lambda: stuck.grpc._inflight.used_bytes == 0)

    def test_the_calls_deadline_bounds_the_wait(self, stuck: Server) -> None:
        found = failure(lambda: stuck.stub.ProduceMessage(self.request(timeout_ms=60_000), timeout=0.2))
        assert found.code == "DEADLINE_EXCEEDED"
        wait_until(lambda: stuck.grpc._producer.waiting == 0)

    def test_acks_1_does_not_wait_for_the_flush(self, stuck: Server) -> None:
        assert stuck.stub.ProduceMessage(self.request(required_acks=1), timeout=5).offset == 0

    def test_absent_acks_are_the_configurations(self, make_server: MakeServer) -> None:
        server = make_server(Config(grpc=GrpcConfig(addr="127.0.0.1:0"), default_acks=1))
        server.topic("t")
        server.engine.flushing.clear()  # type: ignore[attr-defined]
        assert server.stub.ProduceMessage(self.request(), timeout=5).offset == 0

    def test_health_is_answered_while_every_data_thread_waits(self, stuck: Server) -> None:
        waiting = [stuck.stub.ProduceMessage.future(self.request()) for _ in range(40)]
        wait_until(lambda: stuck.grpc._producer.waiting >= 32)  # of as many threads
        begun = time.monotonic()
        assert stuck.stub.HealthCheck(pb.HealthCheckRequest(), timeout=5).status == "healthy"
        assert list(stuck.stub.ListTopics(pb.ListTopicsRequest(), timeout=5).topics) == ["t"]
        assert time.monotonic() - begun < 1
        stuck.engine.flushing.set()  # type: ignore[attr-defined]
        assert sorted(call.result(timeout=5).offset for call in waiting) == list(range(40))

    def test_one_call_too_many_is_refused(self, make_server: MakeServer) -> None:
        server = make_server(small(max_concurrent_rpcs=8))
        server.topic("t")
        server.engine.flushing.clear()  # type: ignore[attr-defined]
        waiting = [server.stub.ProduceMessage.future(self.request()) for _ in range(8)]
        wait_until(lambda: server.grpc._producer.waiting == 8)
        found = failure(lambda: server.stub.ProduceMessage(self.request(), timeout=5))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        assert found.retry_ms is not None
        server.engine.flushing.set()  # type: ignore[attr-defined]
        assert {call.result(timeout=5).offset for call in waiting} == set(range(8))
        server.produce("t", b"again")


#: What an engine may say to an append, and what becomes of it: code, its number, whether to try again.
OUTCOMES: list[tuple[errors.TakhinError, str, int, bool]] = [
    (errors.LogOffline("offline"), "FAILED_PRECONDITION", 9, False),
    (errors.DurabilityUnknown("the flush failed"), "UNKNOWN", 2, False),
    (errors.DiskFull("no room"), "RESOURCE_EXHAUSTED", 8, True),
    (errors.DescriptorsExhausted("no descriptor"), "RESOURCE_EXHAUSTED", 8, True),
    (errors.Unavailable("stopping"), "UNAVAILABLE", 14, True),
    (errors.DataLoss("the segment is damaged"), "DATA_LOSS", 15, False),
]


@pytest.mark.parametrize(("outcome", "code", "number", "retriable"), OUTCOMES, ids=lambda value: type(value).__name__)
def test_what_the_engine_says_reaches_the_caller(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    outcome: errors.TakhinError,
    code: str,
    number: int,
    retriable: bool,
) -> None:
    server.topic("t")
    monkeypatch.setattr(server.engine, "append", lambda *arguments: arguments[5](outcome))
    record = pb.Record(value=b"v")
    for call in (
        lambda: server.stub.ProduceMessage(pb.ProduceMessageRequest(topic="t", record=record)),
        lambda: server.produce("t", b"v"),
    ):
        found = failure(call)
        assert (found.code, found.reason, found.message) == (code, outcome.reason, outcome.message)
        assert (found.retry_ms is not None) == retriable
    [answer] = server.stub.ProduceMessageStream(iter([pb.ProduceMessageRequest(topic="t", record=record)]))
    assert (answer.error_code, answer.error) == (number, outcome.message)
    assert server.grpc._inflight.used_bytes == 0


def test_a_caller_is_alone_when_there_is_no_other_and_lately_was_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produce_module, "ALONE_SECONDS", 60.0)
    server.topic("t")
    append, alone, go_on = server.engine.append, list[bool](), threading.Event()
    go_on.set()

    def seen(*arguments: Any) -> None:
        alone.append(arguments[-1])
        assert go_on.wait(10)
        append(*arguments)

    server.engine.append = seen  # type: ignore[method-assign]

    def produce(**more: Any) -> Any:
        return server.stub.ProduceMessage.future(pb.ProduceMessageRequest(topic="t", record=pb.Record(), **more))

    for _ in range(3):
        produce().result(10)
    assert alone == [True] * 3
    alone.clear()
    # The limit would not be kept by who waits for a disk.
    produce(timeout_ms=5000).result(10)
    assert alone == [False]
    alone.clear()
    go_on.clear()
    calls = [produce() for _ in range(4)]
    wait_until(lambda: len(alone) == 4)
    go_on.set()
    assert sorted(call.result(10).offset for call in calls) == [4, 5, 6, 7]
    assert not all(alone)
    assert alone.count(True) <= 1, "the first could not know"
    alone.clear()
    produce().result(10)
    monkeypatch.setattr(produce_module, "ALONE_SECONDS", 0.0)
    time.sleep(0.01)
    produce().result(10)
    assert alone == [False, True]
