"""The single executable: small, quick, and at home anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import require_tool
from tests.ports import free_port

from .machine import BINARY, DIST, REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("built")]

#: glibc of Debian 12: what the package and the documentation state.
GLIBC_FLOOR = (2, 36)


def run(*command: str | Path, check: bool = True, **more: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}"
    return str(done.stdout)


@contextlib.contextmanager
def serving(directory: Path, *before: str, binary: Path = BINARY) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of the executable that answers; gives the process and its address."""
    address = f"127.0.0.1:{free_port()}"
    config = directory / "takhin.yaml"
    config.write_text(f"data_dir: {directory}/data\ngrpc: {{addr: '{address}'}}\nhttp: {{addr: ''}}\n")
    with (directory / "log").open("ab") as log:
        command = [*before, str(binary), "--config", str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        host, _, port = address.partition(":")
        end = time.monotonic() + 30
        while True:
            assert process.poll() is None, (directory / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                break
            assert time.monotonic() < end, (directory / "log").read_text()
            time.sleep(0.01)
        yield process, address
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_it_is_smaller_than_25_mb() -> None:
    assert BINARY.stat().st_size < 25_000_000


@pytest.mark.parametrize("form", ["takhin", "folder/takhin"])
def test_the_version_is_there_in_less_than_half_a_second(form: str) -> None:
    binary = BINARY.parent / form
    run(binary, "--version")
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        assert run(binary, "--version").startswith("takhin ")
        took.append(time.perf_counter() - begun)
    print(f"{form} --version: median {statistics.median(took):.3f} s, at most {max(took):.3f} s")
    # The quicker quarter: others may be busy on this machine.
    assert statistics.quantiles(took, n=4)[0] < 0.5


def drop_caches() -> None:
    """Forget what was read from disks, as after a boot."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


@pytest.mark.parametrize("form", ["takhin", "folder/takhin"])
def test_health_is_answered_within_a_second_from_a_cold_start(form: str, root_user: None, tmp_path: Path) -> None:
    took = []
    for n in range(3):
        directory = tmp_path / str(n)
        directory.mkdir()
        drop_caches()
        begun = time.perf_counter()
        with serving(directory, binary=BINARY.parent / form) as (_, address):
            with grpc.insecure_channel(address) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            took.append(time.perf_counter() - begun)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    print(f"{form} answers health after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    # The best: others may be busy on this machine and its disk.
    assert min(took) < 1.0


def test_it_needs_nothing_from_the_environment(tmp_path: Path) -> None:
    assert re.fullmatch(r"takhin \d+\.\d+\.\d+\S*\n", run(BINARY, "--version", env={}, cwd="/"))
    assert run(BINARY, "config", "reference", env={}).startswith("# Takhin's configuration")


def test_every_command_is_inside() -> None:
    help_text = run(BINARY, "--help")
    commands = re.findall(r"^  (\w+)  ", help_text.partition("Commands:")[2], re.MULTILINE)
    assert {"serve", "topic", "produce", "reload", "completion"} <= set(commands)
    for command in commands:
        assert "Usage: takhin" in run(BINARY, command, "--help")


def test_no_library_wants_more_than_debian_12_has() -> None:
    require_tool("objdump")
    newest = (0, 0)
    for path in [BINARY, *(BINARY.parent / "folder").rglob("*")]:
        if path.is_file() and path.read_bytes()[:4] == b"\x7fELF":
            symbols = run("objdump", "-T", path)
            found = [(int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", symbols)]
            newest = max([newest, *found])
    assert (2, 17) < newest <= GLIBC_FLOOR


def test_records_go_in_and_come_out_in_every_codec(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, address):
        for codec in ("producer", "gzip", "snappy", "lz4", "zstd"):
            run(BINARY, "topic", "create", codec, "--addr", address, "--config", f"compression.type={codec}")
            (tmp_path / "records").write_text(f"{codec}\n" * 100)
            run(BINARY, "produce", codec, "--addr", address, "--file", tmp_path / "records")
            assert run(BINARY, "consume", codec, "--addr", address, "--max-records", "1").splitlines()[0] == codec
        assert "healthy" in run(BINARY, "health", "--addr", address)


def test_a_signal_to_the_loader_reaches_the_server(tmp_path: Path) -> None:
    place = tmp_path / "unpack"
    place.mkdir()
    with serving(tmp_path, "env", f"TMPDIR={place}") as (process, _):
        assert len(list(place.iterdir())) == 1
        assert run(BINARY, "reload", "--data-dir", tmp_path / "data") == "changed: nothing\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert list(place.iterdir()) == [], "what was unpacked is gone"
    assert (tmp_path / "data" / "clean-shutdown").exists()
    assert (tmp_path / "log").read_text().count("reloaded") >= 1


def test_an_ordinary_user_runs_it_from_a_read_only_directory(root_user: None, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(BINARY, place / "takhin")
    script = f"mount --bind {place} {place} && mount -o remount,ro,bind {place} && cd {place} && "
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups env -i ./takhin "
    assert run("unshare", "-m", "sh", "-c", script + as_nobody + "--version").startswith("takhin ")
    failed = run("unshare", "-m", "sh", "-c", script + as_nobody + "serve", check=False)
    assert "takhin: cannot start:" in failed, "data cannot be made here, and that is said in a line"


#: Into a place of the namespace that no other mount hides, wherever this checkout is.
COPY_OUT = f"mount -t tmpfs tmpfs /mnt && cp {BINARY} /mnt/takhin"


@pytest.mark.parametrize("given", ["", "TMPDIR=/tmp"])
def test_tmp_without_execution_is_noticed_and_another_place_taken(root_user: None, given: str) -> None:
    hide = "mount -t tmpfs -o noexec,mode=1777 tmpfs /tmp"
    script = f"{COPY_OUT} && {hide} && env -i {given} /mnt/takhin --version && ls -A /tmp"
    output = run("unshare", "-m", "sh", "-c", script)
    assert re.fullmatch(r"takhin \S+\n", output)


def test_with_no_place_at_all_it_says_what_to_do(root_user: None) -> None:
    places = " && ".join(
        f"mount -t tmpfs -o noexec,mode=1777 tmpfs {place}" for place in ("/tmp", "/var/tmp", "/dev/shm")
    )
    script = f"{COPY_OUT} && {places} && env -i /mnt/takhin --version; echo rc $?"
    output = run("unshare", "-m", "sh", "-c", script)
    assert "set TMPDIR to one that is writable" in output
    assert "rc 2" in output


def test_it_runs_on_debian_without_python(tree: Path) -> None:
    assert not list((tree / "usr" / "bin").glob("python3*"))
    shutil.copy(BINARY, tree / "usr" / "local" / "bin" / "takhin")
    script = (
        "takhin serve --data-dir /root/data --set http.addr= 2>/root/log & "
        "for n in $(seq 100); do takhin health --timeout 1 2>/dev/null && break; sleep 0.1; done; "
        "takhin topic create t && echo hello | takhin produce t 2>/dev/null && "
        "takhin consume t --max-records 1 2>/dev/null; kill $!; wait $!; echo rc $?"
    )
    output = run("unshare", "-n", "sh", "-c", f"ip link set lo up; chroot {tree} sh -c '{script}'")
    assert "healthy, SERVING" in output
    assert "hello\n" in output
    assert "rc 0" in output


def test_the_bill_of_materials_names_all_that_is_inside() -> None:
    document = json.loads((BINARY.parent / "takhin.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "takhin"
    names = {component["name"].lower() for component in document["components"]}
    needed = {
        "cpython",
        "grpcio",
        "protobuf",
        "msgspec",
        "pyyaml",
        "click",
        "cramjam",
        "prometheus_client",
        "pyinstaller",
    }
    assert needed <= names
    libraries = {path.name.split(".so")[0] for path in (BINARY.parent / "folder" / "lib").glob("lib*.so*")}
    assert {"libssl", "libsqlite3"} <= libraries
    assert {"libssl3", "libsqlite3-0"} <= names
    assert all(component["version"] and component["licenses"] for component in document["components"])
    licenses = (BINARY.parent / "LICENSES.txt").read_text()
    for component in document["components"]:
        assert f"\n{component['name']} {component['version']}:" in licenses


@pytest.mark.skipif(
    os.environ.get("TAKHIN_TWICE") != "1", reason="some minutes: TAKHIN_TWICE=1 builds twice, in different folders"
)
@pytest.mark.timeout(1800)
def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    changed = run("git", "status", "--porcelain", "--", ".", ":!tests", ":!docs", ":!bench", cwd=REPOSITORY)
    commit = run("git", "rev-parse", "HEAD", cwd=REPOSITORY).strip()

    def hashes(dist: Path) -> dict[str, str]:
        (package,) = dist.glob("takhin_[0-9]*[0-9]_*.deb")
        files = [dist / "takhin", package, *(dist / "folder").rglob("*")]
        return {
            str(path.relative_to(dist)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    # What make deb has just built counts where it was built from the last commit.
    made = [] if changed else [hashes(DIST)]
    for name in ("one", "another")[len(made) :]:
        tree = tmp_path / name
        run("git", "clone", "-q", REPOSITORY, tree)
        run("git", "checkout", "-q", commit, cwd=tree)
        for script in ("packaging/binary/build.py", "packaging/debian/package.py"):
            subprocess.run(["python3", str(tree / script)], check=True, capture_output=True, timeout=900)
        made.append(hashes(tree / "dist"))
    assert len(made[0]) > 50
    assert made[0] == made[1]


def test_the_version_is_that_of_the_project() -> None:
    version = run(BINARY, "--version").split()[1]
    assert f'\nversion = "{version}"\n' in (REPOSITORY / "pyproject.toml").read_text()
