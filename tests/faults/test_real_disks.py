"""Real filesystems that fail: write-back errors, power cuts, full, read-only. Where root, mount and loop
devices are to be had; skipped elsewhere, with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .mounts import Ext4, ext4, fill_up, resize, tmpfs
from .once import result_of
from .shim import REPOSITORY

SEED = int(os.environ.get("TAKHIN_SEED", "1"))
CUTS = int(os.environ.get("TAKHIN_REAL_CUTS", "3"))


@contextmanager
def producing(directory: Path, marks: Path, size: int = 1000) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.on_disk", "produce", str(directory), str(marks), str(size)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=10)[1][-3000:]
        yield process
    finally:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says at its end; it comes to it by itself."""
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out)
    return result


def recovers(directory: Path, marks: Path) -> None:
    """All that was acknowledged at -1 is there, and work goes on."""
    assert result_of("on_disk", "check", str(directory), str(marks))["acknowledged"] > 0


def bounds(directory: Path) -> dict[str, list[int]]:
    """Of all logs, as an engine finds them; it can read everything."""
    found: dict[str, list[int]] = result_of("start_only", str(directory))
    return found


def test_after_a_real_write_back_error_nothing_is_believed_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    # Without a journal: with one, ext4 would rather turn read-only as a whole.
    with (
        tmpfs(tmp_path / "small", 24) as small,
        ext4(small / "image", tmp_path / "disk", 200, journal=False) as disk,
    ):
        marks = tmp_path / "marks"
        with producing(disk.place / "data", marks, size=8000) as process:
            found = outcome(process)  # the image's room in memory comes to its end by itself
        assert found["offline"]
        assert found["health"] == "unhealthy"
        assert found["unreadable"] == 0
        assert set(found["said"]) <= {"DurabilityUnknown", "LogOffline"}
        resize(small, 300)
        # The same mount: what the page cache holds of lost pages must not be believed.
        shown = bounds(disk.place / "data")
        disk.unmount()
        disk.mount()
        assert bounds(disk.place / "data") == shown, "what was shown was on no disk"
        recovers(disk.place / "data", marks)


def test_a_real_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with tmpfs(tmp_path / "memory", 400) as memory:
        for cut in range(CUTS):
            with ext4(memory / f"image{cut}", tmp_path / f"disk{cut}", 100) as disk:
                marks.unlink(missing_ok=True)
                with producing(disk.place / "data", marks) as process:
                    time.sleep(0.05 + 0.13 * ((SEED + cut) % 5))
                    disk.cut_power()
                    found = outcome(process)
                assert found["offline"]
                disk.unmount()
                disk.mount()
                recovers(disk.place / "data", marks)


def test_a_disk_that_turns_read_only_is_as_a_failed_flush(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with (
        tmpfs(tmp_path / "memory", 200) as memory,
        ext4(memory / "image", tmp_path / "disk", 100, "errors=remount-ro") as disk,
    ):
        with producing(disk.place / "data", marks) as process:
            disk.turn_read_only()
            found = outcome(process)
        assert found["offline"]
        assert found["unreadable"] == 0
        assert set(found["said"]) <= {"DurabilityUnknown", "LogOffline"}
        recovers_after_repair(disk, marks)


def recovers_after_repair(disk: Ext4, marks: Path) -> None:
    disk.unmount()
    subprocess.run(["fsck.ext4", "-fy", str(disk.image)], capture_output=True, check=False)
    disk.mount()
    recovers(disk.place / "data", marks)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_refuses_goes_on_by_itself_and_starts_without_a_byte_free(tmp_path: Path, kind: str) -> None:
    marks = tmp_path / "marks"
    with tmpfs(tmp_path / "memory", 200 if kind == "ext4" else 48) as memory:
        if kind == "tmpfs":
            check_full_disk(memory, marks)
        else:
            with ext4(memory / "image", tmp_path / "disk", 48) as disk:
                check_full_disk(disk.place, marks)


def check_full_disk(place: Path, marks: Path) -> None:
    with producing(place / "data", marks) as process:
        fill_up(place)
        time.sleep(0.3)
        assert process.poll() is None, "it ended"
        (place / "ballast").unlink()
        ready = watermark_grows(process, marks)
        assert ready < 5, f"it took {ready} s until records were taken again"
        fill_up(place)
        time.sleep(0.2)
        assert process.stdin is not None
        process.stdin.write("enough\n")
        process.stdin.flush()
        found = outcome(process)
    assert found["said"] == ["DiskFull"]
    assert not found["offline"]
    fill_up(place)
    assert bounds(place / "data"), "it does not start on a full disk"
    (place / "ballast").unlink()
    recovers(place / "data", marks)


def watermark_grows(process: subprocess.Popen[str], marks: Path) -> float:
    """Seconds until something more is acknowledged."""
    began = time.monotonic()
    before = marks.read_bytes().count(b'"m": "ack"')
    while marks.read_bytes().count(b'"m": "ack"') < before + 3:
        assert process.poll() is None, f"it ended: {process.communicate()}"
        assert time.monotonic() < began + 15, "nothing is acknowledged any more"
        time.sleep(0.02)
    return time.monotonic() - began
