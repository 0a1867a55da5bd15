"""takhin bench, against a server in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from takhin.cli.bench_histogram import Histogram
from takhin.cli.bench_load import Clock, Pace, Shape, prepared_batch
from takhin.cli.main import cli
from takhin.v1 import takhin_pb2 as pb
from tests.unit.client_fakes import MemoryServer

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    running.add_topic("t", 2)
    yield running
    running.stop()


@pytest.fixture
def run(server: MemoryServer) -> Run:
    def invoke(*arguments: str, code: int = 0) -> Result:
        times = [] if "--help" in arguments else ["--duration", "0.4", "--warmup", "0"]
        result = CliRunner().invoke(cli, ["bench", *arguments, *times], env={"TAKHIN_ADDR": server.address})
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_what_is_produced_is_counted_and_timed(server: MemoryServer, run: Run) -> None:
    outcome = json.loads(run("produce", "t", "--batch", "5", "--record-size", "20", "--json").stdout)
    written = sum(len(partition) for partition in server.topics["t"])
    # Answers that came when the time was up belong to it too.
    assert 0 < outcome["records"] <= written
    assert outcome["records"] % 5 == 0
    assert outcome["bytes"] == 20 * outcome["records"]
    assert outcome["records_per_second"] == pytest.approx(outcome["records"] / outcome["seconds"], rel=0.02)
    latency = outcome["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert all(len(record.value) == 20 for partition in server.topics["t"] for record in partition)


def test_acks_and_partitions_reach_the_server_in_turn(server: MemoryServer, run: Run) -> None:
    run("produce", "t", "--batch", "1", "--acks", "1")
    assert {batch.required_acks for batch in server.batches} == {1}
    assert [batch.partition for batch in server.batches[:4]] == [0, 1, 0, 1]


def test_a_rate_is_kept(run: Run) -> None:
    outcome = json.loads(run("produce", "t", "--batch", "2", "--rate", "100", "--json").stdout)
    assert 20 <= outcome["records"] <= 44


def test_a_topic_that_was_created_is_deleted_unless_it_is_to_be_kept(server: MemoryServer, run: Run) -> None:
    run("produce", "new", "--partitions", "3", "--batch", "1")
    assert "new" not in server.topics
    run("produce", "new", "--partitions", "3", "--batch", "1", "--keep")
    assert len(server.topics["new"]) == 3
    run("produce", "t", "--batch", "1")
    assert "t" in server.topics


def test_a_refused_request_ends_the_run_with_its_exit_code(server: MemoryServer, run: Run) -> None:
    server.batch_script.extend([None, (8, "disk full")])
    result = run("produce", "new", code=5)
    assert "disk full" in result.stderr
    assert "new" not in server.topics


def test_all_partitions_are_read_to_their_ends(server: MemoryServer, run: Run) -> None:
    for partition in (0, 1):
        server.append("t", partition, *(pb.Record(value=b"abc") for _ in range(7)))
    result = run("consume", "t")
    assert result.stdout.startswith("14 records, 42 B in ")
    assert "TOPIC_NOT_FOUND" in run("consume", "missing", code=3).stderr


def test_records_travel_from_one_end_to_the_other(server: MemoryServer, run: Run) -> None:
    server.append("t", 0, pb.Record(value=b"from somebody else"))
    outcome = json.loads(run("e2e", "t", "--rate", "200", "--record-size", "50", "--json").stdout)
    assert outcome["records"] == pytest.approx(80, abs=30)
    assert 0 < outcome["latency_ms"]["max"] < 5000
    assert all(len(record.value) == 50 for record in server.topics["t"][0][1:])


def test_percentiles_are_at_most_a_hundredth_above_the_truth() -> None:
    histogram = Histogram()
    for us in range(1, 100_001):
        histogram.add(us / 1e6)
    for percent in (1, 50, 90, 99, 99.9):
        truth = percent * 1000 / 1000
        assert truth <= histogram.percentile_ms(percent) <= truth * 1.01
    assert histogram.percentile_ms(100) == 100.0
    other = Histogram()
    other.add(1.0, times=100_000)
    histogram.merge(other)
    assert histogram.percentile_ms(75) == 1000.0
    assert histogram.summary_ms()["max"] == 1000.0
    assert Histogram().summary_ms()["p99"] == 0.0


def test_a_late_request_keeps_the_time_at_which_it_was_due() -> None:
    clock = Clock(0, 10)
    pace = Pace(100, clock)
    assert pace.next_due() == clock.begun
    time.sleep(0.05)
    assert pace.next_due() == pytest.approx(clock.begun + 0.01)
    clock.stopped = True
    assert pace.next_due() is None


def test_the_prepared_request_is_a_batch_of_the_shape() -> None:
    shape = Shape("t", 4, 100, 3, -1, 1, 1, 0.0)
    request = pb.ProduceBatchRequest.FromString(prepared_batch(shape, 2, b"mark"))
    assert (request.topic, request.partition, request.required_acks) == ("t", 2, -1)
    assert [len(record.value) for record in request.records] == [100, 100, 100]
    assert all(record.value.startswith(b"mark") for record in request.records)
