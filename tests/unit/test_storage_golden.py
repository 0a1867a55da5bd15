"""Files of the first version: read the same for ever, and written the same for the same appends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.record import MemoryRecords

from takhin.storage.reader import find_time
from tests.golden.write import GOLDEN, SUFFIXES, as_json, store, write
from tests.reference import record_batch as reference

from .storage_tools import Store, append, frame, read_all

DIRECTORY = "orders-0"


def log_files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / DIRECTORY).iterdir() if path.suffix in SUFFIXES}


def records() -> list[list[object]]:
    kept: list[list[object]] = json.loads((GOLDEN / "records.json").read_text())
    return kept


@pytest.fixture(params=["with everything", "segments only"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(GOLDEN, tmp_path / "data")
    if request.param == "segments only":
        for path in [*(tmp_path / "data").iterdir(), *(tmp_path / "data" / DIRECTORY).iterdir()]:
            if path.is_file() and path.suffix != ".log":
                path.unlink()
    golden = store(tmp_path / "data").open()
    yield golden
    golden.close()


def test_the_same_appends_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "data")
    assert log_files(tmp_path / "data") == log_files(GOLDEN)
    name = "flushed-offsets"
    assert (tmp_path / "data" / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_there_is_something_of_everything_in_it() -> None:
    files = log_files(GOLDEN)
    assert sum(name.endswith(".log") for name in files) > 3
    for suffix in SUFFIXES:
        assert any(name.endswith(suffix) and data for name, data in files.items())
    kept = records()
    assert len(kept) > 70
    assert {tuple(type(part) for part in record[2:4]) for record in kept} >= {(str, str), (type(None), type(None))}


def test_the_records_are_read_as_they_were(opened: Store) -> None:
    partition = opened.partition()
    assert as_json(read_all(partition)) == records()
    times = [int(str(record[1])) for record in records()]
    for time in (0, *times):
        expected = next((n, found) for n, found in enumerate(times) if found >= time)
        assert find_time(partition, time) == expected
    assert find_time(partition, max(times) + 1) is None
    assert append(partition, b"goes on").base_offset == len(records())


def test_producers_go_on_where_they_were(opened: Store) -> None:
    again = frame(b"", producer_id=4001, producer_epoch=1, base_sequence=0)
    first = next(batch for _, batch in everything() if batch.producer_id == 4001)
    assert opened.partition().append(again, None).base_offset == first.base_offset


def everything() -> list[tuple[str, reference.Batch]]:
    return [
        (name, batch)
        for name, data in sorted(log_files(GOLDEN).items())
        if name.endswith(".log")
        for batch in reference.decode_all(data)
    ]


def test_the_reference_and_kafka_python_read_the_golden_segments_too() -> None:
    decoded = [record.plain() for _, batch in everything() for record in batch.records]
    assert as_json(decoded) == records()
    found = []
    for name, data in sorted(log_files(GOLDEN).items()):
        if name.endswith(".log"):
            memory = MemoryRecords(data)
            while (batch := memory.next_batch()) is not None:
                found += [
                    (r.offset, r.timestamp, r.key, r.value, [(k.encode(), v) for k, v in r.headers]) for r in batch
                ]
    assert as_json(found) == records()


def test_the_golden_indexes_are_those_of_kafkas_rule() -> None:
    files = log_files(GOLDEN)
    logs = sorted(name for name in files if name.endswith(".log"))
    for name in logs:
        base_offset = int(name[:20])
        entries = reference.index_entries(reference.decode_all(files[name]), base_offset, 200, sealed=name != logs[-1])
        offsets, times = reference.index_bytes(*entries)
        assert (files[name[:20] + ".index"], files[name[:20] + ".timeindex"]) == (offsets, times), name
