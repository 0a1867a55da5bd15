"""The commands as processes of their own, against the real server."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takhin.client import Client, ClientError, ProducerOptions

from .server_process import REPOSITORY, ServerProcess, wait_until


class Commands:
    """Runs ``takhin`` against one server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.environment = {**os.environ, "TAKHIN_ADDR": server.address}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "takhin", *arguments], cwd=REPOSITORY, env=self.environment, **options
        )

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "takhin", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def takhin(server: ServerProcess) -> Commands:
    return Commands(server)


@pytest.fixture
def shared(shared_server: ServerProcess) -> Commands:
    return Commands(shared_server)


def test_the_tour_a_new_user_takes(takhin: Commands, tmp_path: Path) -> None:
    lines = [b"line %05d \xff\r" % n for n in range(20_000)]
    log = tmp_path / "app.log"
    log.write_bytes(b"\n".join(lines))
    takhin("topic", "create", "logs", "--partitions", "3", "--config", "retention.ms=-1")
    done = takhin("produce", "logs", "--file", str(log))
    assert done.stderr.startswith(b"20000 records, ")
    assert sorted(takhin("consume", "logs").stdout.split(b"\n")[:-1]) == lines
    first = takhin("consume", "logs", "--group", "g", "--commit", "--max-records", "8000").stdout.split(b"\n")[:-1]
    takhin.server.restart()
    rest = takhin("consume", "logs", "--group", "g", "--commit").stdout.split(b"\n")[:-1]
    assert sorted(first + rest) == lines
    assert takhin("consume", "logs", "--group", "g").stdout == b""
    assert sum(o["lag"] for o in takhin.json("group", "describe", "g")["offsets"]) == 0
    assert takhin.json("health")["status"] == "healthy"
    assert takhin.server.stop() == 0
    takhin("health", code=5)
    report = json.loads(takhin("log", "verify", str(takhin.server.data_dir), "--json").stdout)
    assert report["ok"]
    assert report["unknown"] == []
    assert sum(p["records"] for p in report["partitions"]) == 20_000
    assert [f for p in report["partitions"] for f in p["findings"]] == []


def test_json_keeps_keys_headers_times_and_bytes(shared: Commands) -> None:
    records = [
        {"key": "k", "value": "v", "headers": {"a": "1"}, "timestamp": 1_700_000_000_000},
        {"key": None, "value": None, "timestamp": 1_700_000_000_001},
        {
            "key_base64": base64.b64encode(b"\xff").decode(),
            "value_base64": base64.b64encode(b"\x00\xfe").decode(),
            "timestamp": 1_700_000_000_002,
        },
    ]
    shared("topic", "create", "json")
    shared("produce", "json", "--format", "jsonl", stdin="\n".join(map(json.dumps, records)).encode())
    found = [json.loads(line) for line in shared("consume", "json", "--format", "json").stdout.splitlines()]
    for offset, (record, wanted) in enumerate(zip(found, records, strict=True)):
        assert record == {"topic": "json", "partition": 0, "offset": offset, **wanted}


def test_length_prefixed_goes_round(shared: Commands) -> None:
    source = b"\x00\x00\x00\x03a\nb" + b"\x00\x00\x00\x00" + b"\xff\xff\xff\xff" + b"\x00\x01\x00\x00" + b"z" * 65536
    shared("topic", "create", "blobs")
    shared("produce", "blobs", "--format", "length-prefixed", stdin=source)
    assert shared("consume", "blobs", "--format", "length-prefixed").stdout == source


def test_keys_go_where_the_server_would_put_them(shared: Commands) -> None:
    shared("topic", "create", "keyed", "--partitions", "7")
    keys = [f"key-{n}".encode() for n in range(60)]
    with Client(shared.server.address) as client:
        by_server = {key: client.produce("keyed", b"", key=key).partition for key in keys}
    shared("produce", "keyed", "--key-separator", ":", stdin=b"".join(key + b":v\n" for key in keys))
    for line in shared("consume", "keyed", "--format", "json").stdout.splitlines():
        record = json.loads(line)
        assert record["partition"] == by_server[record["key"].encode()]


