"""Short writes and interrupted calls go unnoticed; without descriptors the engine lives, waits and recovers."""

from __future__ import annotations

from pathlib import Path

from tests.debug_build import debug_tree

from .once import result_of
from .shards import run_shards
from .shim import environment


def test_short_writes_and_interrupted_calls_go_unnoticed(shim: Path, scratch: Path) -> None:
    victims, marks = scratch / "victims", scratch / "marks"
    victims.mkdir()
    marks.mkdir()
    found = run_shards(
        "tests.faults.rough_calls",
        [str(victims), str(marks)],
        scratch,
        [],
        environment(shim, victims, python_path=debug_tree()),
    )
    found.demand_none("rough-calls")
    assert found.counts["runs"] == 25


def test_without_descriptors_it_says_so_does_not_spin_and_recovers(tmp_path: Path) -> None:
    found = result_of("few_descriptors", str(tmp_path / "data"), timeout=60)
    assert "DescriptorsExhausted" in found["said"]
    assert set(found["said"]) <= {"ok", "DescriptorsExhausted", "Timeout"}
    assert found["health"] == "healthy"
    assert found["cpu"] < 0.3, "it spins"
    assert found["took"] < 5
