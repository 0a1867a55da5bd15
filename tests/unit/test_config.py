"""The configuration structs, their documentation, and what types cannot say."""

from __future__ import annotations

import msgspec
import pytest

from takhin.config import (
    Config,
    GrpcConfig,
    HttpConfig,
    LogConfig,
    MemoryConfig,
    problems,
    warnings,
)
from takhin.config_reference import PACKAGED_DATA_DIR, reference
from takhin.config_setting import sections, settings


def test_the_defaults_are_the_promised_ones():
    grpc = Config().grpc
    assert (grpc.addr, grpc.max_message_size) == ("127.0.0.1:9092", 10485760)
    assert (grpc.keepalive_interval, grpc.keepalive_timeout, grpc.min_ping_interval) == (300, 60, 60)
    assert (grpc.max_connection_idle, grpc.max_connection_age, grpc.max_connection_age_grace) == (900, 1800, 300)
    assert Config().default_acks == -1
    assert Config().log.flush == "commit"


def test_the_defaults_have_no_problems_and_nothing_to_warn_of():
    assert problems(Config()) == []
    assert warnings(Config()) == []


def test_a_configuration_cannot_be_changed_once_made():
    with pytest.raises(AttributeError):
        Config().grpc.addr = ":1"  # type: ignore[misc]


def test_every_setting_is_documented_and_its_default_is_allowed():
    assert len(settings()) > 45
    for setting in settings().values():
        assert setting.description.endswith("."), setting.path
        assert setting.fault(setting.default) == "", setting.path
        assert setting.allowed
    assert all(documentation.endswith(".") for documentation in sections().values())


def test_settings_are_listed_with_their_paths_and_values():
    assert list(settings())[:3] == ["data_dir", "default_acks", "grpc.addr"]
    assert settings()["topics.retention.ms"].value_in(Config()) == 604_800_000
    assert settings()["log.segment_bytes"].allowed == "an integer from 1024 to 2147483647"
    assert settings()["log.flush"].allowed == "commit or interval"


@pytest.mark.parametrize(
    "addr", ["", "9092", "localhost", "1.2.3.4:65536", "::1:9092", "[::1]9092", "a b:1", "1.2.3:4"]
)
def test_an_address_that_is_none_is_a_problem(addr):
    assert [path for path, _ in problems(Config(grpc=GrpcConfig(addr=addr)))] == ["grpc.addr"]


def test_an_empty_http_address_turns_it_off_and_is_no_problem():
    assert problems(Config(http=HttpConfig(addr=""))) == []


@pytest.mark.parametrize(("grpc", "http"), [(":9000", "127.0.0.1:9000"), ("127.0.0.1:9000", "127.0.0.1:9000")])
def test_two_servers_on_one_address_are_a_problem(grpc, http):
    config = Config(grpc=GrpcConfig(addr=grpc), http=HttpConfig(addr=http))
    assert [path for path, _ in problems(config)] == ["http.addr"]


def test_two_servers_may_both_ask_for_any_free_port():
    assert problems(Config(grpc=GrpcConfig(addr="127.0.0.1:0"), http=HttpConfig(addr="127.0.0.1:0"))) == []


def test_memory_for_less_than_one_message_is_a_problem():
    config = Config(memory=MemoryConfig(max_inflight_bytes=2_000_000))
    [(path, message)] = problems(config)
    assert path == "memory.max_inflight_bytes"
    assert "grpc.max_message_size" in message


@pytest.mark.parametrize("addr", [":9092", "0.0.0.0:9092", "[::]:9092", "192.0.2.1:9092", "box.example:9092"])
def test_plaintext_on_other_than_loopback_is_warned_of(addr):
    [warning] = warnings(Config(grpc=GrpcConfig(addr=addr)))
    assert addr in warning
    assert "plaintext" in warning


@pytest.mark.parametrize("addr", ["127.0.0.1:9092", "127.8.8.8:1", "[::1]:9092", "localhost:9092"])
def test_plaintext_on_loopback_is_not_warned_of(addr):
    assert warnings(Config(grpc=GrpcConfig(addr=addr))) == []


def test_settings_that_weaken_a_promise_are_warned_of():
    weak = Config(log=LogConfig(flush="interval"), default_acks=0)
    assert len(warnings(weak)) == 2
    slow = Config(grpc=GrpcConfig(keepalive_interval=10))
    assert "keepalive_timeout" in warnings(slow)[0]


def test_structs_refuse_keys_that_they_do_not_know():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"grpc": {"adr": "x"}}, Config)


def test_the_reference_names_every_setting_with_its_description_and_default():
    text = " ".join(reference().replace("#", "").split())
    for setting in settings().values():
        assert f" {setting.key}: " in text
        assert setting.description in text
    assert f'data_dir: "{PACKAGED_DATA_DIR}"' in text