def test_topics_are_altered_and_deleted(shared: Commands) -> None:
    shared("topic", "create", "changing")
    shared("topic", "create", "changing", code=4)
    shared("topic", "create", "changing", "--if-not-exists")
    shared("topic", "alter", "changing", "--set", "retention.ms=1000000", "--partitions", "2")
    (topic,) = shared.json("topic", "describe", "changing")
    assert len(topic["partitions"]) == 2
    assert topic["configs"]["retention.ms"] == {"value": "1000000", "source": "topic"}
    shared("topic", "alter", "changing", "--unset", "retention.ms")
    assert shared.json("topic", "describe", "changing")[0]["configs"]["retention.ms"]["source"] != "topic"
    failed = shared("topic", "alter", "changing", "--set", "no.such=1", code=1)
    assert b"INVALID_ARGUMENT/INVALID_TOPIC_CONFIG" in failed.stderr
    assert b"INVALID_ARGUMENT/INVALID_TOPIC_NAME" in shared("topic", "create", "../x", code=1).stderr
    shared("topic", "delete", "changing", "--yes")
    assert "changing" not in shared.json("topic", "list")
    assert b"NOT_FOUND/TOPIC_NOT_FOUND" in shared("topic", "delete", "changing", "--yes", code=3).stderr


def test_a_group_is_reset_by_time_and_to_the_ends(shared: Commands) -> None:
    shared("topic", "create", "timed")
    records = "\n".join(json.dumps({"value": str(n), "timestamp": 1_700_000_000_000 + n}) for n in range(10))
    shared("produce", "timed", "--format", "jsonl", stdin=records.encode())
    shared("group", "reset", "r", "--topic", "timed", "--to", "1700000000004ms", "--yes")
    assert shared("consume", "timed", "--group", "r").stdout.split() == [str(n).encode() for n in range(4, 10)]
    shared("group", "reset", "r", "--topic", "timed", "--to", "latest", "--yes")
    assert shared("consume", "timed", "--group", "r").stdout == b""
    shared("group", "reset", "r", "--topic", "timed", "--to", "99", "--yes", code=3)
    assert shared("consume", "timed", "--from", "2023-11-14T22:13:20.008Z").stdout.split() == [b"8", b"9"]
    shared("group", "delete", "r", "--yes")
    shared("group", "describe", "r", code=3)


