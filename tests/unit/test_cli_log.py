"""log dump and log verify, on segments made by hand and then damaged."""

from __future__ import annotations

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
RECORDS = 4
INTERVAL_BYTES = 200


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["log", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def write_segment(directory: Path, base_offset: int, batches: int = 20) -> int:
    """Batches of ``RECORDS`` records with their index files; the offset behind them."""
    directory.mkdir(exist_ok=True, parents=True)
    index = SegmentIndex(base_offset, INTERVAL_BYTES)
    file = SegmentFile(fs.segment_path(str(directory), base_offset, ".log"), create=True)
    position = 0
    for number in range(batches):
        # Timestamps that go back and forth, as those of clients do.
        timestamp = 1_000_000 + base_offset + number * 10 - (number % 3) * 15
        batch = RecordSpans.from_records(
            [(b"k%d" % n, b"value", [("h", b"\xff")], timestamp) for n in range(RECORDS)]
        ).frame(0)
        file.append(batch, position, base_offset)
        index.note_batch(batch, base_offset, position)
        position += batch.size
        base_offset += RECORDS
    index.seal()
    Path(fs.segment_path(str(directory), index.base_offset, ".index")).write_bytes(index.offset_bytes())
    Path(fs.segment_path(str(directory), index.base_offset, ".timeindex")).write_bytes(index.time_bytes())
    assert index.offset_count > 3
    assert index.time_count > 3
    return base_offset


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """Three segments: offsets 0 to 79, 80 to 159, 160 to 239."""
    directory = tmp_path / "data" / "orders-0"
    offset = 0
    for _ in range(3):
        offset = write_segment(directory, offset)
    return directory


def change(path: Path, position: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    assert data[position : position + len(content)] != content
    data[position : position + len(content)] = content
    path.write_bytes(data)


def findings(run: Run, directory: Path, code: int) -> list[tuple[str, str, str]]:
    """(kind, file, text)."""
    report = json.loads(run("verify", directory, "--json", code=code).stdout)
    assert report["ok"] == (code == 0)
    return [(f["kind"], Path(f["path"]).name, f["text"]) for p in report["partitions"] for f in p["findings"]]


def test_a_whole_partition_is_well(run: Run, partition: Path) -> None:
    assert findings(run, partition, 0) == []
    out = run("verify", partition.parent).stdout
    assert out.startswith("orders-0: 3 segments, 240 records in 60 batches, offsets 0 to 240 (exclusive), ")
    assert out.splitlines()[-1].startswith("1 partition, 240 records, ")


def test_all_partitions_of_a_data_directory_are_read(run: Run, partition: Path) -> None:
    write_segment(partition.parent / "orders-10", 0)
    write_segment(partition.parent / "orders-2", 7)
    (partition.parent / "metadata.db").touch()
    (partition.parent / "checkpoint").touch()
    (partition.parent / "quarantine").mkdir()
    (partition.parent / "lost+found").mkdir()
    report = json.loads(run("verify", partition.parent, "--json").stdout)
    assert [Path(p["path"]).name for p in report["partitions"]] == ["orders-0", "orders-2", "orders-10"]
    assert report["partitions"][1]["first_offset"] == 7
    assert report["unknown"] == ["lost+found"]


@pytest.mark.parametrize("batch", [0, 5, 6, 7, 8])
def test_a_flipped_bit_is_damage_of_its_batch_only(run: Run, partition: Path, batch: int) -> None:
    log = partition / f"{80:020d}.log"
    size, first = log.stat().st_size // 20, 80 + batch * RECORDS
    change(log, size * batch + 70, b"\x00\x01")
    ((kind, file, text), jump) = findings(run, partition, 6)
    assert (kind, file) == ("damage", log.name)
    assert f"the CRC of offsets {first} to {first + 3} does not fit" in text
    assert jump[2] == f"offsets {first} to {first + 3} are missing"
    assert "takhin: error: records are damaged or missing\n" in run("verify", partition, code=6).stderr


def test_garbage_between_batches_is_passed_over(run: Run, partition: Path) -> None:
    log = partition / f"{0:020d}.log"
    size = log.stat().st_size // 20
    change(log, size * 5, b"\xee" * (size + 30))
    texts = [text for _, _, text in findings(run, partition, 6)]
    assert texts[0].startswith(f"{2 * size} bytes: not a batch of magic 2")
    assert texts[1] == "offsets 20 to 27 are missing"
    assert len(texts) == 2


def test_what_only_looks_like_a_batch_is_passed_over_too(run: Run, partition: Path) -> None:
    log = partition / f"{0:020d}.log"
    size = log.stat().st_size // 20
    change(log, size * 5, b"\xee" * 30)
    change(log, size * 6 + 70, b"\x00\x01")
    texts = [text for _, _, text in findings(run, partition, 6)]
    assert texts[0].startswith(f"{2 * size} bytes: not a batch of magic 2")
    assert texts[1:] == ["offsets 20 to 27 are missing"]


def test_a_torn_tail_is_told_as_one(run: Run, partition: Path) -> None:
    log = partition / f"{160:020d}.log"
    log.write_bytes(log.read_bytes()[:-10])
    assert any("torn tail" in text for _, _, text in findings(run, partition, 6))
    other = partition / f"{80:020d}.log"
    other.write_bytes(other.read_bytes()[:-10])
    texts = [text for _, file, text in findings(run, partition, 6) if file == other.name]
    assert texts
    assert not any("torn tail" in text for text in texts)


def test_a_missing_segment_is_damage(run: Run, partition: Path) -> None:
    for path in partition.glob(f"{80:020d}.*"):
        path.unlink()
    assert findings(run, partition, 6) == [("damage", f"{160:020d}.log", "offsets 80 to 159 are missing before it")]


def test_overlapping_segments_are_damage(run: Run, partition: Path) -> None:
    write_segment(partition, 150)
    assert {kind for kind, _, _ in findings(run, partition, 6)} == {"damage"}


def test_a_segment_that_begins_elsewhere_than_its_name_says_is_damage(run: Run, partition: Path) -> None:
    for path in sorted(partition.glob(f"{160:020d}.*")):
        path.rename(path.with_name(path.name.replace("160", "161")))
    assert any(kind == "damage" for kind, _, _ in findings(run, partition, 6))


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("entry", [0, 1, -1])
@pytest.mark.parametrize("byte", [0, 3, 7])
def test_any_wrong_byte_of_an_index_is_found(run: Run, partition: Path, suffix: str, entry: int, byte: int) -> None:
    path = partition / f"{80:020d}{suffix}"
    entry_bytes = 8 if suffix == ".index" else 12
    position = (entry * entry_bytes) % path.stat().st_size + byte
    change(path, position, bytes([path.read_bytes()[position] ^ 0x41]))
    assert [(kind, file) for kind, file, _ in findings(run, partition, 1)] == [("index", path.name)]


def test_a_missing_index_is_no_error_but_half_an_entry_is(run: Run, partition: Path) -> None:
    (partition / f"{0:020d}.index").unlink()
    assert findings(run, partition, 0) == []
    path = partition / f"{0:020d}.timeindex"
    path.write_bytes(path.read_bytes()[:-5])
    assert findings(run, partition, 1) == [("index", path.name, "ends with 7 bytes of an entry")]


def test_the_room_that_kafka_keeps_in_an_active_index_is_no_error(run: Run, partition: Path) -> None:
    for suffix in (".index", ".timeindex"):
        path = partition / f"{160:020d}{suffix}"
        path.write_bytes(path.read_bytes() + bytes(12 * 8 * 10))
    assert findings(run, partition, 0) == []


def test_files_that_are_no_part_of_a_log_are_named(run: Run, partition: Path) -> None:
    (partition / "core").touch()
    (partition / f"{999:020d}.index").touch()
    assert findings(run, partition, 1) == [
        ("unknown", "core", "not a file of a log"),
        ("index", f"{999:020d}.index", "its segment is not there"),
    ]


def test_a_place_without_partitions_is_not_found(run: Run, tmp_path: Path) -> None:
    run("verify", tmp_path, code=3)
    run("verify", tmp_path / "nope", code=3)
    run("dump", tmp_path / "nope", code=3)
    (tmp_path / "file.txt").touch()
    run("dump", tmp_path / "file.txt", code=1)


def test_dump_shows_every_batch_and_record(run: Run, partition: Path) -> None:
    lines = [json.loads(line) for line in run("dump", partition, "--records", "--json").stdout.splitlines()]
    assert [line["kind"] for line in lines[:3]] == ["file", "batch", "record"]
    assert [line["offset"] for line in lines if line["kind"] == "record"] == list(range(240))
    batches = [line for line in lines if line["kind"] == "batch"]
    assert [(b["base_offset"], b["last_offset"], b["crc_ok"]) for b in batches[:2]] == [(0, 3, True), (4, 7, True)]
    record = lines[2]
    assert (record["key"], record["value"], record["headers"]) == ("k0", "value", [["h", {"base64": "/w=="}]])


def test_dump_of_a_file_is_for_people_and_shows_damage(run: Run, partition: Path) -> None:
    log = partition / f"{0:020d}.log"
    change(log, 70, b"\x00\x01")
    result = run("dump", log, code=6)
    assert result.stdout.splitlines()[0].startswith('file path="')
    assert result.stdout.splitlines()[1].startswith("  damage position=0 ")
    assert result.stdout.splitlines()[2].startswith("  batch position=")
    assert result.stderr == "takhin: error: 1 place damaged\n"


def test_dump_shows_the_entries_of_an_index(run: Run, partition: Path) -> None:
    lines = [json.loads(line) for line in run("dump", partition / f"{80:020d}.index", "--json").stdout.splitlines()]
    assert all(80 <= line["offset"] < 160 for line in lines[1:])
    lines = [json.loads(line) for line in run("dump", partition / f"{80:020d}.timeindex", "--json").stdout.splitlines()]
    assert all(line["timestamp"] > 1_000_000 for line in lines[1:])
