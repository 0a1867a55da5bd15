"""What the tests of faults share: the shim, and room to make many small directories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing

from .shards import scratch_directory
from .shim import build_shim, compiler


@pytest.fixture(scope="session")
def shim() -> Path:
    """The library that stands between a process and its files."""
    if compiler() is None:
        missing("there is no C compiler")
    return build_shim()


@pytest.fixture
def scratch() -> Iterator[Path]:
    with scratch_directory() as directory:
        yield directory
