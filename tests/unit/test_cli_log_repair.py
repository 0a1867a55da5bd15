"""log repair: says what it would do, does it when told, keeps what it takes."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from takhin._fastlog import RecordSpans
from takhin._segment import SegmentFile, SegmentIndex
from takhin.cli.main import cli
from takhin.storage import fs

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["log", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """Offsets 0 to 39 in one segment, ten batches, with its index files."""
    directory = tmp_path / "data" / "orders-0"
    directory.mkdir(parents=True)
    index, position = SegmentIndex(0, 100), 0
    file = SegmentFile(fs.segment_path(str(directory), 0, ".log"), create=True)
    for base_offset in range(0, 40, 4):
        batch = RecordSpans.from_records([(None, b"value", [], 1_000 + base_offset)] * 4).frame(0)
        file.append(batch, position, base_offset)
        index.note_batch(batch, base_offset, position)
        position += batch.size
    index.seal()
    Path(fs.segment_path(str(directory), 0, ".index")).write_bytes(index.offset_bytes())
    Path(fs.segment_path(str(directory), 0, ".timeindex")).write_bytes(index.time_bytes())
    return directory


def segment(partition: Path) -> Path:
    return Path(fs.segment_path(str(partition), 0, ".log"))


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_a_whole_log_needs_nothing(run: Run, partition: Path) -> None:
    before = tree(partition.parent)
    assert "nothing to do" in run("repair", partition.parent, "--yes").output
    assert tree(partition.parent) == before


def test_a_torn_tail_is_cut_only_when_told_and_kept(run: Run, partition: Path) -> None:
    whole = segment(partition).read_bytes()
    segment(partition).write_bytes(whole + b"torn" * 5)
    before = tree(partition.parent)
    assert f"would: cut 20 bytes at {len(whole)}" in run("repair", partition.parent, code=1).output
    assert tree(partition.parent) == before
    assert "done: cut 20 bytes" in run("repair", partition.parent, "--yes").output
    assert segment(partition).read_bytes() == whole
    [copy] = (partition.parent / "quarantine").glob("*.torn")
    assert copy.read_bytes() == b"torn" * 5
    run("verify", partition.parent)


def test_a_partition_directory_alone_keeps_things_in_its_data_directory(run: Run, partition: Path) -> None:
    segment(partition).write_bytes(segment(partition).read_bytes()[:-3])
    run("repair", partition, "--yes")
    assert len(list((partition.parent / "quarantine").glob("*.torn"))) == 1
    run("verify", partition)


def test_wrong_index_files_are_taken_away_and_kept(run: Run, partition: Path) -> None:
    index = Path(fs.segment_path(str(partition), 0, ".index"))
    data = bytearray(index.read_bytes())
    data[7] ^= 1
    index.write_bytes(data)
    output = json.loads(run("repair", partition.parent, "--yes", "--json").output)
    assert not index.exists()
    assert output["cannot"] == []
    assert any(Path(path).read_bytes() == data for path in output["done"][0]["kept_in"])
    run("verify", partition.parent)


def test_damage_with_good_records_behind_it_stays_and_is_told(run: Run, partition: Path) -> None:
    data = bytearray(segment(partition).read_bytes())
    data[len(data) // 2] ^= 1
    segment(partition).write_bytes(data)
    before = tree(partition.parent)
    assert "cannot:" in run("repair", partition.parent, "--yes", code=6).output
    assert tree(partition.parent) == before


def test_it_keeps_off_a_directory_that_a_server_has(run: Run, partition: Path) -> None:
    segment(partition).write_bytes(segment(partition).read_bytes() + b"torn")
    with (partition.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use" in run("repair", partition.parent, "--yes", code=5).output
    assert segment(partition).read_bytes().endswith(b"torn")
