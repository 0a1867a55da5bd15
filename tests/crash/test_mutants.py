"""Bugs planted on purpose: each must break the invariant that it is meant to, and nothing else may break any.

The scenarios run in the debug build, a process each (``mutation``); one of them serves all tests of this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from takhin import _os
from tests.debug_build import REPOSITORY, run_debug

from .checker import INVARIANTS
from .mutants import MUTANTS, plant
from .scenarios import SCENARIOS

#: All scenarios run once, for all tests here: 20 s on a quiet machine.
pytestmark = pytest.mark.timeout(420)
PLAYED = {name: mutant for name, mutant in MUTANTS.items() if mutant.scenario}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the checker saw, by mutant, or by scenario without one."""
    plays = str(tmp_path_factory.mktemp("plays"))
    done = run_debug("-m", "tests.crash.mutation", plays, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {result["mutant"] or result["scenario"]: result for result in found}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_server_without_a_planted_bug_passes(scenario: str, results: dict[str, dict[str, Any]]) -> None:
    # First: of a play that broke off, what is missing says little.
    assert results[scenario]["trouble"] == ""
    assert results[scenario]["violations"] == []


@pytest.mark.parametrize("name", PLAYED)
def test_a_planted_bug_is_caught(name: str, results: dict[str, dict[str, Any]]) -> None:
    result = results[name]
    broken = {invariant for invariant, _ in result["violations"]}
    assert PLAYED[name].breaks in broken, result


def test_the_table_of_planted_bugs(
    results: dict[str, dict[str, Any]], pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shown with -v, which takes back the -q of pyproject.toml."""
    lines = []
    for name, mutant in MUTANTS.items():
        broken = sorted({invariant for invariant, _ in results[name]["violations"]}) if mutant.scenario else []
        found = ", ".join(map(str, broken)) or str(mutant.breaks)
        lines.append(f"{name:38} {mutant.scenario or 'a run of the driver':34} breaks {found:12} {mutant.what}")
    assert len(lines) >= 15
    if pytestconfig.get_verbosity() >= 0:
        with capsys.disabled():
            print("\n" + "\n".join(lines))


def test_there_is_a_planted_bug_for_each_invariant() -> None:
    assert {mutant.breaks for mutant in MUTANTS.values()} == set(INVARIANTS)


@pytest.mark.skipif(_os.DEBUG, reason="this is the debug build")
def test_no_bug_can_be_planted_in_the_release_build(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="debug build"):
        plant("forget_sequences")
    command = [sys.executable, "-m", "tests.crash.mutant_server", "forget_sequences", "serve", "--data-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "data")], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "debug build only" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_documentation_names_every_planted_bug() -> None:
    page = (REPOSITORY / "docs" / "durability.md").read_text()
    assert [name for name in MUTANTS if f"`{name}`" not in page] == []
