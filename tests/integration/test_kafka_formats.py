"""The files are Kafka's: independent readers read them, and what Kafka's library wrote is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka.record import MemoryRecords

from takhin.v1 import takhin_pb2 as pb
from tests.integration.records import FOR_EVER, create_topic, end_offset, produce, read_all
from tests.integration.server_process import ServerProcess
from tests.integration.toolchains import java_program, run_client

FIRST_TIMESTAMP = 1_700_000_000_000
BATCHES, RECORDS_IN_A_BATCH = 120, 7
#: Small, so that there are several segments and many index entries.
CONFIGS = {**FOR_EVER, "segment.bytes": "6000", "index.interval.bytes": "512"}


def record(n: int) -> pb.Record:
    """As clients/java's WriteSegments makes them."""
    made = pb.Record(timestamp=FIRST_TIMESTAMP + n)
    if n % 5:
        made.key = f"key-{n}".encode()
    if n % 7:
        made.value = f"value-{n}".encode()
    if n % 3 == 0:
        made.headers.add(key="n", value=str(n).encode())
    return made


def facts(made: pb.Record) -> tuple[bytes | None, bytes | None, int, list[tuple[str, bytes]]]:
    return (
        made.key if made.HasField("key") else None,
        made.value if made.HasField("value") else None,
        made.timestamp,
        [(header.key, header.value) for header in made.headers],
    )


@pytest.fixture
def written(server: ServerProcess) -> Path:
    """A partition directory with several segments, of a server that has stopped."""
    with server.client() as client:
        create_topic(client, "t", configs=CONFIGS)
        for batch in range(BATCHES):
            first = batch * RECORDS_IN_A_BATCH
            records = [record(n) for n in range(first, first + RECORDS_IN_A_BATCH)]
            client.ProduceBatch(pb.ProduceBatchRequest(topic="t", records=records, required_acks=1), timeout=10)
    assert server.stop() == 0
    directory = server.partition_dir("t")
    assert len(list(directory.glob("*.log"))) > 2
    return directory


def test_kafka_pythons_reader_reads_the_segments(written: Path) -> None:
    n = 0
    for segment in sorted(written.glob("*.log")):
        data = segment.read_bytes()
        assert int(segment.stem) == n, "a segment is named after its first offset"
        batches = MemoryRecords(data)
        while (batch := batches.next_batch()) is not None:
            assert batch.validate_crc()
            assert batch.magic == 2
            assert batch.base_offset == n
            for read in batch:
                expected = record(n)
                assert read.offset == n
                assert (read.key, read.value, read.timestamp, list(read.headers)) == facts(expected)
                n += 1
    assert n == BATCHES * RECORDS_IN_A_BATCH


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kafkas_dump_log_reads_the_segments_and_agrees_with_the_indexes(written: Path) -> None:
    dump = java_program("kafka.tools.DumpLogSegments")
    logs = sorted(written.glob("*.log"))
    shown = run_client([*dump, "--deep-iteration", "--print-data-log", "--files", ",".join(map(str, logs))])
    assert shown.count("isvalid: true") == BATCHES
    assert "isvalid: false" not in shown
    assert shown.count("| offset: ") == BATCHES * RECORDS_IN_A_BATCH
    for n in (1, 8, 11, BATCHES * RECORDS_IN_A_BATCH - 1):
        lines = [line for line in shown.splitlines() if f"| offset: {n} " in line]
        assert len(lines) == 1
        assert f"CreateTime: {FIRST_TIMESTAMP + n} " in lines[0]
        if n % 5:
            assert f"key: key-{n}" in lines[0]
        if n % 7:
            assert f"payload: value-{n}" in lines[0]

    indexes = sorted([*written.glob("*.index"), *written.glob("*.timeindex")])
    assert len(indexes) == 2 * len(logs)
    assert any(index.stat().st_size > 8 for index in indexes), "the indexes hold something"
    files = ",".join(map(str, indexes))
    sane = run_client([*dump, "--index-sanity-check", "--files", files])
    assert sane.count("passed sanity check") == len(indexes)
    for mode in ([], ["--verify-index-only"]):
        verified = run_client([*dump, *mode, "--files", files])
        for complaint in ("Mismatches", "mismatch", "out of order", "not found", "Found", "Exception"):
            assert complaint not in verified, verified


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_segments_that_kafka_wrote_are_served(make_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    foreign = tmp_path / "kafka"
    foreign.mkdir()
    printed = run_client([*java_program("takhin.it.WriteSegments"), str(foreign), "3", "20", "10"])
    end = int(printed)
    assert end == 600

    server = make_server().start()
    with server.client() as client:
        create_topic(client, "t", configs=FOR_EVER)
        assert server.stop() == 0
        for leftover in server.partition_dir("t").iterdir():
            leftover.unlink()
        for segment in foreign.glob("*.log"):
            shutil.copy(segment, server.partition_dir("t"))
        server.start()

        assert end_offset(client, "t") == end
        records = read_all(client, "t")
        assert [read.offset for read in records] == list(range(end))
        assert [facts(read) for read in records] == [facts(record(n)) for n in range(end)]
        query = pb.ListOffsetsRequest.Query(topic="t", timestamp=FIRST_TIMESTAMP + 400)
        answer = client.ListOffsets(pb.ListOffsetsRequest(queries=[query]), timeout=10)
        assert answer.results[0].offset == 400
        assert produce(client, "t", [b"ours"]) == end
        assert read_all(client, "t", offset=end)[0].value == b"ours"
