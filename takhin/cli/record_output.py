"""Records as bytes for a terminal, a file or a pipe."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from .record_input import NULL_LENGTH

if TYPE_CHECKING:
    from ..client import ConsumedRecord

FORMATS: Final = ("value", "json", "key-value", "raw", "length-prefixed")

#: Turns records into the bytes to write.
Formatter = Callable[[Iterable["ConsumedRecord"]], bytes]


def formatter(form: str, key_separator: bytes) -> Formatter:
    """The formatter for one of ``FORMATS``."""
    if form == "value":
        return format_values
    if form == "json":
        return format_json
    if form == "raw":
        return format_raw
    if form == "length-prefixed":
        return format_length_prefixed
    return lambda records: format_key_values(records, key_separator)


def format_values(records: Iterable[ConsumedRecord]) -> bytes:
    """Each value and a newline; a null value is an empty line."""
    return b"".join([(record.value or b"") + b"\n" for record in records])


def format_key_values(records: Iterable[ConsumedRecord], separator: bytes) -> bytes:
    """Key, separator, value, newline; null is empty."""
    return b"".join([(r.key or b"") + separator + (r.value or b"") + b"\n" for r in records])


def format_raw(records: Iterable[ConsumedRecord]) -> bytes:
    """The values and nothing else."""
    return b"".join([record.value or b"" for record in records])


def format_length_prefixed(records: Iterable[ConsumedRecord]) -> bytes:
    """4 bytes of length, big endian, and the value; the length 0xFFFFFFFF alone is a null value."""
    parts: list[bytes] = []
    for record in records:
        if record.value is None:
            parts.append(NULL_LENGTH.to_bytes(4, "big"))
        else:
            parts += (len(record.value).to_bytes(4, "big"), record.value)
    return b"".join(parts)


def format_json(records: Iterable[ConsumedRecord]) -> bytes:
    """One object a line."""
    return b"".join([json.dumps(as_json(r), ensure_ascii=False).encode() + b"\n" for r in records])


def as_json(record: ConsumedRecord) -> dict[str, Any]:
    """What is not UTF-8 goes, as base64, into ``key_base64`` and ``value_base64``."""
    item: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    for name, content in (("key", record.key), ("value", record.value)):
        put_bytes(item, name, content)
    if record.headers:
        pairs = [(name, header_value(content)) for name, content in record.headers]
        by_name = dict(pairs)
        item["headers"] = by_name if len(by_name) == len(pairs) else [list(pair) for pair in pairs]
    return item


def put_bytes(item: dict[str, Any], name: str, content: bytes | None) -> None:
    """Under ``name`` as text, or under ``<name>_base64`` what is not UTF-8."""
    if content is None:
        item[name] = None
        return
    try:
        item[name] = content.decode()
    except UnicodeDecodeError:
        item[f"{name}_base64"] = base64.b64encode(content).decode()


def header_value(content: bytes) -> Any:
    """Text, or what is not UTF-8 as ``{"base64": ...}``."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}
