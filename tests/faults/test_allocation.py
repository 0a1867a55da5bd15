"""Blocks that cannot be had in advance are no matter: the write itself will tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.debug_build import run_debug

SCRIPT = """
import sys
from takhin import _os
from takhin._fastlog import RecordSpans
from takhin._segment import SegmentFile

file = SegmentFile(sys.argv[1], create=True)
batch = RecordSpans.from_records([(None, b"v" * 1000, [], 1)]).frame(1)
_os.plan_faults("allocate:1:" + sys.argv[2] + ":-1")
position = 1 << 23
for n in range(3):
    file.append(batch, position, n)
    position += batch.size
assert file.pread(1 << 23, 1 << 20) == b"".join(batch.tobytes(n) for n in range(3))
assert file.size() == position
file.free_blocks()
assert file.size() == position
print(_os.fault_counts()["allocate"])
"""


@pytest.mark.parametrize("error", ["ENOSPC", "EOPNOTSUPP", "EIO"])
def test_a_file_that_gets_no_blocks_in_advance_is_written_all_the_same(tmp_path: Path, error: str) -> None:
    done = run_debug("-c", SCRIPT, str(tmp_path / "0.log"), error)
    assert done.returncode == 0, done.stderr[-2000:]
    # It is asked once, and not again for every batch.
    assert done.stdout.split() == ["1"]
