"""Reading configuration files, the environment and the command line."""

from __future__ import annotations

import random

import pytest

from takhin.config import Config
from takhin.config_file import MAX_FILE_BYTES, examine, load
from takhin.config_reference import PACKAGED_DATA_DIR, reference
from takhin.config_setting import settings
from takhin.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "takhin.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture
def faults(write):
    """The problems of a file, each as text without the file's name."""

    def faults(text, overrides=(), environ=None):
        path = write(text)
        loaded, problems = examine(path, overrides, environ or {})
        assert (loaded is None) == bool(problems)
        return [str(problem).removeprefix(path).removeprefix(":").strip() for problem in problems]

    return faults


def test_without_a_file_the_defaults_are_in_force():
    loaded = load(None)
    assert loaded.config == Config()
    assert set(loaded.origins) == set(settings())
    assert set(loaded.origins.values()) == {"default"}


def test_an_empty_file_and_empty_sections_are_the_defaults(write):
    assert load(write("")).config == Config()
    assert load(write("# nothing\ngrpc:\n  # addr: x\n")).config == Config()


def test_the_reference_is_the_defaults_with_the_packaged_data_directory(write):
    loaded = load(write(reference()))
    assert loaded.config == load(None, [f"data_dir={PACKAGED_DATA_DIR}"]).config
    assert all(origin.startswith("file ") for origin in loaded.origins.values())


def test_values_come_from_the_file_and_say_so(write):
    path = write("data_dir: /d\ngrpc:\n  addr: :9092\n  reflection: false\ntopics:\n  retention.ms: 5\n")
    config, origins = load(path, environ={})
    assert config.data_dir == "/d"
    assert config.grpc.addr == ":9092"
    assert config.grpc.reflection is False
    assert config.topics.retention_ms == 5
    assert origins["grpc.addr"] == f"file {path}:3"
    assert origins["topics.retention.ms"] == f"file {path}:6"
    assert origins["http.addr"] == "default"


def test_variables_are_taken_from_the_environment_and_typed_by_the_setting(write):
    text = (
        'data_dir: ${HOME_DIR}/log\ngrpc:\n  max_connections: ${N}\n  reflection: "${R:-false}"\n  addr: ${H:-::1}x\n'
    )
    path = write(text.replace("${H:-::1}x", '"${H:-127.0.0.1}:${P}"'))
    config, origins = load(path, environ={"HOME_DIR": "/srv", "N": "7", "P": "1234", "H": ""})
    assert config.data_dir == "/srv/log"
    assert config.grpc.max_connections == 7
    assert config.grpc.reflection is False
    assert config.grpc.addr == "127.0.0.1:1234"
    assert origins["grpc.max_connections"] == "environment N"
    assert origins["grpc.reflection"] == f"file {path}:4"
    assert origins["grpc.addr"] == "environment P"


def test_two_dollars_write_a_plain_one(write):
    assert load(write("data_dir: /a/$${X}/$b\n"), environ={}).config.data_dir == "/a/${X}/$b"


def test_what_a_variable_holds_is_not_expanded_again(write):
    assert load(write("data_dir: ${A}\n"), environ={"A": "${B}"}).config.data_dir == "${B}"


def test_a_variable_that_is_not_set_is_named_with_the_path(faults):
    [fault] = faults("grpc:\n  addr: ${WHERE}\n")
    assert fault == "2: grpc.addr: the environment variable WHERE is not set, and there is no default"


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${1A}", "${A B}", "${A:-${B}}", "${A-b}"])
def test_a_malformed_variable_is_refused(faults, text):
    [fault] = faults(f"data_dir: '{text}'\n", environ={"A": "a", "B": "b"})
    assert "data_dir" in fault
    assert "${VAR" in fault


