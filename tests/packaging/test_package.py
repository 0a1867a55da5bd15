"""The Debian package, looked at from outside, and its unit."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import require_tool

from .machine import DIST, REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
UNIT = REPOSITORY / "systemd" / "takhin.service"


def output(*command: str | Path, check: bool = True) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=200,
    )
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def contents(package: Path) -> dict[str, tarfile.TarInfo]:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            return {member.name.removeprefix("."): member for member in archive}


def test_the_package_holds_what_belongs_to_a_service(package: Path) -> None:
    files = contents(package)
    for name in (
        "/etc/takhin.yaml",
        "/usr/bin/takhin",
        "/usr/lib/takhin/takhin",
        "/usr/lib/systemd/system/takhin.service",
        "/usr/share/man/man1/takhin.1.gz",
        "/usr/share/man/man5/takhin.yaml.5.gz",
        "/usr/share/bash-completion/completions/takhin",
        "/usr/share/zsh/vendor-completions/_takhin",
        "/usr/share/fish/vendor_completions.d/takhin.fish",
        "/usr/share/doc/takhin/changelog.gz",
        "/usr/share/doc/takhin/copyright",
        "/usr/share/doc/takhin/examples/restart-backoff.conf",
        "/usr/share/doc/takhin/LICENSES.txt.gz",
        "/usr/share/doc/takhin/takhin.cdx.json.gz",
    ):
        assert name in files
    assert files["/usr/bin/takhin"].linkname == "../lib/takhin/takhin"
    assert {(member.uid, member.gid) for member in files.values()} == {(0, 0)}
    assert [name for name, member in files.items() if member.mode & 0o6022 and not member.issym()] == []
    assert not [name for name in files if name.startswith(("/var", "/run"))], "made by the unit and the scripts"


def test_the_package_says_what_it_needs(package: Path) -> None:
    fields = output("dpkg-deb", "-f", package)
    assert "Architecture: amd64" in fields
    assert re.search(r"^Depends: .*\blibc6 \(>= 2\.(3[0-6]|2\d)\)", fields, re.MULTILINE)
    assert "python" not in re.search(r"^Depends: (.*)$", fields, re.MULTILINE)[1]  # type: ignore[index]
    assert output("dpkg-deb", "-I", package, "conffiles") == "/etc/takhin.yaml\n"


def test_lintian_finds_nothing_but_what_is_explained(package: Path) -> None:
    require_tool("lintian")
    options = ["--allow-root", "--fail-on", "none", "--tag-display-limit", "0", "--display-info", "--pedantic"]
    found = output("lintian", *options, package)
    assert [line for line in found.splitlines() if not line.startswith("N:")] == []


@pytest.mark.parametrize("page", ["man1/takhin.1", "man5/takhin.yaml.5"])
def test_the_manual_pages_render_without_a_warning(package: Path, page: str, tmp_path: Path) -> None:
    require_tool("man")
    output("dpkg-deb", "-x", package, tmp_path)
    path = tmp_path / "usr/share/man" / f"{page}.gz"
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rendered = output("man", "-l", path)
    for word in ("takhin serve", "--config") if page.startswith("man1") else ("grpc.addr", "retention.ms"):
        assert word in rendered


def test_the_scripts_are_posix_shell() -> None:
    for name in ("postinst", "prerm", "postrm"):
        output("sh", "-n", REPOSITORY / "packaging" / "debian" / name)


def test_the_unit_is_exposed_little() -> None:
    require_tool("systemd-analyze")
    report = output("systemd-analyze", "security", "--no-pager", "--offline=true", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found is not None
    assert float(found[1]) <= 1.5


def test_the_example_of_a_back_off_is_one_that_systemd_takes(tmp_path: Path) -> None:
    require_tool("systemd-analyze")
    text = (REPOSITORY / "systemd" / "restart-backoff.conf").read_text()
    unit = tmp_path / "example.service"
    unit.write_text(f"{text}Type=oneshot\nExecStart=/bin/true\n".replace("[Service]\n", "[Service]\nRestartSec=2\n"))
    version = int(re.match(r"systemd (\d+)", output("systemd-analyze", "--version"))[1])  # type: ignore[index]
    complaints = output("systemd-analyze", "verify", "--man=no", unit, check=False).splitlines()
    # Older ones pass the keys over; a word that none knows would be among them.
    unknown = ["'RestartSteps'", "'RestartMaxDelaySec'"] if version < 254 else []
    assert len(complaints) == len(unknown), complaints
    assert all(key in line for key, line in zip(unknown, complaints, strict=True)), complaints


def test_what_is_built_is_what_is_packed(package: Path) -> None:
    files = contents(package)
    for path in (DIST / "folder").rglob("*"):
        if path.is_file():
            assert files[f"/usr/lib/takhin/{path.relative_to(DIST / 'folder')}"].size == path.stat().st_size
