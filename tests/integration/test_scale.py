"""Many of everything: consumers, partitions, callers; and nothing to do costs nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.integration.records import create_topic, end_offset, produce, read_all
from tests.integration.server_process import ServerProcess, wait_until

#: Each on a connection of its own, although the address is the same.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def tail(stub: takhin_pb2_grpc.TakhinServiceAsyncStub, count: int, ready: asyncio.Event | None) -> list[int]:
    """The offsets of the first ``count`` records; ``ready`` is set at the first."""
    call = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", offset=-1), timeout=100)
    offsets: list[int] = []
    async for response in call:
        offsets.extend(record.offset for record in response.records)
        if ready is not None:
            ready.set()
        if len(offsets) >= count:
            call.cancel()
            break
    return offsets


def test_1000_tailing_consumers_each_get_each_record(server: ServerProcess) -> None:
    consumers, connections, rounds = 1000, 10, 20
    with server.client() as client:
        create_topic(client, "t")
        produce(client, "t", [b"the first tells each consumer that it is there"])

        async def scenario() -> list[list[int]]:
            channels = [grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) for _ in range(connections)]
            stubs = [takhin_pb2_grpc.TakhinServiceStub(channel) for channel in channels]
            ready = [asyncio.Event() for _ in range(consumers)]
            tails = [asyncio.create_task(tail(stubs[n % connections], rounds + 1, ready[n])) for n in range(consumers)]
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in ready)), 60)
            for n in range(rounds):
                await asyncio.to_thread(produce, client, "t", [b"%d" % n])
            results = await asyncio.wait_for(asyncio.gather(*tails), 60)
            for channel in channels:
                await channel.close()
            return results

        results = asyncio.run(scenario())
    assert len(results) == consumers
    assert all(offsets == list(range(rounds + 1)) for offsets in results)


def test_200_concurrent_callers_are_all_answered(server: ServerProcess) -> None:
    callers, calls = 200, 20
    with server.client() as client:
        create_topic(client, "t")
    channels = [server.channel() for _ in range(20)]
    barrier = threading.Barrier(callers)

    def caller(number: int) -> list[int]:
        stub = takhin_pb2_grpc.TakhinServiceStub(channels[number % len(channels)])
        barrier.wait(60)
        return [produce(stub, "t", [f"{number}:{n}".encode()]) for n in range(calls)]

    with ThreadPoolExecutor(callers) as pool:
        offsets = list(pool.map(caller, range(callers)))
    assert sorted(offset for each in offsets for offset in each) == list(range(callers * calls))
    assert all(each == sorted(each) for each in offsets)
    stored = {record.offset: record.value for record in read_all(takhin_pb2_grpc.TakhinServiceStub(channels[0]), "t")}
    for number, each in enumerate(offsets):
        assert [stored[offset] for offset in each] == [f"{number}:{n}".encode() for n in range(calls)]
    for channel in channels:
        channel.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_10000_partitions_are_opened_and_listed_within_20000_descriptors(
    make_server: Callable[..., ServerProcess],
) -> None:
    topics, partitions = 20, 500
    server = make_server(descriptors=20_000).start()
    names = [f"topic-{n:03}" for n in range(topics)]
    places = [(name, partition) for name in names for partition in range(partitions)]

    def fill(client: takhin_pb2_grpc.TakhinServiceStub) -> None:
        requests = (
            pb.ProduceMessageRequest(topic=name, partition=partition, record=pb.Record(value=b"x"), required_acks=1)
            for name, partition in places
        )
        answers = list(client.ProduceMessageStream(requests, timeout=200))
        assert [answer.error for answer in answers if answer.error] == []
        assert [(answer.topic, answer.partition) for answer in answers] == places

    with server.client() as client:
        for name in names:
            create_topic(client, name, partitions)
        fill(client)
        server.stop(60)
        server.start(timeout_s=60)
        fill(client)

        def all_readable() -> bool:
            # Nobody waits for the flushes of records at acks 1: they become readable soon, not at once.
            listed = client.DescribeTopics(pb.DescribeTopicsRequest(), timeout=60).topics
            assert [topic.name for topic in listed] == names
            assert all(topic.num_partitions == len(topic.partitions) == partitions for topic in listed)
            return all(part.end_offset == 2 for topic in listed for part in topic.partitions.values())

        wait_until(all_readable, 60, "all records to be readable")
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 20_000  # type: ignore[union-attr]
        assert end_offset(client, names[-1], partitions - 1) == 2


@pytest.mark.slow
def test_an_idle_server_uses_less_than_a_hundredth_of_a_core(server: ServerProcess) -> None:
    """1,000 partitions, each with records, and 100 consumers that wait."""
    with server.client() as client:
        create_topic(client, "t", partitions=1000)
        for partition in range(1000):
            produce(client, "t", [b"x"], partition, acks=1)
        tails = [
            client.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", partition=n, offset=-1)) for n in range(100)
        ]
        for call in tails:
            assert next(call).records[0].value == b"x"
        time.sleep(8)  # what the last calls left to be flushed and noted
        before, began = cpu_seconds(server), time.monotonic()
        time.sleep(15)
        share = (cpu_seconds(server) - before) / (time.monotonic() - began)
        for call in tails:
            call.cancel()
    assert share < 0.01


def cpu_seconds(server: ServerProcess) -> float:
    """User and system time of the process so far."""
    assert server.process is not None
    with open(f"/proc/{server.process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
