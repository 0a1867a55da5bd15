"""Builds the clients in other languages, each once: again only when its sources or the proto change."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.conftest import missing, require_tool
from tests.integration.server_process import REPOSITORY

PROTO_ROOT = REPOSITORY / "proto"
PROTO = PROTO_ROOT / "takhin" / "v1" / "takhin.proto"
SOURCES = REPOSITORY / "tests" / "integration" / "clients"
OUT = REPOSITORY / "build" / "clients"
BUILD_TIMEOUT_S = 900


def go_client() -> list[str]:
    go = require_tool("go")

    def build(out: Path) -> None:
        for source in (SOURCES / "go").iterdir():
            shutil.copy(source, out)
        _run(
            [go, "build", "-o", f"{out}/", "google.golang.org/protobuf/cmd/protoc-gen-go"]
            + ["google.golang.org/grpc/cmd/protoc-gen-go-grpc"],
            out,
        )
        (out / "gen").mkdir()
        package = f"paths=source_relative,M{PROTO.relative_to(PROTO_ROOT)}=takhin.test/drive/gen/takhin/v1"
        _run(
            [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO_ROOT}"]
            + [f"--plugin=protoc-gen-go={out}/protoc-gen-go", f"--plugin=protoc-gen-go-grpc={out}/protoc-gen-go-grpc"]
            + ["--go_out=gen", f"--go_opt={package}", "--go-grpc_out=gen", f"--go-grpc_opt={package}", str(PROTO)],
            out,
        )
        _run([go, "build", "-o", "drive", "."], out)

    return [str(_built("go", build) / "drive")]


def node_client() -> list[str]:
    node, npm = require_tool("node"), require_tool("npm")

    def build(out: Path) -> None:
        for source in (SOURCES / "node").iterdir():
            if source.is_file():
                shutil.copy(source, out)
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], out)

    return [node, str(_built("node", build) / "drive.js")]


def java_program(main_class: str) -> list[str]:
    """A command that runs a class of clients/java, or of the libraries that it needs."""
    java, maven = require_tool("java"), require_tool("mvn")

    def build(out: Path) -> None:
        _run([maven, "-B", "-q", "-f", str(SOURCES / "java" / "pom.xml"), f"-Dout={out}", "package"], out)

    out = _built("java", build)
    return [java, "-Xmx256m", "-cp", f"{out}/classes:{out}/lib/*", main_class]


def run_client(command: Sequence[str], timeout_s: float = 90) -> str:
    """What it prints; an AssertionError with everything it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _built(language: str, build: Callable[[Path], None]) -> Path:
    out = OUT / language
    stamp = OUT / f"{language}.stamp"
    OUT.mkdir(parents=True, exist_ok=True)
    # Test processes side by side must not build the same thing twice.
    with (OUT / f"{language}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = _digest(language)
        if not (stamp.exists() and stamp.read_text() == digest):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            try:
                build(out)
            except subprocess.CalledProcessError as failure:
                # Off line, for one, the libraries cannot be fetched.
                missing(f"the {language} client cannot be built: {failure}\n{failure.stdout}\n{failure.stderr}")
            stamp.write_text(digest)
    return out


def _digest(language: str) -> str:
    digest = hashlib.sha256()
    sources = [PROTO, *(path for path in (SOURCES / language).rglob("*") if path.is_file())]
    for path in sorted(sources):
        digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=True)
