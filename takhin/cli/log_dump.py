"""Segments and index files as text or JSON, a line for each batch, record or entry."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from .._fastlog import Batches, BatchInfo
from .._segment import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES, SegmentFile
from ..errors import DataLoss
from ..storage import fs
from .connection import CommandFailed
from .log_walk import Bad, find_partitions, list_partition, walk
from .record_output import header_value, put_bytes

_COMPRESSIONS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

#: (what the line is about, its fields) -> the line.
Line = Callable[[str, dict[str, Any]], str]


def json_line(kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False)


def text_line(kind: str, fields: dict[str, Any]) -> str:
    indent = {"file": "", "record": "    "}.get(kind, "  ")
    words = [f"{name}={_text(value)}" for name, value in fields.items()]
    return f"{indent}{kind} {' '.join(words)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


class Dumper:
    """Prints what it finds; ``damaged`` counts the places that are no good batch."""

    def __init__(self, line: Line, records: bool) -> None:
        self.damaged = 0
        self._line = line
        self._records = records

    def dump(self, path: Path) -> None:
        """A data directory, a partition directory or a file. Raises ``OSError``, ``CommandFailed``."""
        if path.is_dir():
            partitions = [list_partition(directory) for directory in find_partitions(path)]
            if not partitions:
                raise CommandFailed(f"{path}: no partition there")
            for files in partitions:
                for base_offset in files.segments:
                    self._dump_log(files.file(base_offset))
            return
        os.stat(path)
        if path.suffix == fs.LOG_SUFFIX:
            self._dump_log(str(path))
        elif path.suffix == fs.INDEX_SUFFIX:
            self._dump_index(path, ">ii", OFFSET_ENTRY_BYTES, ("offset", "position"))
        elif path.suffix == fs.TIME_INDEX_SUFFIX:
            self._dump_index(path, ">qi", TIME_ENTRY_BYTES, ("timestamp", "offset"))
        else:
            raise CommandFailed(f"{path}: neither a .log nor an .index nor a .timeindex file")

    def _print(self, kind: str, fields: dict[str, Any]) -> None:
        click.echo(self._line(kind, fields))

    def _dump_log(self, path: str) -> None:
        file = SegmentFile(path)
        size = file.size()
        self._print("file", {"path": path, "size_bytes": size})
        for item in walk(file, size):
            if isinstance(item, Bad):
                self.damaged += 1
                self._print(
                    "damage",
                    {"position": item.position, "size_bytes": item.end - item.position, "reason": item.reason},
                )
                continue
            self._print("batch", _batch(item))
            if self._records:
                self._dump_records(file, item)

    def _dump_records(self, file: SegmentFile, info: BatchInfo) -> None:
        compression = info.attributes & 7
        if compression:
            what = f"compressed with {_COMPRESSIONS.get(compression, compression)}"
            self._print("note", {"text": f"{what}: its records are not shown"})
            return
        if info.attributes & _CONTROL:
            self._print("note", {"text": "a control batch: it holds no records of anybody's"})
            return
        try:
            found = Batches(file.pread(info.position, info.size)).records()
        except DataLoss as error:
            self.damaged += 1
            self._print("damage", {"position": info.position, "size_bytes": info.size, "reason": error.message})
            return
        for offset, timestamp, key, value, headers in found:
            fields: dict[str, Any] = {"offset": offset, "timestamp": timestamp}
            put_bytes(fields, "key", key)
            put_bytes(fields, "value", value)
            if headers:
                fields["headers"] = [
                    [name.decode(errors="replace"), None if content is None else header_value(content)]
                    for name, content in headers
                ]
            self._print("record", fields)

    def _dump_index(self, path: Path, layout: str, entry_bytes: int, names: tuple[str, str]) -> None:
        base_offset = fs.segment_base_offset(f"{path.stem}{fs.LOG_SUFFIX}") or 0
        data = path.read_bytes()
        self._print("file", {"path": str(path), "size_bytes": len(data)})
        whole = len(data) - len(data) % entry_bytes
        for first, second in struct.iter_unpack(layout, data[:whole]):
            fields = dict(zip(names, (first, second), strict=True))
            fields["offset"] += base_offset
            self._print("entry", fields)
        if whole != len(data):
            self.damaged += 1
            self._print("damage", {"position": whole, "size_bytes": len(data) - whole, "reason": "a part of an entry"})


def _batch(info: BatchInfo) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "position": info.position,
        "size_bytes": info.size,
        "base_offset": info.base_offset,
        "last_offset": info.last_offset,
        "records": info.record_count,
        "crc_ok": info.crc_ok,
        "base_timestamp": info.base_timestamp,
        "max_timestamp": info.max_timestamp,
        "timestamp_type": "LogAppendTime" if info.attributes & _LOG_APPEND_TIME else "CreateTime",
        "compression": _COMPRESSIONS.get(info.attributes & 7, str(info.attributes & 7)),
        "leader_epoch": info.leader_epoch,
    }
    if info.producer_id >= 0:
        fields |= {
            "producer_id": info.producer_id,
            "producer_epoch": info.producer_epoch,
            "base_sequence": info.base_sequence,
        }
    if info.attributes & _TRANSACTIONAL:
        fields["transactional"] = True
    if info.attributes & _CONTROL:
        fields["control"] = True
    return fields
