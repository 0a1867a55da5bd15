"""The container file, built with buildah without any daemon, and run once with its own health check."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from takhin import address
from takhin.config import Config
from tests.conftest import require_tool

from .machine import REPOSITORY, debian_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Builder:
    """Buildah with a store of its own."""

    def __init__(self, store: Path) -> None:
        self._options = ["--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs"]

    def __call__(self, command: str, *arguments: str | Path, wrap: tuple[str, ...] = (), check: bool = True) -> str:
        done = subprocess.run(
            [*wrap, "buildah", *self._options, command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "docker"},
        )
        assert not check or done.returncode == 0, f"buildah {command}:\n{done.stdout[-4000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def builder(
    package: Path, root_user: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Builder, dict[str, Any]]]:
    """It has made the image; with its configuration."""
    require_tool("buildah")
    require_tool("debootstrap")
    directory = tmp_path_factory.mktemp("container")
    build = Builder(directory)
    # No registry is asked: Debian's own bootstrap takes the place of its image.
    base = build("from", "scratch")
    build("add", base, debian_tree(), "/")
    build("commit", "--rm", base, "localhost/debian:12-slim")
    (directory / "context").mkdir()
    shutil.copy(package, directory / "context")
    build(
        "build",
        *("--from", "localhost/debian:12-slim", "-f", REPOSITORY / "packaging" / "Containerfile"),
        *("-t", "takhin", directory / "context"),
    )
    yield build, json.loads(build("inspect", "--type", "image", "takhin"))["Docker"]["config"]
    shutil.rmtree(directory, ignore_errors=True)


def test_the_image_says_how_it_is_run(builder: tuple[Builder, dict[str, Any]]) -> None:
    _, config = builder
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/var/lib/takhin"]
    ports = {f"{address.parse(addr).port}/tcp" for addr in (Config().grpc.addr, Config().http.addr)}
    assert set(config["ExposedPorts"]) == ports
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "takhin", "health"]


def test_the_container_serves_and_its_health_check_passes(builder: tuple[Builder, dict[str, Any]]) -> None:
    build, config = builder
    serve = shlex.join([*config["Entrypoint"], *config["Cmd"]])
    check = shlex.join(config["Healthcheck"]["Test"][1:])
    script = (
        f"id -u; {check} && echo too soon; {serve} & server=$!; "
        f"for n in $(seq 100); do {check} && break; sleep 0.1; done; "
        "takhin topic create t && echo hello | takhin produce t && takhin consume t --max-records 1; "
        "ls -d /var/lib/takhin/t-0; kill $server; wait $server; echo rc $?"
    )
    container = build("from", "takhin")
    # A network of its own: nobody listens on its ports there.
    alone = ("unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    said = build("run", container, "--", "sh", "-c", script, wrap=alone)
    assert said.splitlines()[0] == "10001"
    assert "too soon" not in said
    assert "healthy, SERVING" in said
    assert "\nhello\n" in said
    assert "\n/var/lib/takhin/t-0\n" in said
    assert said.endswith("rc 0")
    assert '"msg": "serving"' in said, "its log is JSON"
    build("rm", container)
