"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

#: Where `go install` puts commands, besides PATH.
GO_BIN = Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin"


# A shell that runs the tests in the background has them, and all that they start, ignore SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(reason: str) -> None:
    """A test cannot run here: a failure in CI, where everything has to be there, a skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (in CI it has to be there)", pytrace=False)
    pytest.skip(reason)


def require_tool(name: str) -> str:
    """The path of a command that is not part of this project; without it the test does not run."""
    path = shutil.which(name) or shutil.which(name, path=str(GO_BIN))
    if path is None:
        missing(f"{name} is not installed")
    assert path is not None
    return path
