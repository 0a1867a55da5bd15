"""A flipped bit, or a damaged file, is detected or harmless: never a silently wrong answer, and never a byte
of a segment less.

``TAKHIN_FLIPS``: how many bytes of each of two directories are tried, chosen by ``TAKHIN_SEED``;
``TAKHIN_FLIP_ALL=1``: every byte of the log's files, and twice as many of the database.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .shards import run_shards

FLIPS = 0 if os.environ.get("TAKHIN_FLIP_ALL") else int(os.environ.get("TAKHIN_FLIPS", "350"))
SEED = int(os.environ.get("TAKHIN_SEED", "1"))


@pytest.mark.timeout(0 if FLIPS == 0 or FLIPS > 2000 else 300)
def test_flips_are_detected_or_harmless(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_shards("tests.faults.bit_flips", [], scratch, [str(FLIPS), str(SEED)])
    with capsys.disabled():
        print(f"\nflips: {found}")
    found.demand_none("flips")
    for outcome in ("clean: detected", "live: detected", "clean: harmless", "live: harmless", "live: refused"):
        assert found.counts[outcome] > 3, outcome
