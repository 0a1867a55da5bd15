"""Records from a file or a pipe. All is bytes: nothing is decoded that need not be."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

#: A bound on one record, so that a file that is not what it should be cannot take all memory.
MAX_RECORD_BYTES: Final = 256 * 1024 * 1024
#: The length of a null value, as in Kafka's protocol.
NULL_LENGTH: Final = 0xFFFFFFFF

FORMATS: Final = ("lines", "jsonl", "length-prefixed")


class InputRecord(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    #: Milliseconds since the epoch; 0: the server's clock.
    timestamp: int = 0


class InputError(ValueError):
    """Input that is not what the format says; the message names the place."""


def read_records(source: BinaryIO, form: str, key_separator: bytes | None) -> Iterator[InputRecord]:
    """The records of ``source``, in one of ``FORMATS``. Raises ``InputError``."""
    if form == "lines":
        return read_lines(source, key_separator)
    if form == "jsonl":
        return read_jsonl(source)
    return read_length_prefixed(source)


def read_lines(source: BinaryIO, key_separator: bytes | None = None) -> Iterator[InputRecord]:
    """One record a line, without its ``\\n``; what else is in the line, a ``\\r`` too, belongs to it."""
    for number, line in _lines(source):
        if key_separator is None:
            yield InputRecord(None, line)
            continue
        key, found, value = line.partition(key_separator)
        if not found:
            raise InputError(f"line {number}: no key separator in it")
        yield InputRecord(key, value)


def read_jsonl(source: BinaryIO) -> Iterator[InputRecord]:
    """One JSON object a line, as ``takhin consume --format json`` writes them; empty lines are passed over."""
    for number, line in _lines(source):
        if not line.strip():
            continue
        try:
            yield _from_json(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"line {number}: {error}") from None


def read_length_prefixed(source: BinaryIO) -> Iterator[InputRecord]:
    """A length of 4 bytes, big endian, then so many bytes of value; the length 0xFFFFFFFF alone is a null value."""
    number = 0
    while prefix := source.read(4):
        number += 1
        if len(prefix) < 4:
            raise InputError(f"record {number}: the input ends inside its length")
        length = int.from_bytes(prefix, "big")
        if length == NULL_LENGTH:
            yield InputRecord(None, None)
            continue
        if length > MAX_RECORD_BYTES:
            raise InputError(f"record {number}: a length of {length} bytes, more than {MAX_RECORD_BYTES}")
        value = source.read(length)
        if len(value) < length:
            raise InputError(f"record {number}: the input ends after {len(value)} of its {length} bytes")
        yield InputRecord(None, value)


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := source.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if line.endswith(b"\n"):
            line = line[:-1]
        elif len(line) > MAX_RECORD_BYTES:
            raise InputError(f"line {number}: longer than {MAX_RECORD_BYTES} bytes")
        yield number, line


def _from_json(item: Any) -> InputRecord:
    if not isinstance(item, dict):
        raise InputError("not a JSON object")
    if "value" not in item and "value_base64" not in item:
        raise ValueError("no value: give value (null for a tombstone) or value_base64")
    timestamp = item.get("timestamp", 0)
    if not isinstance(timestamp, int) or isinstance(timestamp, bool) or timestamp < 0:
        raise ValueError("timestamp: not milliseconds since the epoch")
    return InputRecord(_bytes_of(item, "key"), _bytes_of(item, "value"), _headers(item.get("headers")), timestamp)


def _bytes_of(item: dict[str, Any], name: str) -> bytes | None:
    encoded = item.get(f"{name}_base64")
    if encoded is not None:
        if item.get(name) is not None:
            raise ValueError(f"both {name} and {name}_base64")
        return _base64(encoded, f"{name}_base64")
    return None if item.get(name) is None else _text(item[name], name)


def _text(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{name}: not a string")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: half of a surrogate pair") from None


def _base64(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{name}: not a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name}: not base64") from None


def _headers(value: Any) -> tuple[tuple[str, bytes], ...]:
    """An object, or a list of [name, value] pairs where a name repeats; a value that is not text is {"base64": ...}."""
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        pairs = value
    else:
        raise ValueError("headers: neither an object nor a list of pairs")
    headers = []
    for name, content in pairs:
        _text(name, "headers")
        if isinstance(content, dict):
            headers.append((name, _base64(content.get("base64"), f"headers: {name}: base64")))
        else:
            headers.append((name, _text(content, f"headers: {name}")))
    return tuple(headers)
