"""What these suites found once, each as small as it can be told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from takhin.engine.local import LocalEngine

from .backend import EngineBackend, open_engine
from .records import make_value

CONFIGS = {"segment.bytes": "1024", "retention.ms": "-1"}


def produce(engine: LocalEngine, first: int, count: int, size: int = 200) -> None:
    for n in range(first, first + count):
        EngineBackend(engine).produce("t", 0, [(None, make_value("x", n, size).encode(), 1000 + n)], -1)


def copy_of(directory: Path, target: Path) -> Path:
    """As a killed process would leave it."""
    target.mkdir()
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(directory)).mkdir()
        else:
            (target / path.relative_to(directory)).write_bytes(path.read_bytes())
    return target


def test_a_segment_that_is_dropped_between_its_roll_and_its_flush_is_no_disk_fault(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "data")
    engine.create_topic("t", 1, 0, CONFIGS)
    produce(engine, 0, 3)
    partition = engine._manager.partitions()[0]
    with partition._lock:  # as an append does it, before anybody flushes
        partition._roll()
    engine.delete_records([("t", 0, -1)])
    produce(engine, 3, 3)
    assert engine.health().status == "healthy"
    assert sorted(path.name for path in (tmp_path / "data" / "t-0").iterdir()) == [f"{3:020d}.log"]
    engine.stop()


@pytest.mark.parametrize("lost", ["all of its bytes", "its name"])
def test_when_the_first_segment_was_never_flushed_nothing_behind_it_is_the_log(tmp_path: Path, lost: str) -> None:
    engine = open_engine(tmp_path / "data")
    engine.create_topic("t", 1, 0, CONFIGS)
    fresh = copy_of(tmp_path / "data", tmp_path / "copy")
    produce(engine, 0, 8)
    later = sorted((tmp_path / "data" / "t-0").glob("*.log"))[1:]
    assert later
    for path in later:
        os.link(path, fresh / "t-0" / path.name)
    if lost == "its name":
        (fresh / "t-0" / f"{0:020d}.log").unlink()
    engine.stop()
    engine = open_engine(fresh)
    assert EngineBackend(engine).watermarks("t", 0) == (0, 0)
    assert len(list((fresh / "quarantine").iterdir())) >= len(later)
    engine.stop()


def test_what_recovery_showed_is_no_torn_tail_later(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "data", flush_linger_ms=60_000)
    engine.create_topic("t", 1, 0, CONFIGS)
    EngineBackend(engine).produce("t", 0, [(None, b"written, not flushed", 1)], 1)
    first = copy_of(tmp_path / "data", tmp_path / "first")
    engine.stop()

    engine = open_engine(first)
    assert EngineBackend(engine).watermarks("t", 0) == (0, 1)
    second = copy_of(first, tmp_path / "second")
    engine.stop()
    segment = second / "t-0" / f"{0:020d}.log"
    data = bytearray(segment.read_bytes())
    data[-3] ^= 1
    segment.write_bytes(data)

    engine = open_engine(second)
    assert EngineBackend(engine).watermarks("t", 0) == (0, 1), "a record that was shown is damaged now, not gone"
    assert segment.read_bytes() == data
    engine.stop()
