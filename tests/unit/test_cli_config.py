"""``takhin config``, and the reference file that is made with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from takhin.cli.main import cli
from takhin.config_setting import settings

REFERENCE = Path(__file__).parents[2] / "packaging" / "takhin.yaml"


@pytest.fixture
def takhin():
    return lambda *arguments, **env: CliRunner().invoke(cli, arguments, prog_name="takhin", env=env)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "takhin.yaml"
    path.write_text("grpc:\n  addr: :9092\n  max_connections: ${N:-5}\nlog:\n  segment_bytes: 2048\n")
    return str(path)


def test_the_packaged_file_is_exactly_the_reference(takhin):
    result = takhin("config", "reference")
    assert result.exit_code == 0
    assert REFERENCE.read_text() == result.output, "run: takhin config reference > packaging/takhin.yaml"


def test_check_of_a_good_file_says_ok(takhin):
    result = takhin("config", "check", str(REFERENCE))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{REFERENCE}: ok\n", "")


def test_check_prints_warnings_and_still_says_ok(takhin, file):
    result = takhin("config", "check", file)
    assert result.exit_code == 0
    assert "warning: grpc.addr :9092" in result.stderr


def test_check_of_a_bad_file_prints_every_problem_and_fails(takhin, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("grpc:\n  adr: x\n  addr: x\nlog:\n  flush: x\n")
    result = takhin("config", "check", str(bad), "--set", "nothing=1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 4
    assert f"{bad}:2: grpc.adr: unknown setting; did you mean grpc.addr?" in result.stderr


def test_show_lists_every_setting_with_its_origin(takhin, file):
    result = takhin("config", "show", "--config", file, "--set", "log.flush=interval", "--addr", ":1", N="7")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.output.splitlines()}
    assert set(rows) == set(settings())
    assert rows["grpc.addr"] == ['":1"', "command line"]
    assert rows["grpc.max_connections"] == ["7", "environment N"]
    assert rows["log.segment_bytes"] == ["2048", f"file {file}:5"]
    assert rows["topics.segment.bytes"] == ["2048", f"log.segment_bytes: file {file}:5"]
    assert rows["log.flush"] == ['"interval"', "command line"]
    assert rows["http.addr"] == ['"127.0.0.1:9464"', "default"]


def test_show_as_json_gives_values_and_origins(takhin, file):
    result = takhin("config", "show", "--config", file, "--data-dir", "/d", "--log-level", "debug", "--json")
    shown = json.loads(result.output)
    assert shown["data_dir"] == {"value": "/d", "origin": "command line"}
    assert shown["logging.level"] == {"value": "debug", "origin": "command line"}
    assert shown["grpc.reflection"] == {"value": True, "origin": "default"}


def test_a_named_option_beats_set(takhin):
    result = takhin("config", "show", "--addr", ":2", "--set", "grpc.addr=:3", "--json")
    assert json.loads(result.output)["grpc.addr"]["value"] == ":2"


def test_a_later_set_beats_an_earlier_one(takhin):
    result = takhin("config", "show", "--set", "grpc.addr=:2", "--set", "grpc.addr=:3", "--json")
    assert json.loads(result.output)["grpc.addr"]["value"] == ":3"


def test_show_of_a_bad_configuration_ends_with_its_own_exit_code(takhin):
    result = takhin("config", "show", "--set", "grpc.addr=x")
    assert result.exit_code == 78
    assert result.stderr.startswith("takhin: command line: grpc.addr: 'x' is not an address")
