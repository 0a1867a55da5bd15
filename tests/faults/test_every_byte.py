"""kill -9 at every byte that is written takes nothing back that was acknowledged, at 1 or at -1.

``TAKHIN_KILLS``: how many bytes of the log are tried, chosen by ``TAKHIN_SEED``, and half as many of
the database; 0: every one of the log, and as many of the database.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .shards import run_shards
from .shim import environment

KILLS = int(os.environ.get("TAKHIN_KILLS", "150"))
SEED = int(os.environ.get("TAKHIN_SEED", "1"))


@pytest.mark.timeout(0 if KILLS == 0 or KILLS > 1000 else 300)
def test_no_kill_takes_back_what_was_acknowledged(
    shim: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victims, marks = scratch / "victims", scratch / "marks"
    victims.mkdir()
    marks.mkdir()
    found = run_shards(
        "tests.faults.every_byte",
        [str(victims), str(marks)],
        scratch,
        [str(KILLS), str(SEED)],
        environment(shim, victims),
    )
    with capsys.disabled():
        print(f"\nkills: {found}")
    found.demand_none("kills")
    assert found.counts["killed in the log"] > 100
    assert found.counts["killed in the database"] > 50
