"""A write that failed before the start, of which the system tells at the first flush, does not keep a server down."""

from __future__ import annotations

from pathlib import Path

from tests.debug_build import run_debug

SCRIPT = """
import os, sys, threading
from pathlib import Path
from takhin import _os
from tests.faults.backend import open_engine
from takhin._fastlog import RecordSpans

if sys.argv[2] == "write":
    engine = open_engine(Path(sys.argv[1]))
    engine.create_topic("t", 1, 1, {})
    for n in range(20):
        done = threading.Event()
        records = RecordSpans.from_records([(None, b"%d" % n, [], 1)])
        engine.append("t", 0, records, -1, None, lambda outcome: done.set())
        assert done.wait(10)
    os._exit(0)
_os.plan_faults(sys.argv[2])
engine = open_engine(Path(sys.argv[1]))
assert _os.fault_counts()["flush"] >= 2
reader = engine.open_reader("t", 0, 0)
count = 0
while (batches := reader.read(1 << 20)) is not None:
    count += len(list(batches.records()))
    reader.advance(batches.next_offset)
print(count, engine.health().status)
reader.close()
engine.stop()
"""


def test_a_start_reads_the_disk_when_a_write_of_before_has_failed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    written = run_debug("-c", SCRIPT, str(data), "write")
    assert written.returncode == 0, written.stderr
    started = run_debug("-c", SCRIPT, str(data), "flush:1:EIO")
    assert started.returncode == 0, started.stderr
    assert started.stdout.split() == ["20", "healthy"]
    assert "a write of before the start has failed" in started.stderr


def test_a_disk_that_still_fails_is_not_believed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run_debug("-c", SCRIPT, str(data), "write").returncode == 0
    started = run_debug("-c", SCRIPT, str(data), "flush:1:EIO:2")
    assert started.returncode != 0
    assert "Input/output error" in started.stderr
