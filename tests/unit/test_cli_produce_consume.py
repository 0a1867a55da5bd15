"""produce and consume, against a server in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from takhin.cli.main import cli
from takhin.client import Client, ConsumedRecord, partition_for_key
from takhin.v1 import takhin_pb2 as pb
from tests.unit.client_fakes import MemoryServer

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    running.add_topic("t")
    yield running
    running.stop()


@pytest.fixture
def run(server: MemoryServer) -> Run:
    def invoke(*arguments: str, stdin: bytes = b"", code: int = 0) -> Result:
        result = CliRunner().invoke(cli, list(arguments), input=stdin, env={"TAKHIN_ADDR": server.address})
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_lines_from_stdin_become_records(server: MemoryServer, run: Run) -> None:
    result = run("produce", "t", stdin=b"a\r\n\xff\n\nlast")
    assert server.values("t") == [b"a\r", b"\xff", b"", b"last"]
    assert result.stdout == ""
    assert result.stderr.startswith("4 records, 7 B in ")


def test_a_file_is_read_and_its_keys_choose_the_partition(server: MemoryServer, run: Run, tmp_path: Path) -> None:
    server.add_topic("keyed", 3)
    file = tmp_path / "in"
    file.write_bytes(b"".join(b"k%d\tv%d\n" % (n % 7, n) for n in range(100)))
    run("produce", "keyed", "--file", str(file), "--key-separator", "\\t", "--header", "from=test")
    for partition, log in enumerate(server.topics["keyed"]):
        for record in log:
            assert partition_for_key(record.key, 3) == partition
            assert [(h.key, h.value) for h in record.headers] == [("from", b"test")]
    assert sum(len(log) for log in server.topics["keyed"]) == 100


def test_the_options_of_a_batch_reach_the_server(server: MemoryServer, run: Run) -> None:
    run("produce", "t", "--acks", "1", "--batch-records", "2", "--partition", "0", stdin=b"1\n2\n3\n")
    assert [len(batch.records) for batch in server.batches] == [2, 1]
    assert [batch.required_acks for batch in server.batches] == [1, 1]
    run("produce", "t", stdin=b"1\n")
    assert not server.batches[-1].HasField("required_acks")


def test_the_outcome_as_json(run: Run) -> None:
    outcome = json.loads(run("produce", "t", "--json", stdin=b"ab\n").stdout)
    assert (outcome["records"], outcome["bytes"], outcome["not_acknowledged"]) == (1, 2, 0)


def test_records_that_were_not_acknowledged_are_counted(server: MemoryServer, run: Run) -> None:
    server.batch_script.extend([None, (8, "disk full")])
    result = run("produce", "t", "--batch-records", "2", stdin=b"1\n2\n3\n4\n5\n", code=5)
    assert result.stderr.splitlines()[-1] == (
        "takhin: error: 2 of 5 records not acknowledged: disk full (RESOURCE_EXHAUSTED)"
    )


def test_a_broken_connection_fails_or_is_ridden_out(server: MemoryServer, run: Run) -> None:
    server.batch_script.extend([None, "break"])
    result = run("produce", "t", "--batch-records", "1", stdin=b"1\n2\n", code=5)
    assert "1 of 2 records not acknowledged" in result.stderr
    server.batch_script.extend([None, "write and break"])
    run("produce", "t", "--batch-records", "1", "--idempotent", stdin=b"3\n4\n5\n")
    assert server.values("t") == [b"1", b"3", b"4", b"5"]


def test_input_that_is_wrong_ends_it_after_what_was_right(server: MemoryServer, run: Run) -> None:
    result = run("produce", "t", "--format", "jsonl", stdin=b'{"value": "a"}\nrubbish\n{"value": "b"}\n', code=1)
    assert "line 2" in result.stderr
    assert "sent before it: 1 record" in result.stderr
    assert server.values("t") == [b"a"]


def test_a_file_or_topic_that_is_not_there(run: Run) -> None:
    assert "No such file" in run("produce", "t", "--file", "/does/not/exist", code=3).stderr
    assert "TOPIC_NOT_FOUND" in run("produce", "nope", stdin=b"x\n", code=3).stderr
    assert "TOPIC_NOT_FOUND" in run("consume", "nope", code=3).stderr
    assert "no partition 4" in run("consume", "t", "--partition", "4", code=3).stderr


def test_a_key_separator_goes_with_lines_only(run: Run) -> None:
    run("produce", "t", "--format", "jsonl", "--key-separator", ":", code=2)
    run("produce", "t", "--key-separator", "", code=2)


def fill(server: MemoryServer, partitions: int = 2, count: int = 5) -> None:
    server.add_topic("t", partitions)
    for partition in range(partitions):
        server.append(
            "t", partition, *(pb.Record(value=b"%d-%d" % (partition, n), timestamp=1000 + n) for n in range(count))
        )


def test_all_partitions_are_read_to_their_end(server: MemoryServer, run: Run) -> None:
    fill(server)
    lines = run("consume", "t").stdout.split()
    assert lines == [f"{p}-{n}" for p in range(2) for n in range(5)]
    assert run("consume", "t", "-p", "1", "-n", "2").stdout.split() == ["1-0", "1-1"]
    assert run("consume", "t", "-n", "7").stdout.split() == lines[:7]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", 5),
        ("latest", 0),
        ("3", 2),
        ("1004ms", 1),
        ("9999ms", 0),
        ("-1h", 0),
        ("1970-01-01T00:00:01.002Z", 3),
    ],
)
def test_reading_starts_where_it_is_told(server: MemoryServer, run: Run, start: str, expected: int) -> None:
    fill(server, partitions=1)
    assert len(run("consume", "t", "--from", start).stdout.split()) == expected


def test_an_offset_beyond_the_end_is_an_error(server: MemoryServer, run: Run) -> None:
    fill(server, partitions=1)
    assert "OUT_OF_RANGE/OFFSET_OUT_OF_RANGE" in run("consume", "t", "--from", "6", code=3).stderr


def test_a_group_goes_on_where_it_committed(server: MemoryServer, run: Run) -> None:
    fill(server)
    assert len(run("consume", "t", "--group", "g", "--commit", "-n", "7").stdout.split()) == 7
    assert server.groups["g"] == {("t", 0): 5, ("t", 1): 2}
    assert run("consume", "t", "--group", "g").stdout.split() == ["1-2", "1-3", "1-4"]
    assert server.groups["g"] == {("t", 0): 5, ("t", 1): 2}, "without --commit nothing is committed"
    run("consume", "t", "--commit", code=2)


def test_what_could_not_be_written_is_not_committed(
    server: MemoryServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(server, partitions=1)
    from takhin.cli import consume

    written = consume._Writer.write

    def breaks(self: consume._Writer, records: list[object]) -> bool:
        if records[0].offset >= 2:  # type: ignore[attr-defined]
            raise BrokenPipeError
        return written(self, records)  # type: ignore[arg-type]

    monkeypatch.setattr(consume._Writer, "write", breaks)
    assert run("consume", "t", "--group", "g", "--commit").stdout.split() == ["0-0", "0-1"]
    assert server.groups["g"] == {("t", 0): 2}


def test_records_count_as_written_only_once_they_are_flushed() -> None:
    from takhin.cli import consume

    done: list[str] = []

    class Out(io.BytesIO):
        def write(self, data: object) -> int:
            done.append("write")
            return 0

        def flush(self) -> None:
            done.append("flush")

    class Committer(consume._Committer):
        def written(self, partition: int, next_offset: int) -> None:
            done.append(f"next is {next_offset}")

    with Client("127.0.0.1:1") as client:
        writer = consume._Writer(Out(), lambda records: b"x", Committer(client, "g", "t"), 2)
        records = [ConsumedRecord("t", 0, offset, 0, None, b"", ()) for offset in range(3)]
        assert not writer.write(records)
    assert done[:3] == ["write", "flush", "next is 2"]


def test_following_ends_after_the_records_it_was_asked_for(server: MemoryServer, run: Run) -> None:
    fill(server)
    lines = run("consume", "t", "--follow", "--from", "earliest", "-n", "10", "-g", "g", "--commit").stdout.split()
    assert sorted(lines) == [f"{p}-{n}" for p in range(2) for n in range(5)]
    assert server.groups["g"] == {("t", 0): 5, ("t", 1): 5}


def test_following_raises_what_one_partition_raises(server: MemoryServer, run: Run) -> None:
    fill(server)
    assert "OUT_OF_RANGE" in run("consume", "t", "--follow", "--from", "99", code=3).stderr


def test_json_goes_through_a_pipe_unchanged(server: MemoryServer, run: Run) -> None:
    record = pb.Record(key=b"\xfe", value=b"\xff\n", timestamp=77, headers=[pb.RecordHeader(key="h", value=b"\xfd")])
    server.append("t", 0, record, pb.Record(timestamp=78))
    server.add_topic("copy")
    run("produce", "copy", "--format", "jsonl", stdin=run("consume", "t", "--format", "json").stdout_bytes)
    assert list(server.topics["copy"][0]) == list(server.topics["t"][0])
