"""The README's tour works when it is pasted, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require_tool
from tests.integration.server_process import REPOSITORY, ServerProcess

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
DEFAULT_ADDRESS = "127.0.0.1:9092"


def block(beginning: str) -> str:
    """The block that has this line at its beginning."""
    (found,) = (text for text in BLOCKS if text.startswith(beginning))
    return found


@pytest.fixture
def paste(make_server: Callable[..., ServerProcess], tmp_path: Path) -> Callable[[str], str]:
    """Run a block as in the second terminal, where the address alone differs; gives what it prints."""
    server = make_server().start()
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("proto", "README.md"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name, arguments in (("python", ""), ("takhin", "-m takhin")):
        command = folder / ".venv" / "bin" / name
        command.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec {sys.executable} {arguments} "$@"\n')
        command.chmod(0o755)
    log = tmp_path / "dpkg.log"
    log.write_text("".join(f"2025-01-01 12:00:{n:02} status installed package-{n}:amd64 1.{n}\n" for n in range(40)))
    environment = {**os.environ, "TAKHIN_ADDR": server.address, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}

    def run(text: str) -> str:
        # Debian writes the log that the tour reads; another system has none.
        text = text.replace(DEFAULT_ADDRESS, server.address).replace("/var/log/dpkg.log", str(log))
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run.server = server  # type: ignore[attr-defined]
    return run


def test_the_tour_with_our_own_commands(paste: Callable[[str], str]) -> None:
    assert "healthy" in paste(block("export PATH"))
    produced = paste(block("takhin produce dpkg"))
    assert "package-2:amd64" in produced
    assert "package-3:amd64" not in produced
    assert "a line that was just written" in paste(block("takhin consume dpkg --follow"))
    committed = paste(block("takhin consume dpkg --group tour --commit"))
    assert [line.split()[4] for line in committed.splitlines()[:2]] == ["package-9:amd64", "package-10:amd64"]
    paste.server.restart()  # type: ignore[attr-defined]
    after = paste(block("takhin topic list"))
    assert "dpkg" in after
    assert "package-10:amd64" in after


def test_the_tour_with_grpcurl(paste: Callable[[str], str]) -> None:
    grpcurl = Path(require_tool("grpcurl"))
    paste("takhin topic create dpkg && seq 10 | takhin produce dpkg")
    shown = paste(f'PATH="$PATH:{grpcurl.parent}"\n' + block("grpcurl -plaintext"))
    assert "takhin.v1.TakhinService.ProduceMessage" in shown
    assert '"MQ=="' in shown, "the first record's value"
    assert "SERVING" in shown


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_tour_with_a_client_that_is_generated(paste: Callable[[str], str]) -> None:
    require_tool("go")
    paste("takhin topic create dpkg && seq 10 | takhin produce dpkg")
    shown = paste(block("mkdir -p tour"))
    assert "offset 10: from Go" in shown


def test_the_configuration_in_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "takhin.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "takhin", "config", "check", str(tmp_path / "takhin.yaml")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_the_commands_that_there_are() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for target in re.findall(r"`make (\w+)`|^    make (\w+)", README, re.MULTILINE):
        name = target[0] or target[1]
        dry = subprocess.run(["make", "-n", name], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, f"make {name}: {dry.stderr}"
