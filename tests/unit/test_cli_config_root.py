"""The root of the commands: what it loads, how the server is run from it, exit codes, completion."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from takhin import __version__
from takhin.cli import exit_codes
from takhin.cli.main import COMMANDS, cli
from takhin.errors import ConfigError, DataDirLocked, MetadataDamaged

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def takhin():
    return lambda *arguments: CliRunner().invoke(cli, arguments, prog_name="takhin")


@pytest.fixture
def app(monkeypatch):
    """A stand-in for the server: remembers its configuration, and gives or raises ``outcome``."""

    class Server:
        outcome: int | Exception = 0
        config = None

    class App:
        def __init__(self, config, reread):
            assert reread() == config
            Server.config = config
            assert reread() == config

        def run(self):
            if isinstance(Server.outcome, Exception):
                raise Server.outcome
            return Server.outcome

    module = ModuleType("takhin.app")
    module.App = App
    monkeypatch.setitem(sys.modules, "takhin.app", module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Server
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_the_version_is_printed(takhin):
    assert takhin("--version").output == f"takhin {__version__}\n"


def test_the_version_is_that_of_the_project_file():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"], "the tree was built with another version: make build"


def test_help_lists_commands_exit_codes_and_examples(takhin):
    result = takhin("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output for name in COMMANDS)
    assert all(meaning in result.output for meaning in exit_codes.DESCRIPTIONS.values())
    assert "takhin serve" in result.output
    assert takhin().output == result.output


def test_version_and_help_import_no_command_and_no_library_but_click():
    script = (
        "import sys\n"
        "from takhin.cli.main import cli\n"
        "for arguments in (['--version'], ['--help']):\n"
        "    cli(arguments, prog_name='takhin', standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith('takhin.cli.')"
        " or name in ('grpc', 'google', 'yaml', 'msgspec', 'rich', 'takhin.app', 'importlib.metadata')])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(eval(result.stdout.splitlines()[-1]))
    assert loaded == {"takhin.cli.main", "takhin.cli.exit_codes", "takhin.cli.config_options"}


def test_an_unknown_command_is_a_usage_error(takhin):
    result = takhin("sevre")
    assert result.exit_code == 2
    assert "sevre" in result.stderr


@pytest.mark.parametrize("name", ["serve", "config", "completion"])
def test_commands_have_help_with_an_example(takhin, name):
    result = takhin(name, "--help")
    assert result.exit_code == 0
    assert f"  takhin {name} " in result.output or f"takhin {name} bash" in result.output


@pytest.mark.parametrize("arguments", [["serve"], []])
def test_the_server_runs_with_the_effective_configuration_and_gives_its_exit_code(takhin, app, tmp_path, arguments):
    file = tmp_path / "takhin.yaml"
    file.write_text("grpc: {addr: '127.0.0.1:1'}\nlog: {flush: interval}\n")
    app.outcome = 3
    result = takhin(*arguments, "--config", str(file), "--addr", "127.0.0.1:2", "--set", "logging.format=json")
    assert result.exit_code == 3
    assert (app.config.grpc.addr, app.config.log.flush, app.config.logging.format) == (
        "127.0.0.1:2",
        "interval",
        "json",
    )


def test_serve_without_options_runs_with_the_defaults(takhin, app):
    assert takhin("serve").exit_code == 0
    assert app.config.data_dir == "./data"


def test_server_options_before_a_command_are_refused_and_not_dropped(takhin):
    result = takhin("--addr", "127.0.0.1:1", "config", "show")
    assert result.exit_code == 2
    assert "write them after it" in result.stderr


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (DataDirLocked("/d is in use by process 7"), 2, "takhin: cannot start: /d is in use by process 7"),
        (MetadataDamaged("/d/metadata.db is damaged"), 2, "takhin: cannot start: /d/metadata.db is damaged"),
        (ConfigError("max_open_segments: too many"), 78, "takhin: configuration: max_open_segments: too many"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, "is another server running?"),
        (PermissionError(errno.EACCES, "Permission denied", "/d"), 2, "Permission denied: '/d'"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(takhin, app, failure, code, line):
    app.outcome = failure
    result = takhin("serve")
    assert result.exit_code == code
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bad_configuration_ends_before_the_server_is_made(takhin, app):
    result = takhin("serve", "--config", "/nowhere/takhin.yaml")
    assert result.exit_code == 78
    assert result.stderr == "takhin: configuration: /nowhere/takhin.yaml: cannot be read: No such file or directory\n"
    assert app.config is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(takhin, shell):
    result = takhin("completion", shell)
    assert result.exit_code == 0
    assert f"_TAKHIN_COMPLETE={shell}_complete" in result.output


def test_completion_offers_the_commands_without_importing_them(monkeypatch):
    monkeypatch.setattr("takhin.cli.main.import_module", lambda *_: pytest.fail("imported"))
    result = CliRunner().invoke(
        cli,
        [],
        prog_name="takhin",
        env={"_TAKHIN_COMPLETE": "bash_complete", "COMP_WORDS": "takhin co", "COMP_CWORD": "1"},
    )
    assert {"plain,consume", "plain,config", "plain,completion"} == set(result.output.split())


def test_exit_codes_follow_the_status_of_a_failure():
    assert exit_codes.for_status("NOT_FOUND") == 3
    assert exit_codes.for_status("ALREADY_EXISTS") == 4
    assert exit_codes.for_status("UNAVAILABLE") == exit_codes.for_status("DEADLINE_EXCEEDED") == 5
    assert exit_codes.for_status("DATA_LOSS") == 6
    assert exit_codes.for_status("INTERNAL") == 1
