"""Threads that stay with a partition, in tests that stand something in for a file."""

from __future__ import annotations

import pytest

from takhin.storage import flush_loop
from tests.reference.flush_loop import PythonFlushLoop


@pytest.fixture
def loop_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush_loop, "FlushLoop", PythonFlushLoop)
