"""Where figures come from: the machine, its disk, and the commit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine(directory: Path) -> dict[str, Any]:
    """``directory`` is on the disk that was written to."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "disk": disk(directory),
    }


def disk(directory: Path) -> dict[str, float]:
    """What the disk gives without any server: flushes after small writes, and a long write with one flush."""
    with tempfile.TemporaryFile(dir=directory) as file:
        fd, times = file.fileno(), []
        for n in range(200):
            os.pwrite(fd, bytes(1100), 1100 * n)
            began = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - began)
        block = os.urandom(1 << 20)
        began = time.perf_counter()
        for n in range(512):
            os.pwrite(fd, block, n << 20)
        os.fdatasync(fd)
        written = 512 * (1 << 20) / (time.perf_counter() - began) / 1e6
        chunks = []
        for n in range(100):
            os.pwrite(fd, block[: 256 << 10], n * (256 << 10))
            began = time.perf_counter()
            os.fdatasync(fd)
            chunks.append(time.perf_counter() - began)
    return {
        "flush_1k_p50_ms": 1000 * statistics.median(times),
        "flush_256k_p50_ms": 1000 * statistics.median(chunks),
        "write_and_flush_megabytes_per_second": written,
    }


def warm_page_cache(directory: Path, size: int = 3 << 30) -> None:
    """Write and remove a file, so that the pages that the servers write to have been used before. On a virtual
    machine whose memory is new, the first use of each page costs more than everything else."""
    block = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=directory) as file:
        for n in range(size >> 20):
            os.pwrite(file.fileno(), block, n << 20)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
