"""Writes the golden data directory: ``python -m tests.golden.write DIRECTORY``.

What lies in ``v1`` was written by the first version and never changes: every later one must read
it the same, and write the same bytes for the same appends. A new format gets a directory of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from takhin._fastlog import RecordSpans
from tests.unit.storage_tools import NOW, Store, append_batch, configs, read_all, wait_until

GOLDEN = Path(__file__).parent / "v1"
#: Files that hold no process id and no time.
SUFFIXES = (".log", ".index", ".timeindex", ".seal")


def store(path: Path) -> Store:
    return Store(path, configs(segment_bytes=1500, index_interval_bytes=200))


def batches() -> list[tuple[list[Any], dict[str, Any]]]:
    """Records (key, value, headers, timestamp) and what is given to ``frame``, batch by batch."""
    made: list[tuple[list[Any], dict[str, Any]]] = []
    for n in range(40):
        records = [
            (
                None if i % 3 == 0 else b"key-%d" % (n % 7),
                None if (n + i) % 5 == 0 else b"value %d/%d " % (n, i) * (n % 4),
                [("trace", b"%d" % n), ("ünïcode", None), ("empty", b"")][: (n + i) % 4],
                NOW + (n * 37) % 100 * 1000 + i,
            )
            for i in range(n % 3 + 1)
        ]
        more: dict[str, Any] = {}
        if n % 8 == 3:
            more = {"producer_id": 4000 + n % 2, "producer_epoch": 1, "base_sequence": n // 8}
            records = records[:1]
        if n % 9 == 4:
            more = {"log_append_time": True}
        made.append((records, more))
    return made


def write(path: Path) -> None:
    """Append everything to a new data directory, and stop."""
    golden = store(path).open()
    partition = golden.partition()
    for n, (records, more) in enumerate(batches()):
        append_batch(partition, RecordSpans.from_records(records).frame(NOW + n, **more))
    wait_until(lambda: not any(segment.pinned for segment in partition.segments))
    golden.close()


def as_json(records: list[Any]) -> list[Any]:
    """Records as they are kept beside the golden files."""

    def text(data: bytes | None) -> str | None:
        return None if data is None else data.hex()

    return [
        [offset, timestamp, text(key), text(value), [[text(name), text(what)] for name, what in headers]]
        for offset, timestamp, key, value, headers in records
    ]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(target)
    opened = store(target).open()
    (target / "records.json").write_text(json.dumps(as_json(read_all(opened.partition())), indent=0) + "\n")
    opened.close()
    (target / "lock").unlink()
