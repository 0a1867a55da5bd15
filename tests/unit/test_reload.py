"""Reloading: what changes, what is named, what is refused, and how the one who asked learns of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from takhin.app import App
from takhin.cli.main import cli
from takhin.config import Config, GrpcConfig, HttpConfig, LimitsConfig, LogConfig, LoggingConfig, MemoryConfig
from takhin.config_file import load
from takhin.errors import ConfigError, NewerFormat
from takhin.reload import plan
from takhin.storage import checkpoint
from takhin.topic_config import TopicDefaults
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc


def text(data_dir: Path, rest: str = "") -> str:
    return f"data_dir: {data_dir}\ngrpc: {{addr: '127.0.0.1:0'}}\nhttp: {{addr: ''}}\n{rest}\n"


class Running:
    """An app with a real engine, and its file."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.file = directory / "takhin.yaml"
        self.file.write_text(text(self.data_dir))
        self.app = App(load(self.file).config, reread=lambda: load(self.file).config)

    def reload(self, rest: str) -> None:
        self.file.write_text(text(self.data_dir, rest))
        self.outcome = self.app.reload()

    def stub(self, channel: grpc.Channel) -> takhin_pb2_grpc.TakhinServiceStub:
        return takhin_pb2_grpc.TakhinServiceStub(channel)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    made.app.start()
    yield made
    made.app.close()


def test_a_plan_names_what_changes_and_what_needs_a_restart() -> None:
    wanted = Config(
        data_dir="elsewhere",
        grpc=GrpcConfig(addr="127.0.0.1:1"),
        log=LogConfig(flush_threads=7),
        limits=LimitsConfig(max_groups=5),
        logging=LoggingConfig(level="debug"),
        topics=TopicDefaults(retention_ms=7),
    )
    found = plan(Config(), wanted)
    assert set(found.changed) == {"limits.max_groups", "logging.level", "topics.retention.ms"}
    assert set(found.needs_restart) == {"data_dir", "grpc.addr", "log.flush_threads"}
    assert found.config.data_dir == Config().data_dir
    assert found.config.limits.max_groups == 5


def test_what_would_not_fit_what_runs_is_refused() -> None:
    small = 2_000_000
    wanted = Config(grpc=GrpcConfig(max_message_size=small), memory=MemoryConfig(max_inflight_bytes=small))
    with pytest.raises(ConfigError, match=r"memory\.max_inflight_bytes.*until a restart"):
        plan(Config(), wanted)


def test_topic_defaults_and_limits_are_in_force_without_dropping_a_stream(running: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{running.app.grpc_port}") as channel:
        stub = running.stub(channel)
        stub.CreateTopic(pb.CreateTopicRequest(name="old"), timeout=5)
        stream = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="old"))
        stream.initial_metadata()
        running.reload("topics: {retention.ms: 1234, num_partitions: 3}\nlimits: {max_partitions: 4}")
        assert running.outcome.error == ""
        stub.CreateTopic(pb.CreateTopicRequest(name="new"), timeout=5)
        assert len(stub.GetTopic(pb.GetTopicRequest(name="new"), timeout=5).topic.partitions) == 3
        described = stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic="old"), timeout=5)
        assert "1234" in {entry.value for entry in described.configs}
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateTopic(pb.CreateTopicRequest(name="more"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stub.ProduceMessage(pb.ProduceMessageRequest(topic="old", record=pb.Record(value=b"v")), timeout=5)
        assert next(message for message in stream if message.records).records[0].value == b"v"
        stream.cancel()


def test_the_memory_limit_is_in_force_and_told(running: Running) -> None:
    running.reload("memory: {max_inflight_bytes: 20000000}")
    assert running.outcome.changed == ["memory.max_inflight_bytes"]
    with grpc.insecure_channel(f"127.0.0.1:{running.app.grpc_port}") as channel:
        info = running.stub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
    assert info.limits["max_inflight_bytes"] == 20_000_000


def test_a_file_with_problems_changes_nothing(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    before = running.app.config
    running.reload("topics: {retention.ms: soon}")
    assert "topics.retention.ms" in running.outcome.error
    assert running.app.config == before
    assert "reload refused: nothing is changed" in caplog.text
    running.reload("topics: {retention.ms: 99}")
    assert running.outcome.changed == ["topics.retention.ms"]


@pytest.fixture
def as_before() -> Iterator[None]:
    """``run`` takes the signals of its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("as_before")
def test_the_command_tells_what_came_of_it(tmp_path: Path) -> None:
    running = Running(tmp_path)
    results = []

    def ask() -> None:
        while running.app.causes():
            pass
        for rest in ("limits: {max_groups: 7}\nlog: {flush_threads: 2}", "limits: {max_groups: 0}"):
            running.file.write_text(text(running.data_dir, rest))
            for option in (["--config", str(running.file)], ["--data-dir", str(running.data_dir)]):
                results.append(CliRunner().invoke(cli, ["reload", *option]))
        running.app.request_stop()

    thread = threading.Thread(target=ask)
    thread.start()
    assert running.app.run() == 0
    thread.join()
    done, again, bad_file, refused = results
    assert done.exit_code == 0
    assert done.stdout == "changed: limits.max_groups\nneeds a restart: log.flush_threads\n"
    assert again.stdout == "changed: nothing\nneeds a restart: log.flush_threads\n"
    assert (bad_file.exit_code, refused.exit_code) == (78, 1)
    assert "limits.max_groups" in bad_file.stderr
    assert "refused, nothing is changed" in refused.stderr
    late = CliRunner().invoke(cli, ["reload", "--data-dir", str(running.data_dir)])
    assert late.exit_code == 5
    assert "no server is running" in late.stderr
    nobody = CliRunner().invoke(cli, ["reload", "--data-dir", str(tmp_path / "nothing")])
    assert nobody.exit_code == 3


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.app.start()
    running.app.close()
    path = running.data_dir / checkpoint.CHECKPOINT_NAME
    newer = b"\x94\x02\x90\xa4more\xc0"  # [2, [], "more", nil]
    path.write_bytes(newer + checkpoint.crc32c(newer).to_bytes(4, "big"))
    second = App(load(running.file).config)
    with pytest.raises(NewerFormat, match="format 2, written by a newer version"):
        second.start()
    second.close()
    assert path.read_bytes()[:-4] == newer
    assert os.path.exists(running.data_dir / checkpoint.CLEAN_NAME)


def test_nothing_to_read_again_is_an_answer_too(tmp_path: Path) -> None:
    app = App(Config(data_dir=str(tmp_path), grpc=GrpcConfig(addr="127.0.0.1:0"), http=HttpConfig(addr="")))
    app.start()
    assert app.reload().error == "there is no configuration to read again"
    app.close()
