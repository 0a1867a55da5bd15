"""What is not in memory is not waited for by who must not: it is said at once, and who may wait goes on from there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .shim import REPOSITORY, environment

SCRIPT = """
import sys
import threading
from errno import EAGAIN
from pathlib import Path

from takhin._fastlog import RecordSpans
from tests.faults.backend import open_engine
from tests.faults.shim import LOG, Plan

BATCH = 200  # about what one has

plan = Plan()
engine = open_engine(Path(sys.argv[1]))
engine.create_topic("t", 1, 1, {})
for n in range(20):
    batch = RecordSpans.from_records([(None, b"%03d" % n * 40, [], 1)])
    done = threading.Event()
    engine.append("t", 0, batch, -1, None, lambda outcome: done.set())
    assert done.wait(10)


def read(cached_only):
    batches = reader.read(BATCH, cached_only)
    assert batches is not None
    [record] = batches.records()
    found.append(record[0])
    reader.advance(batches.next_offset)


found = []
reader = engine.open_reader("t", 0, 0)
read(cached_only=False)
# The kernel has it for five batches, and then does not.
plan.fail(LOG, "read_cached", 6, -1, EAGAIN)
for _ in range(5):
    read(cached_only=True)
for _ in range(3):
    seen = plan.seen(LOG, "read_cached")
    try:
        read(cached_only=True)
    except BlockingIOError:
        assert plan.seen(LOG, "read_cached") == seen + 1
    else:
        raise AssertionError("it was read")
# Who may wait gets what is next, without a word of it.
seen = plan.seen(LOG, "read_cached")
read(cached_only=False)
assert plan.seen(LOG, "read_cached") == seen
plan.clear()
while len(found) < 20:
    read(cached_only=True)
assert reader.read(BATCH, True) is None
assert found == list(range(20)), found
reader.close()
engine.stop()
"""


def test_what_is_not_in_memory_is_left_to_who_may_wait(shim: Path, tmp_path: Path) -> None:
    """By what the kernel is made to say: a quick disk may have answered before it looks a second time."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "data")],
        cwd=REPOSITORY,
        env=environment(shim, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
