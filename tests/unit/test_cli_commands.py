"""topic, group and health, against a server in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from takhin.cli.main import cli
from takhin.v1 import takhin_pb2 as pb
from tests.unit.client_fakes import MemoryServer

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    running = MemoryServer()
    yield running
    running.stop()


@pytest.fixture
def run(server: MemoryServer) -> Run:
    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, list(arguments), env={"TAKHIN_ADDR": server.address})
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_a_topic_is_created_with_partitions_and_configs(server: MemoryServer, run: Run) -> None:
    run("topic", "create", "t", "--partitions", "3", "--config", "retention.ms=5", "--config", "a=b=c")
    assert len(server.topics["t"]) == 3
    assert server.configs["t"] == {"retention.ms": "5", "a": "b=c"}


def test_creating_a_topic_that_is_there_fails_unless_that_is_fine(server: MemoryServer, run: Run) -> None:
    server.add_topic("t")
    result = run("topic", "create", "t", code=4)
    assert result.stderr == "takhin: error: topic t exists already (ALREADY_EXISTS/TOPIC_ALREADY_EXISTS)\n"
    assert "there already" in run("topic", "create", "t", "--if-not-exists").stdout


def test_topics_are_listed_one_a_line_or_as_json(server: MemoryServer, run: Run) -> None:
    server.add_topic("b")
    server.add_topic("a")
    assert run("topic", "list").stdout == "a\nb\n"
    assert json.loads(run("topic", "list", "--json").stdout) == ["a", "b"]


def test_describe_shows_offsets_and_configs(server: MemoryServer, run: Run) -> None:
    server.add_topic("t", 2)
    server.configs["t"] = {"retention.ms": "5"}
    server.append("t", 1, pb.Record(value=b"x"))
    assert run("topic", "describe", "t").stdout == (
        "Topic t, partitions: 2, replicas: 1\n"
        "PARTITION  BEGINNING  END  RECORDS\n"
        "        0          0    0        0\n"
        "        1          0    1        1\n"
        "\n"
        "CONFIG        VALUE  SOURCE\n"
        "retention.ms  5      topic\n"
    )
    (topic,) = json.loads(run("topic", "describe", "--json").stdout)
    assert topic["partitions"][1]["end_offset"] == 1
    assert topic["configs"]["retention.ms"] == {"value": "5", "source": "topic"}
    assert run("topic", "describe", "nope", code=3).stdout == ""


def test_a_topic_is_deleted_only_when_it_is_confirmed(server: MemoryServer, run: Run) -> None:
    server.add_topic("t")
    assert "--yes" in run("topic", "delete", "t", code=2).stderr
    assert "t" in server.topics
    run("topic", "delete", "t", "-y")
    assert "t" not in server.topics
    run("topic", "delete", "t", "-y", code=3)
    run("topic", "delete", "t", "-y", "--if-exists")


def test_a_topic_is_altered(server: MemoryServer, run: Run) -> None:
    server.add_topic("t")
    server.configs["t"] = {"b": "1"}
    run("topic", "alter", "t", "--set", "a=2", "--unset", "b", "--partitions", "4")
    assert server.configs["t"] == {"a": "2"}
    assert len(server.topics["t"]) == 4
    run("topic", "alter", "t", code=2)
    run("topic", "alter", "t", "--set", "a=1", "--unset", "a", code=2)
    run("topic", "alter", "t", "--set", "a", code=2)


def test_groups_are_listed_and_described_with_their_lag(server: MemoryServer, run: Run) -> None:
    server.add_topic("t")
    server.append("t", 0, *[pb.Record(value=b"x")] * 5)
    server.groups["g"] = {("t", 0): 2}
    server.members["g"] = 1
    assert run("group", "list").stdout.splitlines()[1].split() == ["g", "Empty", "1"]
    assert json.loads(run("group", "list", "--json").stdout) == [{"group": "g", "state": "Empty", "members": 1}]
    lines = run("group", "describe", "g").stdout.splitlines()
    assert lines[2].split() == ["t", "0", "2", "5", "3"]
    assert lines[5].split() == ["m0", "c", "127.0.0.1", "t-0"]
    assert json.loads(run("group", "describe", "g", "--json").stdout)["offsets"][0]["lag"] == 3
    run("group", "describe", "nope", code=3)


def test_a_group_is_deleted_unless_it_has_members(server: MemoryServer, run: Run) -> None:
    server.groups["g"] = {}
    server.members["g"] = 1
    assert "FAILED_PRECONDITION/GROUP_NOT_EMPTY" in run("group", "delete", "g", "-y", code=1).stderr
    server.members.clear()
    run("group", "delete", "g", "-y")
    assert server.groups == {}


@pytest.mark.parametrize(
    ("to", "expected"), [("earliest", [0, 0]), ("latest", [4, 2]), ("1", [1, 1]), ("1002ms", [2, 2])]
)
def test_a_group_is_reset_to_a_place(server: MemoryServer, run: Run, to: str, expected: list[int]) -> None:
    server.add_topic("t", 2)
    for partition, count in ((0, 4), (1, 2)):
        server.append("t", partition, *(pb.Record(value=b"x", timestamp=1000 + n) for n in range(count)))
    table = run("group", "reset", "g", "--topic", "t", "--to", to, "--dry-run").stdout
    assert [int(line.split()[3]) for line in table.splitlines()[1:]] == expected
    assert server.groups == {}
    run("group", "reset", "g", "--topic", "t", "--to", to, "--yes")
    assert server.groups["g"] == {("t", 0): expected[0], ("t", 1): expected[1]}


def test_a_reset_of_one_partition_leaves_the_others(server: MemoryServer, run: Run) -> None:
    server.add_topic("t", 2)
    server.groups["g"] = {("t", 0): 0, ("t", 1): 0}
    server.append("t", 1, pb.Record(value=b"x"))
    out = run("group", "reset", "g", "--topic", "t", "--to", "latest", "--partition", "1", "--yes", "--json").stdout
    assert json.loads(out) == [{"topic": "t", "partition": 1, "before": 0, "committed_offset": 1}]
    assert server.groups["g"] == {("t", 0): 0, ("t", 1): 1}


def test_a_reset_is_refused_with_members_and_to_offsets_that_are_not_there(server: MemoryServer, run: Run) -> None:
    server.add_topic("t")
    server.groups["g"] = {("t", 0): 0}
    server.members["g"] = 2
    assert "2 members" in run("group", "reset", "g", "--topic", "t", "--to", "latest", "--yes", code=1).stderr
    server.members.clear()
    assert "it has 0 to 0" in run("group", "reset", "g", "--topic", "t", "--to", "9", "--yes", code=3).stderr
    run("group", "reset", "g", "--topic", "t", "--to", "latest", "--partition", "3", "--yes", code=3)
    run("group", "reset", "g", "--topic", "t", "--to", "latest", code=2)
    run("group", "reset", "g", "--topic", "t", "--to", "yesterday", "--yes", code=2)
    assert server.groups["g"] == {("t", 0): 0}


def test_health_tells_by_its_exit_code(server: MemoryServer, run: Run) -> None:
    assert run("health").stdout == "healthy, SERVING, version 1.2.3, up 1h 1m\n"
    assert json.loads(run("health", "--json").stdout)["uptime_seconds"] == 3661
    server.status = "degraded"
    assert run("health", code=1).stdout.startswith("degraded")
    server.status = "healthy"
    server.health.enter_graceful_shutdown()
    assert "NOT_SERVING" in run("health", code=1).stdout


def test_a_server_that_is_not_there_gives_one_line_and_its_own_code(run: Run) -> None:
    for arguments in (["health"], ["topic", "list"], ["consume", "t"], ["produce", "t"], ["group", "list"]):
        result = run(*arguments, "--addr", "127.0.0.1:1", code=5)
        assert result.stderr.startswith("takhin: error: cannot reach 127.0.0.1:1: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "127.0.0.1:99999", "::1", "no such host:1"])
def test_an_address_that_cannot_be_is_a_usage_error(run: Run, addr: str) -> None:
    run("health", "--addr", addr, code=2)


def test_every_command_has_examples_in_its_help(run: Run) -> None:
    for arguments in (
        ["topic"], ["topic", "create"], ["topic", "list"], ["topic", "describe"], ["topic", "delete"],
        ["topic", "alter"], ["produce"], ["consume"], ["group"], ["group", "list"], ["group", "describe"],
        ["group", "delete"], ["group", "reset"], ["health"], ["log"], ["log", "dump"], ["log", "verify"],
    ):  # fmt: skip
        assert "Examples:\n" in run(*arguments, "--help").stdout
