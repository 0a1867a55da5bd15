"""A disk that makes writes wait holds up who writes, and not everybody else in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .shim import REPOSITORY, environment

#: What each write waits for, and how many there are.
DELAY_S = 0.3
WRITES = 5

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
for n in range(int(sys.argv[3])):
    file.append(batch, n * batch.size, n)
stopped.set()
other.join()
json.dump(pauses, sys.stdout)
"""


def pauses(shim: Path, directory: Path, size: int, delay_s: float = DELAY_S) -> list[float]:
    """Of a thread that lives beside one that appends records of ``size`` bytes, seconds."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory / "segment.log"), str(size), str(WRITES)],
        cwd=REPOSITORY,
        env=environment(shim, directory, write_delay_us=int(delay_s * 1e6)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


def test_small_writes_that_wait_hold_up_nobody_but_for_the_first(shim: Path, tmp_path: Path) -> None:
    long = [pause for pause in pauses(shim, tmp_path, 100) if pause > 0.8 * DELAY_S]
    assert len(long) <= 1, long


def test_large_writes_that_wait_hold_up_nobody(shim: Path, tmp_path: Path) -> None:
    found = pauses(shim, tmp_path, 200_000)
    assert not [pause for pause in found if pause > 0.8 * DELAY_S], found
    assert sum(found) > 0.8 * DELAY_S * WRITES
