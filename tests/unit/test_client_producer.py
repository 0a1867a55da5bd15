"""The batching producer, against a server that answers, refuses and breaks off."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from takhin.client import Client, ClientError, Delivery, ProducerOptions, partition_for_key
from tests.unit.client_fakes import MemoryServer


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    yield running
    running.stop()


@pytest.fixture
def client(server: MemoryServer) -> Iterator[Client]:
    server.add_topic("t", 3)
    with Client(server.address, timeout=10) as connected:
        yield connected


def test_every_record_arrives_in_the_order_of_its_key(server: MemoryServer, client: Client) -> None:
    with client.producer("t", options=ProducerOptions(batch_records=7)) as producer:
        for number in range(500):
            producer.send(str(number).encode(), key=f"k{number % 5}".encode())
    assert producer.acknowledged_records == 500
    for key in range(5):
        name = f"k{key}".encode()
        log = server.topics["t"][partition_for_key(name, 3)]
        found = [int(record.value) for record in log if record.key == name]
        assert found == list(range(key, 500, 5))


def test_records_without_a_key_are_spread_over_the_partitions(server: MemoryServer, client: Client) -> None:
    with client.producer("t", options=ProducerOptions(batch_records=10)) as producer:
        for _ in range(90):
            producer.send(b"x")
    assert [len(log) for log in server.topics["t"]] == [30, 30, 30]


def test_a_partition_that_is_given_is_taken_and_everything_of_a_record_arrives(
    server: MemoryServer, client: Client
) -> None:
    with client.producer("t") as producer:
        producer.send(None, key=b"", headers=[("h", b"\xff"), ("h", b"")], timestamp=123, partition=2)
        producer.send(b"", partition=2)
    first, second = server.topics["t"][2]
    assert first.HasField("key")
    assert first.key == b""
    assert not first.HasField("value")
    assert [(h.key, h.value) for h in first.headers] == [("h", b"\xff"), ("h", b"")]
    assert first.timestamp == 123
    assert not second.HasField("key")
    assert second.HasField("value")


def test_a_batch_is_sent_after_the_linger_without_a_flush(server: MemoryServer, client: Client) -> None:
    delivered: list[Delivery] = []
    arrived = threading.Event()

    def note(delivery: Delivery) -> None:
        delivered.append(delivery)
        arrived.set()

    with client.producer("t", options=ProducerOptions(linger=0.05), on_delivery=note) as producer:
        producer.send(b"a", partition=1)
        producer.send(b"b", partition=1)
        assert arrived.wait(5)
    assert delivered == [Delivery("t", 1, records=2, size_bytes=2, base_offset=0, last_offset=1)]
    assert len(server.batches) == 1


def test_a_batch_holds_at_most_its_bytes_and_never_less_than_a_record(server: MemoryServer, client: Client) -> None:
    with client.producer("t", options=ProducerOptions(batch_bytes=300, linger=60)) as producer:
        for _ in range(5):
            producer.send(b"v" * 100, partition=0)
        producer.send(b"v" * 5000, partition=0)
    assert [len(batch.records) for batch in server.batches] == [2, 2, 1, 1]


def test_a_batch_stays_below_what_the_topic_takes(server: MemoryServer, client: Client) -> None:
    server.configs["t"] = {"max.message.bytes": "1000"}
    with client.producer("t", options=ProducerOptions(linger=60)) as producer:
        for _ in range(20):
            producer.send(b"v" * 100, partition=0)
    assert max(len(batch.records) for batch in server.batches) <= 8


def test_a_record_that_no_request_can_hold_is_refused_before_it_breaks_the_stream(
    server: MemoryServer, client: Client
) -> None:
    server.limits["max_message_size"] = 10_000
    with client.producer("t") as producer:
        producer.send(b"before")
        with pytest.raises(ClientError) as refused:
            producer.send(b"x" * 10_000)
        producer.send(b"after")
    assert refused.value.reason == "RECORD_TOO_LARGE"
    assert sorted(server.values("t")) == [b"after", b"before"]


def test_a_refused_batch_is_raised_by_flush_once_and_the_stream_goes_on(server: MemoryServer, client: Client) -> None:
    server.batch_script.extend([(8, "disk full"), None])
    outcomes: list[Delivery] = []
    producer = client.producer("t", options=ProducerOptions(batch_records=2), on_delivery=outcomes.append)
    for number in range(4):
        producer.send(str(number).encode(), partition=0)
    with pytest.raises(ClientError) as failure:
        producer.flush()
    assert failure.value.code == "RESOURCE_EXHAUSTED"
    assert "disk full" in str(failure.value)
    producer.flush()
    producer.close()
    assert (producer.acknowledged_records, producer.failed_records) == (2, 2)
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert server.values("t") == [b"2", b"3"]


def test_close_raises_what_was_not_delivered(server: MemoryServer, client: Client) -> None:
    server.batch_script.append((5, "topic not found"))
    producer = client.producer("t")
    producer.send(b"x")
    with pytest.raises(ClientError) as failure:
        producer.close()
    assert failure.value.code == "NOT_FOUND"
    with pytest.raises(ClientError, match="closed"):
        producer.send(b"y")


def test_a_lost_connection_stops_a_producer_that_is_not_idempotent(server: MemoryServer, client: Client) -> None:
    server.batch_script.extend([None, "write and break"])
    producer = client.producer("t", options=ProducerOptions(batch_records=1))
    for number in range(3):
        try:
            producer.send(str(number).encode(), partition=0)
        except ClientError:
            break  # the connection was lost already
    with pytest.raises(ClientError) as failure:
        producer.flush()
    assert failure.value.code == "UNAVAILABLE"
    assert "may or may not" in str(failure.value)
    with pytest.raises(ClientError):
        producer.send(b"more")
    producer.close()
    assert producer.acknowledged_records == 1


def test_an_idempotent_producer_writes_each_record_once_over_broken_streams(
    server: MemoryServer, client: Client
) -> None:
    server.batch_script.extend([None, "write and break", None, "break", (14, "stopping"), None, "write and break"])
    with client.producer("t", options=ProducerOptions(batch_records=10, idempotent=True)) as producer:
        for number in range(200):
            producer.send(str(number).encode(), partition=number % 3)
    assert producer.acknowledged_records == 200
    assert producer.failed_records == 0
    for partition in range(3):
        assert [int(r.value) for r in server.topics["t"][partition]] == list(range(partition, 200, 3))
    assert server.streams > 3


def test_an_idempotent_producer_finds_out_that_waiting_does_not_help(server: MemoryServer, client: Client) -> None:
    server.batch_script.append((8, "too large"))
    producer = client.producer("t", options=ProducerOptions(idempotent=True))
    producer.send(b"x" * 2000)
    with pytest.raises(ClientError) as failure:
        producer.close()
    assert failure.value.reason == "RECORD_TOO_LARGE"


def test_an_idempotent_producer_waits_out_a_full_server(server: MemoryServer, client: Client) -> None:
    server.batch_script.append((8, "no memory at the moment"))
    with client.producer("t", options=ProducerOptions(idempotent=True)) as producer:
        producer.send(b"x")
    assert server.values("t") == [b"x"]


def test_an_idempotent_producer_gives_up_after_its_delivery_timeout(server: MemoryServer, client: Client) -> None:
    server.batch_script.extend(["break"] * 1000)
    producer = client.producer("t", options=ProducerOptions(idempotent=True, delivery_timeout=0.5))
    producer.send(b"x")
    with pytest.raises(ClientError):
        producer.close()
    assert producer.failed_records == 1


def test_a_stream_is_renewed_when_it_is_old(server: MemoryServer, client: Client) -> None:
    with client.producer("t", options=ProducerOptions(rotate_after=0.05, linger=0)) as producer:
        for number in range(20):
            producer.send(str(number).encode(), partition=0)
            time.sleep(0.01)
    assert server.streams > 1
    assert [int(value) for value in server.values("t")] == list(range(20))


def test_sending_waits_when_too_much_is_unacknowledged(server: MemoryServer, client: Client) -> None:
    options = ProducerOptions(max_unacknowledged_bytes=10_000, linger=60)
    worst = 0
    with client.producer("t", options=options) as producer:
        for _ in range(200):
            producer.send(b"x" * 960)
            worst = max(worst, producer.unacknowledged_records)
    assert worst <= 10
    assert len(server.values("t")) == 200


def test_batches_are_filled_while_enough_of_them_are_on_their_way(server: MemoryServer, client: Client) -> None:
    server.answer_after = 0.01
    options = ProducerOptions(linger=0, max_in_flight_batches=1)
    with client.producer("t", options=options) as producer:
        for number in range(1000):
            producer.send(b"%d" % number, partition=number % 3)
            time.sleep(0.0001)
    assert len(server.batches) < 300
    assert [int(r.value) for r in server.topics["t"][1]] == list(range(1, 1000, 3))


def test_leaving_with_an_exception_sends_no_more(server: MemoryServer, client: Client) -> None:
    producer = client.producer("t", options=ProducerOptions(linger=60))

    def leave() -> None:
        with producer:
            producer.send(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        leave()
    assert producer.failed_records == 1
    assert server.values("t") == []


def test_a_topic_that_is_not_there_is_said_at_once(client: Client) -> None:
    with pytest.raises(ClientError) as failure:
        client.producer("nope")
    assert (failure.value.code, failure.value.reason) == ("NOT_FOUND", "TOPIC_NOT_FOUND")
    assert failure.value.metadata == {"topic": "nope"}


def test_a_callback_that_raises_leaves_nobody_waiting(
    server: MemoryServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(delivery: Delivery) -> None:
        raise RuntimeError("no")

    producer = client.producer("t", on_delivery=broken)
    with caplog.at_level("CRITICAL"):
        producer.send(b"x")
        producer.send(b"y", partition=1)
        with contextlib.suppress(ClientError):
            producer.flush(timeout=10)
        with pytest.raises(ClientError, match="stopped"):
            producer.send(b"z")
        producer.abort()
