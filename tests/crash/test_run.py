"""A run of the driver: real processes, real kills. What failed is kept under build/crash/."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import pytest

from .driver import KEPT, Outcome, new_seed, run_once

#: Seconds of faults; the run's end takes some more.
SECONDS = 60.0 if os.environ.get("CI") == "true" else 18.0
#: Serving again after a kill takes less than this, seconds, when the machine has nothing else to do. It has: eight
#: producers, and what else is built and tested there. So once is enough, and the rest gets some slack.
RECOVERED_S = 2.0
RECOVERED_UNDER_LOAD_S = 6.0


def kept_directory(seed: str) -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=KEPT))


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_that_was_promised_is_broken_by_kills_stops_and_pauses(capsys: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get("TAKHIN_CRASH_SEED") or new_seed()
    directory = kept_directory(seed)
    say(capsys, f"crash run, seed {seed}: TAKHIN_CRASH_SEED={seed} repeats it; in {directory}")
    outcome = run_once(seed, SECONDS, directory)
    say(capsys, outcome.summary())
    assert not outcome.violations, outcome.complaint()
    assert_worth_something(outcome)
    assert min(outcome.tally.recoveries) < RECOVERED_S, outcome.complaint()
    assert statistics.median(outcome.tally.recoveries) < RECOVERED_UNDER_LOAD_S, outcome.complaint()
    shutil.rmtree(directory)


def assert_worth_something(outcome: Outcome) -> None:
    """A run in which little happened proves little."""
    assert outcome.tally.faults["kill"] + outcome.tally.faults["kill in recovery"] >= 2, outcome.complaint()
    assert outcome.records_acknowledged > 200, outcome.complaint()
    assert outcome.records_drained > 200, outcome.complaint()
    assert outcome.records_read > 200, outcome.complaint()
    assert outcome.operations["set", "ok"] > 5, outcome.complaint()
    assert outcome.operations["find_time", "ok"] > 1, outcome.complaint()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_against_a_server_with_a_planted_bug_fails() -> None:
    """The same driver, the same checker; answers of streams are mixed up in the server."""
    for _ in range(10):
        # Only answers that go out together are mixed up, which not every run of two seconds has.
        seed = new_seed()
        directory = kept_directory(seed)
        outcome = run_once(seed, 2.0, directory, mutant="answers_out_of_order")
        if outcome.violations:
            break
        shutil.rmtree(directory)
    assert {violation.invariant for violation in outcome.violations} & {1, 2, 4}, outcome.complaint()
    shutil.rmtree(directory)
