"""One flipped bit in any file of the metadata is noticed, or changes nothing.

Some hundred positions by default; all of them when TAKHIN_TEST_EVERY_BYTE is set (minutes).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin import errors, metadata_files, metadata_store
from takhin.clock import ManualClock
from takhin.metadata import Metadata

SAMPLES = 250
EVERY_BYTE = bool(os.environ.get("TAKHIN_TEST_EVERY_BYTE"))


def contents(metadata: Metadata) -> tuple[object, ...]:
    return (
        metadata.server_id,
        metadata.topics(),
        metadata.log_start_offsets(),
        {group_id: metadata.committed_offsets(group_id) for group_id in metadata.group_ids()},
        [metadata.producer_epoch(producer_id) for producer_id in range(10)],
        metadata._model.counters,
    )


def populate(metadata: Metadata) -> None:
    topics = [metadata.create_topic(f"topic-{number}", 3, {"retention.ms": str(number)}) for number in range(6)]
    for number, topic in enumerate(topics):
        metadata.commit_offsets(f"group-{number % 3}", [(topic.topic_id, partition, 1 << 40) for partition in range(3)])
        metadata.set_log_start_offsets([(topic.topic_id, 0, 77)])
        metadata.new_producer()
    metadata.bump_producer(2, 0)
    metadata.mark_deleting(topics[4].topic_id)
    metadata.forget_topic(topics[5].topic_id)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where that can be had: these tests flip bits, and flush thousands of times for nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def origin(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without the reserves, whose bytes mean nothing: the positions then lie where it matters."""
    monkeypatch.setattr(metadata_files, "RESERVE_BYTES", 0)
    monkeypatch.setattr(metadata_store, "RESERVE_BYTES", 0)
    monkeypatch.setattr(metadata_files, "WAL_RESERVE_BYTES", 0)
    (place / "origin").mkdir()
    return place / "origin" / "metadata.db"


@pytest.mark.timeout(3600 if EVERY_BYTE else 120)
@pytest.mark.parametrize(
    ("stop", "name"),
    [
        ("clean", "metadata.db"),
        ("clean", "metadata.db-commits"),
        ("killed", "metadata.db"),
        ("killed", "metadata.db-wal"),
        ("killed", "metadata.db-commits"),
    ],
)
def test_a_flipped_bit_is_noticed_or_changes_nothing(origin: Path, place: Path, stop: str, name: str) -> None:
    metadata = Metadata(origin, ManualClock())
    metadata.open()
    populate(metadata)
    if stop == "clean":
        metadata.close()
    files = {file.name: file.read_bytes() for file in origin.parent.iterdir()}
    expected = contents(metadata)
    metadata.close()
    random_source = random.Random(f"{stop} {name}")
    size = len(files[name])
    # The first bytes rule over all others: take every one of them.
    positions = (
        range(size)
        if EVERY_BYTE
        else sorted({*range(min(size, 112)), *random_source.sample(range(size), min(size, SAMPLES))})
    )
    flipped_place = place / "flipped"
    noticed = 0
    for position in positions:
        shutil.rmtree(flipped_place, ignore_errors=True)
        flipped_place.mkdir()
        for file_name, data in files.items():
            (flipped_place / file_name).write_bytes(data)
        flipped = bytearray(files[name])
        flipped[position] ^= 1 << random_source.randrange(8)
        (flipped_place / name).write_bytes(flipped)

        again = Metadata(flipped_place / "metadata.db", ManualClock())
        try:
            again.open()
        except errors.MetadataDamaged:
            noticed += 1
            continue
        assert contents(again) == expected, f"byte {position}"
        again.create_topic("later", 1, {})
        again.close()
        again.open()  # what was harmless stays so once the file is written to
        assert len(again.topics()) == len(expected[1]) + 1, f"byte {position}"  # type: ignore[arg-type]
        again.close()
    assert noticed > 20 if name != "metadata.db-commits" else noticed == 0
