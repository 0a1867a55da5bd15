"""A disk that makes writes wait holds up who writes, and not everybody else in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .shim import REPOSITORY, environment

#: What each write waits for, and how many there are.
DELAY_S = 0.3
WRITES = 5
#: Beyond the time for which a slow write is remembered.
LATER_S = 1.2

SCRIPT = """
import json
import sys
import threading
import time

from takhin._fastlog import RecordSpans
from takhin._segment import SegmentFile

spans = RecordSpans.from_records([(None, bytes(int(sys.argv[2])), [], 1)])
batch = spans.frame(max_bytes=1 << 20, now_ms=1)
file = SegmentFile(sys.argv[1], create=True)
stopped = threading.Event()
pauses = []


def live():
    before = time.monotonic()
    while not stopped.wait(0.001):
        now = time.monotonic()
        pauses.append(now - before)
        before = now


other = threading.Thread(target=live)
other.start()
while not pauses:
    time.sleep(0.001)
for n in range(int(sys.argv[3])):
    file.append(batch, n * batch.size, n)
    time.sleep(float(sys.argv[4]))
stopped.set()
other.join()
json.dump(pauses, sys.stdout)
"""


def pauses(shim: Path, directory: Path, size: int, writes: int = WRITES, between_s: float = 0.0) -> list[float]:
    """Of a thread that lives beside one that appends records of ``size`` bytes, seconds."""
    arguments = [str(directory / "segment.log"), str(size), str(writes), str(between_s)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=REPOSITORY,
        env=environment(shim, directory, write_delay_us=int(DELAY_S * 1e6)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    assert sum(found) > 0.8 * DELAY_S * writes
    return found


def held_up(found: list[float]) -> int:
    """How many writes did that."""
    return sum(pause > 0.8 * DELAY_S for pause in found)


@pytest.mark.parametrize("size", [100, 100_000])
def test_of_short_writes_that_wait_only_the_first_holds_up_others(shim: Path, tmp_path: Path, size: int) -> None:
    assert held_up(pauses(shim, tmp_path, size)) == 1


def test_a_slow_write_is_forgotten_after_a_second(shim: Path, tmp_path: Path) -> None:
    assert held_up(pauses(shim, tmp_path, 100, writes=2, between_s=LATER_S)) == 2


def test_long_writes_that_wait_hold_up_nobody(shim: Path, tmp_path: Path) -> None:
    assert held_up(pauses(shim, tmp_path, 200_000)) == 0
