"""What was acknowledged is there after a stop, a kill and another start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from takhin.v1 import takhin_pb2 as pb
from tests.integration.records import create_topic, end_offset, produce, read_all
from tests.integration.server_process import ServerProcess, wait_until


class Producers:
    """Threads that produce until their call fails, and remember what was acknowledged."""

    def __init__(self, server: ServerProcess, topic: str, threads: int = 4) -> None:
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        self.errors: list[grpc.StatusCode] = []
        self._lock = threading.Lock()
        self._server, self._topic = server, topic
        self._threads = [threading.Thread(target=self._produce, args=(number,)) for number in range(threads)]

    def _produce(self, number: int) -> None:
        # Half of them ask for stable storage, half for the operating system only.
        acks = -1 if number % 2 == 0 else 1
        with self._server.client() as client:
            sequence = 0
            while True:
                values = [f"{number}:{sequence + n}".encode() * 20 for n in range(3)]
                try:
                    base = produce(client, self._topic, values, partition=number % 2, acks=acks)
                except grpc.RpcError as error:
                    with self._lock:
                        self.errors.append(error.code())
                    return
                with self._lock:
                    self.acknowledged.update(
                        {(number % 2, base + n): value for n, value in enumerate(values)},
                    )
                sequence += 3

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            for thread in self._threads:
                thread.join(60)
                assert not thread.is_alive()


def check_all_there(client: object, topic: str, acknowledged: dict[tuple[int, int], bytes]) -> None:
    for partition in (0, 1):
        records = read_all(client, topic, partition)
        assert [record.offset for record in records] == list(range(len(records))), "offsets are not dense"
        stored = {(partition, record.offset): record.value for record in records}
        expected = {place: value for place, value in acknowledged.items() if place[0] == partition}
        assert {place: stored.get(place) for place in expected} == expected


def test_everything_acknowledged_is_there_after_kill_9(server: ServerProcess) -> None:
    acknowledged: dict[tuple[int, int], bytes] = {}
    with server.client() as client:
        create_topic(client, "t", partitions=2)
        for _ in range(3):
            producers = Producers(server, "t")
            with producers.running():
                wait_until(lambda p=producers: len(p.acknowledged) > 300, 30, "acknowledgements")  # type: ignore[misc]
                server.kill()
            assert acknowledged.keys().isdisjoint(producers.acknowledged), "an offset was given twice"
            acknowledged.update(producers.acknowledged)
            server.start()
            check_all_there(client, "t", acknowledged)


def test_a_kill_in_the_middle_of_recovery_loses_nothing(server: ServerProcess) -> None:
    with server.client() as client:
        create_topic(client, "t", partitions=2)
        producers = Producers(server, "t")
        with producers.running():
            wait_until(lambda: len(producers.acknowledged) > 300, 30, "acknowledgements")
            server.kill()
        for delay_s in (0.2, 0.35, 0.5, 0.7):
            server.launch()
            time.sleep(delay_s)
            server.kill()
        server.start()
        check_all_there(client, "t", producers.acknowledged)


def test_sigterm_under_load_loses_nothing_and_ends_with_0(server: ServerProcess) -> None:
    with server.client() as client:
        create_topic(client, "t", partitions=2)
        producers = Producers(server, "t", threads=8)
        with producers.running():
            wait_until(lambda: len(producers.acknowledged) > 300, 30, "acknowledgements")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10
        assert set(producers.errors) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        server.start()
        check_all_there(client, "t", producers.acknowledged)


def test_at_a_stop_health_turns_and_streams_end_with_unavailable(server: ServerProcess) -> None:
    with server.channel() as channel, server.client() as client:
        create_topic(client, "t")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        tail = client.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t", offset=-1), timeout=60)
        produce(client, "t", [b"x"])
        assert next(tail).records[0].value == b"x"
        assert server.stop() == 0
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(tail)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        watch.cancel()


def test_sigint_stops_as_sigterm_does(server: ServerProcess) -> None:
    assert server.process is not None
    server.process.send_signal(2)
    assert server.process.wait(10) == 0


def test_a_restart_keeps_topics_configs_commits_and_records(server: ServerProcess) -> None:
    with server.client() as client:
        create_topic(client, "kept", partitions=3, configs={"segment.bytes": "4096", "retention.ms": "-1"})
        create_topic(client, "gone")
        client.DeleteTopic(pb.DeleteTopicRequest(name="gone"), timeout=10)
        values = [b"%d" % n * 100 for n in range(200)]
        for start in range(0, len(values), 10):
            produce(client, "kept", values[start : start + 10], partition=1)
        place = pb.TopicPartitionOffset(topic="kept", partition=1, offset=42)
        client.CommitOffset(pb.CommitOffsetRequest(group_id="g", offsets=[place]), timeout=10)
        client.DeleteRecords(
            pb.DeleteRecordsRequest(offsets=[pb.TopicPartitionOffset(topic="kept", partition=1, offset=7)]), timeout=10
        )
        server.restart()
        assert list(client.ListTopics(pb.ListTopicsRequest(), timeout=10).topics) == ["kept"]
        configs = client.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic="kept"), timeout=10).configs
        assert {c.name: c.value for c in configs if c.source == "topic"} == {
            "segment.bytes": "4096",
            "retention.ms": "-1",
        }
        fetched = client.FetchCommittedOffsets(pb.FetchCommittedOffsetsRequest(group_id="g"), timeout=10)
        assert list(fetched.offsets) == [place]
        records = read_all(client, "kept", 1)
        assert [(record.offset, record.value) for record in records] == list(enumerate(values))[7:]
        assert produce(client, "kept", [b"next"], partition=1) == 200


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_repeat_of_an_idempotent_produce_is_known_after_a_restart(end: str, server: ServerProcess) -> None:
    with server.client() as client:
        create_topic(client, "t")
        producer = client.InitProducerId(pb.InitProducerIdRequest(), timeout=10)
        request = pb.ProduceBatchRequest(
            topic="t",
            records=[pb.Record(value=b"once")],
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
        )
        first = client.ProduceBatch(request, timeout=10)
        getattr(server, end)()
        server.start()
        again = client.ProduceBatch(request, timeout=10)
        assert (again.base_offset, again.last_offset) == (first.base_offset, first.last_offset)
        assert end_offset(client, "t") == 1


def test_after_a_kill_it_serves_again_in_under_two_seconds(server: ServerProcess) -> None:
    with server.client() as client:
        create_topic(client, "t", partitions=10)
        for partition in range(10):
            produce(client, "t", [b"x" * 1000] * 1000, partition)
    times = []
    for _ in range(3):
        server.kill()
        began = time.monotonic()
        server.start()
        times.append(time.monotonic() - began)
    # The machine may be busy: once is enough to show that nothing needs longer.
    assert min(times) < 2.0


def test_a_second_server_on_the_same_directory_gives_up_at_once(
    make_server: Callable[..., ServerProcess], server: ServerProcess
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(server.data_dir.rglob("*")) if path.suffix != ".db-shm"}
    times = []
    for attempt in range(5):
        second = make_server({"data_dir": str(server.data_dir)}, name=f"second-{attempt}")
        began = time.monotonic()
        code = second.launch().wait(20)
        times.append(time.monotonic() - began)
        assert code not in (0, 1), "a code of its own, so that a script can tell"
        assert str(server.data_dir) in second.log_text()
        assert "Traceback" not in second.log_text()
    # The machine may be busy: once is enough to show that it does not wait for anything.
    assert min(times) < 1.0
    after = {path: path.stat().st_mtime_ns for path in sorted(server.data_dir.rglob("*")) if path.suffix != ".db-shm"}
    assert after == before
    with server.client() as client:
        create_topic(client, "still-serving")


def test_a_port_in_use_is_said_and_ends_the_start(
    make_server: Callable[..., ServerProcess], server: ServerProcess
) -> None:
    second = make_server({"grpc": {"addr": server.address}}, name="second")
    assert second.launch().wait(20) != 0
    assert server.address in second.log_text()
    assert "Traceback" not in second.log_text()
