"""A module of this folder, run once in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .shim import REPOSITORY


def result_of(module: str, *arguments: str, timeout: float = 40) -> Any:
    """What it prints, as JSON; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{module}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
