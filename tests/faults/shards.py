"""Runs the same work in several processes, each with its share, and gathers what they found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .shim import REPOSITORY

#: Where directories of failed states are kept.
#: How many failures are shown and kept.
SHOWN = int(os.environ.get("TAKHIN_SHOWN", "5"))
FAILURES = REPOSITORY / "build" / "faults" / "failures"


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """In memory, if the machine has a place for that."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    if base and shutil.disk_usage(base).free < 256 << 20:
        base = None
    with tempfile.TemporaryDirectory(prefix="takhin-faults-", dir=base) as directory:
        yield Path(directory)


@dataclass(slots=True)
class Found:
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))

    def demand_none(self, what: str) -> None:
        """AssertionError naming the first failures; their directories are kept."""
        if not self.failures:
            return
        place = FAILURES / what
        shutil.rmtree(place, ignore_errors=True)
        for number, failure in enumerate(self.failures[:SHOWN]):
            if "kept" in failure:
                kept = place / str(number)
                shutil.copytree(failure["kept"], kept)
                failure["kept"] = str(kept)
        shown = "\n".join(json.dumps(failure) for failure in self.failures[:SHOWN])
        raise AssertionError(f"{len(self.failures)} failures in {what} ({self}); the first:\n{shown}")


def run_shards(
    module: str,
    arguments: list[str],
    scratch: Path,
    after: list[str],
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 3600,
) -> Found:
    """``python -m MODULE ARGUMENTS SCRATCH SHARD SHARDS AFTER`` for each processor. Each prints one JSON object
    with ``counts`` and ``failures``."""
    shards = max(len(os.sched_getaffinity(0)), 1)
    processes = []
    for shard in range(shards):
        place = scratch / f"shard-{shard}"
        place.mkdir()
        command = [sys.executable, "-m", module, *arguments, str(place), str(shard), str(shards), *after]
        processes.append(
            subprocess.Popen(
                command,
                cwd=scratch,  # not the repository: PYTHONPATH says which build is imported
                env=dict(environment or {**os.environ, "PYTHONPATH": str(REPOSITORY)}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    found = Found()
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout_s)
            assert process.returncode == 0, f"{module} ended with {process.returncode}:\n{err.decode()[-4000:]}"
            result = json.loads(out.decode().splitlines()[-1])
            found.counts.update(result["counts"])
            found.failures += result["failures"]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return found