def test_a_variable_of_the_wrong_type_is_refused(faults):
    [fault] = faults("grpc:\n  max_connections: ${N}\n", environ={"N": "many"})
    assert fault == '2: grpc.max_connections: expected an integer from 1 to 2147483647, got "many" (text)'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grpc:\n  max_conections: 5\n", "2: grpc.max_conections: unknown setting; did you mean grpc.max_connections?"),
        ("grcp:\n  addr: x\n", "1: grcp: unknown setting; did you mean grpc?"),
        ("grpc:\n  max-connections: 5\n", "did you mean grpc.max_connections?"),
        ("addr: 127.0.0.1:1\n", "1: addr: unknown setting; did you mean grpc.addr?"),
        ("grpc.addr: x\n", "unknown setting; write addr below grpc:"),
        ("topics:\n  retention_ms: 5\n", "did you mean topics.retention.ms?"),
        ("grpc:\n  data_dir: x\n", "the path data_dir is meant from the root"),
        ("memory:\n  zzzzzz: x\n", "there are: memory.max_inflight_bytes"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_a_suggestion(faults, text, fault):
    [found] = faults(text)
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grpc:\n  max_connections: '5'\n", 'expected an integer from 1 to 2147483647, got "5" (text)'),
        ("grpc:\n  max_connections: 0\n", "expected an integer from 1 to 2147483647, got 0 (an integer)"),
        ("grpc:\n  max_connections: 1.5\n", "got 1.5 (a number)"),
        ("grpc:\n  max_connections: true\n", "got true (true or false)"),
        ("grpc:\n  max_connections:\n", "got nothing (null)"),
        ("grpc:\n  max_connections: [1]\n", "got a list"),
        ("grpc:\n  max_connections: {a: 1}\n", "got a section"),
        ("grpc:\n  max_connections: 2024-01-01\n", "something else"),
        ("grpc:\n  max_connections: 99999999999999999999999\n", "expected an integer from 1 to 2147483647"),
        ("grpc:\n  reflection: 1\n", "expected true or false, got 1 (an integer)"),
        ("data_dir: 5\n", "expected text that is not empty, got 5 (an integer)"),
        ("data_dir: ''\n", "expected text that is not empty"),
        ("log:\n  flush: sometimes\n", 'expected commit or interval, got "sometimes" (text)'),
        ("default_acks: 2\n", "expected -1 or 0 or 1, got 2 (an integer)"),
        ("log:\n  segment_bytes: 2147483648\n", "expected an integer from 1024 to 2147483647"),
        ("topics:\n  cleanup.policy: compact\n", "'compact' is not available in this version"),
        ("grpc: 5\n", "expected a section (keys below it), got 5 (an integer)"),
        ("grpc: [a]\n", "expected a section (keys below it), got a list"),
        ("grpc:\n  addr: nowhere\n", "2: grpc.addr: 'nowhere' is not an address: the port is missing"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_was_given(faults, text, fault):
    [found] = faults(text)
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("data_dir: a\ndata_dir: b\n", "2: data_dir: is given twice, first on line 1"),
        ("grpc:\n  addr: :1\nhttp:\ngrpc:\n", "4: grpc: is given twice, first on line 1"),
        ("grpc:\n  addr: :1\n  addr: :1\n", "3: grpc.addr: is given twice, first on line 2"),
        ("? [a]\n: b\n", "a key must be text"),
        ("- a\n", "1: expected settings"),
        ("just words\n", "1: expected settings"),
        ("a: b: c\n", "1: not valid YAML"),
        ("data_dir: 'x\n", "not valid YAML"),
        ("data_dir: *nothing\n", "not valid YAML"),
        ("data_dir: !!python/object:os.system x\n", "not valid YAML"),
        ("data_dir: 2024-99-99\n", "not valid YAML"),
        ("data_dir: a\n---\ndata_dir: b\n", "not valid YAML"),
        (b"data_dir: \xff\n", "is not UTF-8 text"),
        ("data_dir: \0\n", "not valid YAML"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("#" * (MAX_FILE_BYTES + 1), "is larger than"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(faults, text, fault):
    [found] = faults(text)
    assert fault in found


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_all_problems_are_found_in_one_pass(faults):
    found = faults("grpc:\n  addr: ''\n  x: 1\nlog:\n  flush: no\nhttp: 5\n", ["a.b=c"])
    assert len(found) == 5


def test_the_error_names_the_file_and_the_first_path(write):
    path = write("grpc:\n  max_connections: x\nlog:\n  flush: x\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.fields == {"file": path, "path": "grpc.max_connections"}
    assert caught.value.message.startswith(f"{path}:2: grpc.max_connections: ")
    assert len(caught.value.message.splitlines()) == 2


def test_the_command_line_beats_the_file_and_is_typed_by_the_setting(write):
    path = write("grpc:\n  addr: :1\n  max_connections: 5\n")
    overrides = [
        "grpc.addr=127.0.0.1:9999",
        "grpc.reflection=False",
        "topics.retention.ms=-1",
        "data_dir=a=b",
        "http.addr=",
    ]
    config, origins = load(path, [*overrides, "default_acks=1", "topics.segment.bytes=null"])
    assert config.grpc.addr == "127.0.0.1:9999"
    assert config.grpc.max_connections == 5
    assert config.grpc.reflection is False
    assert config.topics.retention_ms == -1
    assert config.topics.segment_bytes is None
    assert (config.data_dir, config.http.addr, config.default_acks) == ("a=b", "", 1)
    assert origins["grpc.addr"] == "command line"
    assert origins["default_acks"] == "command line"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("grpc.adr=x", "command line: grpc.adr: unknown setting; did you mean grpc.addr?"),
        ("grpc=x", "command line: grpc: unknown setting"),
        ("grpc.addr", "an override is written PATH=VALUE"),
        ("grpc.max_connections=many", 'got "many" (text)'),
        ("grpc.addr=x", "command line: grpc.addr: 'x' is not an address"),
        ("default_acks=all", "expected -1 or 0 or 1"),
    ],
)
def test_a_wrong_override_is_refused(faults, override, fault):
    [found] = faults("", [override])
    assert fault in found


def test_garbage_never_ends_in_anything_but_problems(write):
    """Seeded, so that a failure can be repeated."""
    chance = random.Random(7)
    pieces = [*"{}[]:,#&*!|>'\"%@`-? \n\t$", "grpc", "addr", "${A}", "data_dir", "<<", "!!int", "9", "é", "\x85", ": "]
    for _ in range(1500):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 25)))
        loaded, problems = examine(write(text), (), {"A": "1"})
        assert (loaded is None) == bool(problems), text
