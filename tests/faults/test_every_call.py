"""Each system call of the server fails once and for good: the outcome is the documented one, and
nothing that was acknowledged is lost.

``TAKHIN_CALLS``: how many cases are tried, chosen by ``TAKHIN_SEED``; 0: all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.debug_build import debug_tree

from .shards import run_shards
from .shim import environment

CASES = int(os.environ.get("TAKHIN_CALLS", "300"))
SEED = int(os.environ.get("TAKHIN_SEED", "1"))


@pytest.mark.timeout(0 if CASES == 0 or CASES > 1000 else 400)
def test_every_system_call_may_fail(shim: Path, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victims, marks = scratch / "victims", scratch / "marks"
    victims.mkdir()
    marks.mkdir()
    found = run_shards(
        "tests.faults.every_call",
        [str(victims), str(marks)],
        scratch,
        [str(CASES), str(SEED)],
        environment(shim, victims, python_path=debug_tree()),
    )
    with capsys.disabled():
        print(f"\nfailed calls: {found}")
    found.demand_none("calls")
    assert found.counts["offline"] > 10
    assert found.counts["refused to start"] > 10
    assert found.counts["told, then went on"] > 3