def read_lines(process: subprocess.Popen[bytes], lines: list[bytes]) -> threading.Thread:
    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip(b"\n"))

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tail_commits_what_it_wrote_and_ends_with_0(shared: Commands, number: signal.Signals) -> None:
    topic, group = f"tail-{number.name}", f"tail-{number.name}"
    shared("topic", "create", topic, "--partitions", "2")
    process = shared.start(
        "consume", topic, "--follow", "--from", "earliest", "-g", group, "--commit",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines: list[bytes] = []
    reader = read_lines(process, lines)
    try:
        shared("produce", topic, "--batch-records", "3", stdin=b"".join(b"%d\n" % n for n in range(100)))
        wait_until(lambda: len(lines) == 100, what="the tail")
        refused = shared("group", "reset", group, "--topic", topic, "--to", "latest", "-y", code=1)
        assert b"has 2 members" in refused.stderr
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    offsets = shared.json("group", "describe", group)["offsets"]
    assert sum(offset["committed_offset"] for offset in offsets) == 100
    assert {int(line) for line in lines} == set(range(100))


def test_a_tail_lives_on_over_a_restart_and_gives_each_record_once(takhin: Commands) -> None:
    takhin("topic", "create", "t", "--partitions", "2")
    process = takhin.start("consume", "t", "--follow", "--from", "earliest", stdout=subprocess.PIPE)
    lines: list[bytes] = []
    reader = read_lines(process, lines)
    try:
        takhin("produce", "t", "--batch-records", "2", stdin=b"".join(b"%d\n" % n for n in range(50)))
        wait_until(lambda: len(lines) == 50, what="the first records")
        takhin.server.restart()
        takhin("produce", "t", "--batch-records", "2", stdin=b"".join(b"%d\n" % n for n in range(50, 100)))
        wait_until(lambda: len(lines) >= 100, what="the records after the restart")
        takhin.server.kill()
        takhin.server.start()
        takhin("produce", "t", stdin=b"100\n")
        wait_until(lambda: len(lines) >= 101, what="the record after the kill")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
    assert sorted(int(line) for line in lines) == list(range(101))


def test_a_reader_that_goes_away_ends_it_quietly(shared: Commands) -> None:
    shared("topic", "create", "pipe")
    shared("produce", "pipe", stdin=b"".join(b"%090d\n" % n for n in range(50_000)))
    process = shared.start("consume", "pipe", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"%090d\n" % 0
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 0


def test_lines_are_sent_while_the_pipe_stays_open(shared: Commands) -> None:
    shared("topic", "create", "slow")
    process = shared.start("produce", "slow", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    for number in range(2):
        process.stdin.write(b"%d\n" % number)
        process.stdin.flush()
        wait_until(lambda wanted=number + 1: len(shared("consume", "slow").stdout.split()) == wanted, what="the line")
    process.stdin.write(b"last without a newline")
    process.stdin.close()
    assert process.wait(20) == 0
    assert shared("consume", "slow").stdout.endswith(b"last without a newline\n")


def test_an_interrupted_produce_sends_what_it_read(shared: Commands) -> None:
    shared("topic", "create", "broken-off")
    process = shared.start(
        "produce", "broken-off", "--linger-ms", "60000", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"a\nb\n")
    process.stdin.flush()
    time.sleep(2)  # it has started and read
    process.send_signal(signal.SIGINT)
    assert process.stderr.read().startswith(b"2 records, ")
    assert process.wait(10) == 130
    process.stdin.close()
    process.stderr.close()
    assert shared("consume", "broken-off").stdout == b"a\nb\n"


def test_an_idempotent_produce_rides_out_a_kill(takhin: Commands) -> None:
    takhin("topic", "create", "t", "--partitions", "3")
    with Client(takhin.server.address) as client:
        options = ProducerOptions(idempotent=True, batch_records=20, acks=-1)
        with client.producer("t", options=options) as producer:
            for number in range(6000):
                producer.send(b"%d" % number, key=b"%d" % (number % 50))
                if number in (2000, 4000):
                    takhin.server.kill()
                    takhin.server.start()
        assert producer.acknowledged_records == 6000
    values = [int(value) for value in takhin("consume", "t").stdout.split()]
    assert sorted(values) == list(range(6000))


def test_a_produce_without_idempotence_says_what_was_lost(takhin: Commands) -> None:
    takhin("topic", "create", "t")
    process = takhin.start("produce", "t", "--batch-records", "1", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"1\n")
    process.stdin.flush()
    wait_until(lambda: takhin("consume", "t").stdout == b"1\n", what="the first record")
    takhin.server.kill()
    try:
        process.stdin.write(b"2\n3\n")
        process.stdin.close()
    except BrokenPipeError:
        pass
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(20) == 5
    assert " records not acknowledged: " in error
    assert error.startswith("1 record, ")


def test_a_record_that_is_too_large_is_said_and_the_ones_before_it_are_there(shared: Commands) -> None:
    shared("topic", "create", "large", "--config", "max.message.bytes=1000")
    failed = shared("produce", "large", "--batch-records", "1", stdin=b"small\n" + b"x" * 2000 + b"\n", code=5)
    assert b"1 of 2 records not acknowledged" in failed.stderr
    huge = shared("produce", "large", stdin=b"x" * (11 << 20), code=5)
    assert b"RESOURCE_EXHAUSTED/RECORD_TOO_LARGE" in huge.stderr
    assert shared("consume", "large").stdout == b"small\n"


def test_consuming_from_outside_the_log_is_an_error(shared: Commands) -> None:
    shared("topic", "create", "short")
    assert b"OUT_OF_RANGE/OFFSET_OUT_OF_RANGE" in shared("consume", "short", "--from", "5", code=3).stderr
    assert shared("consume", "short", "--from", "0").stdout == b""


def test_a_client_sees_the_reason_of_a_failure(shared: Commands) -> None:
    with Client(shared.server.address) as client:
        with pytest.raises(ClientError) as failure:
            client.describe_topic("absent")
        assert (failure.value.code, failure.value.reason) == ("NOT_FOUND", "TOPIC_NOT_FOUND")
        assert client.server_info().engine == "local"
        assert client.server_info().limits["max_message_size"] == 10 * 1024 * 1024


def test_a_consumer_follows_over_the_age_of_its_connection(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server({"grpc": {"max_connection_age": 1, "max_connection_age_grace": 1}}).start()
    with Client(server.address) as client:
        client.create_topic("t")
        consumer = client.consume("t", max_records=20)
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(int(record.value or b"") for record in consumer))
        thread.start()
        options = ProducerOptions(linger=0, rotate_after=0.5)
        with client.producer("t", options=options) as producer:
            for number in range(20):
                producer.send(b"%d" % number)
                time.sleep(0.3)
        thread.join(20)
        consumer.close()
        thread.join()
    assert found == list(range(20))
