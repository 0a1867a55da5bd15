"""Builds the shim, and starts processes under it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SOURCE = HERE / "shim" / "shim.c"
BUILT = REPOSITORY / "build" / "faults"

LOG, DATABASE = 0, 1
CALLS = ("open", "read", "write", "flush", "truncate", "rename", "unlink", "mkdir", "allocate", "read_cached")


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def build_shim() -> Path:
    """The shared object; compiled once for each version of its source."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    target = BUILT / f"shim-{digest}.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            cc = compiler()
            assert cc is not None
            aside = target.with_suffix(".tmp")
            command = [cc, "-shared", "-fPIC", "-O1", "-g", "-Wall", "-o", str(aside), str(SOURCE), "-ldl", "-lpthread"]
            subprocess.run(command, check=True)
            aside.rename(target)
    return target


def environment(
    shim: Path,
    root: Path,
    trace: Path | None = None,
    python_path: Path = REPOSITORY,
    flush_delay_us: int = 0,
    write_delay_us: int = 0,
) -> dict[str, str]:
    """For a process whose changes below ``root`` are watched."""
    more: Mapping[str, str] = {} if trace is None else {"FAULTS_TRACE": str(trace)}
    for name, delay_us in (("FAULTS_FLUSH_DELAY_US", flush_delay_us), ("FAULTS_WRITE_DELAY_US", write_delay_us)):
        if delay_us:
            more = {**more, name: str(delay_us)}
    return {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "FAULTS_ROOT": str(root),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(python_path), str(REPOSITORY)])),
        **more,
    }


class Plan:
    """The plan of the shim that this process runs under."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(None)
        for name in ("faults_written", "faults_seen"):
            getattr(self._shim, name).restype = ctypes.c_int64

    def clear(self) -> None:
        self._shim.faults_clear()

    def fail(self, kind: int, call: str, first: int, times: int, error: int) -> None:
        self._shim.faults_fail(kind, CALLS.index(call), ctypes.c_int64(first), ctypes.c_int64(times), error)

    def kill_at(self, kind: int, written_bytes: int) -> None:
        self._shim.faults_kill_at(kind, ctypes.c_int64(written_bytes))

    def short_every(self, kind: int, n: int) -> None:
        self._shim.faults_short_every(kind, ctypes.c_int64(n))

    def written(self, kind: int) -> int:
        return int(self._shim.faults_written(kind))

    def seen(self, kind: int, call: str) -> int:
        return int(self._shim.faults_seen(kind, CALLS.index(call)))
