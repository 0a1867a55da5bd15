"""The resuming consumer, against a server that breaks off."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from takhin.client import EARLIEST, LATEST, Client, ClientError, ConsumedRecord
from takhin.v1 import takhin_pb2 as pb
from tests.unit.client_fakes import MemoryServer


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    yield running
    running.stop()


@pytest.fixture
def client(server: MemoryServer) -> Iterator[Client]:
    server.add_topic("t")
    server.append("t", 0, *(pb.Record(value=str(number).encode(), timestamp=1000 + number) for number in range(10)))
    with Client(server.address, timeout=10) as connected:
        yield connected


def offsets(records: Iterator[ConsumedRecord]) -> list[int]:
    return [record.offset for record in records]


def test_it_ends_at_the_end_that_it_saw_when_it_began(server: MemoryServer, client: Client) -> None:
    consumer = client.consume("t", until_end=True)
    server.append("t", 0, pb.Record(value=b"later"))
    assert offsets(iter(consumer)) == list(range(10))
    assert consumer.next_offset == 10


def test_null_and_empty_are_told_apart(server: MemoryServer, client: Client) -> None:
    server.append("t", 0, pb.Record(timestamp=5), pb.Record(key=b"", value=b"", headers=[pb.RecordHeader(key="h")]))
    null, empty = list(client.consume("t", offset=10, until_end=True))
    assert null == ConsumedRecord("t", 0, 10, 5, None, None, ())
    assert (empty.key, empty.value, empty.headers) == (b"", b"", (("h", b""),))


def test_a_broken_connection_is_resumed_at_the_next_offset_each_record_once(
    server: MemoryServer, client: Client
) -> None:
    server.consume_script.extend([2, 0, 1])
    assert offsets(iter(client.consume("t", until_end=True))) == list(range(10))
    assert [request.offset for request in server.consume_requests] == [EARLIEST, 4, 4, 6]


def test_with_a_group_what_comes_twice_after_a_break_is_dropped(server: MemoryServer, client: Client) -> None:
    server.groups["g"] = {("t", 0): 3}
    server.consume_script.extend([2])
    assert offsets(iter(client.consume("t", group="g", until_end=True))) == list(range(3, 10))
    assert len(server.consume_requests) == 2


def test_the_bound_on_records_holds_over_a_break(server: MemoryServer, client: Client) -> None:
    server.consume_script.extend([2])
    assert offsets(iter(client.consume("t", max_records=5))) == list(range(5))
    assert [request.max_records for request in server.consume_requests] == [5, 1]


def test_latest_is_fixed_when_it_begins_so_that_a_break_loses_nothing(server: MemoryServer, client: Client) -> None:
    server.consume_script.extend([0])
    consumer = client.consume("t", offset=LATEST, max_records=1)
    server.append("t", 0, pb.Record(value=b"while it was away"))
    assert [record.value for record in consumer] == [b"while it was away"]


def test_other_failures_are_raised_and_not_tried_again(server: MemoryServer, client: Client) -> None:
    consumer = client.consume("t", offset=11)
    with pytest.raises(ClientError) as failure:
        next(iter(consumer))
    assert (failure.value.code, failure.value.reason) == ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE")
    assert len(server.consume_requests) == 1
    with pytest.raises(ClientError) as failure:
        client.consume("t", 7)
    assert failure.value.reason == "PARTITION_NOT_FOUND"


def test_it_gives_up_after_its_reconnect_timeout(server: MemoryServer, client: Client) -> None:
    server.consume_script.extend([0] * 1000)
    with pytest.raises(ClientError) as failure:
        list(client.consume("t", until_end=True, reconnect_timeout=0.3))
    assert failure.value.code == "UNAVAILABLE"


def test_closing_from_another_thread_ends_a_waiting_iteration(client: Client) -> None:
    consumer = client.consume("t", offset=LATEST)
    timer = threading.Timer(0.2, consumer.close)
    timer.start()
    assert list(consumer) == []
    timer.join()


def test_an_iteration_that_was_left_goes_on_where_it_was(client: Client) -> None:
    consumer = client.consume("t", until_end=True)
    for record in consumer:
        if record.offset == 4:
            break
    assert consumer.next_offset == 5
    assert offsets(iter(consumer)) == [5, 6, 7, 8, 9]


def test_chunks_give_what_arrived_together(server: MemoryServer, client: Client) -> None:
    server.records_in_response = 4
    sizes = [len(chunk) for chunk in client.consume("t", until_end=True).chunks()]
    assert sizes == [4, 4, 2]
