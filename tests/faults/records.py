"""Values that say who sent them, in what order, and whether they are whole."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

BASE_MS = 1_700_000_000_000
_VALUE = re.compile(r"([a-z0-9]+)\.(\d+)\.([0-9a-f]{8})\.(x*)")


class Parsed(NamedTuple):
    producer: str
    sequence: int


def make_value(producer: str, sequence: int, size: int = 0) -> str:
    head = f"{producer}.{sequence}"
    padding = "x" * max(size - len(head) - 10, 0)
    return f"{head}.{zlib.crc32((head + padding).encode()):08x}.{padding}"


def parse_value(value: bytes | None) -> Parsed:
    """AssertionError when nobody can have sent it."""
    match = _VALUE.fullmatch((value or b"").decode("ascii", "replace"))
    assert match is not None, f"not a value that was sent: {value!r}"
    assert make_value(match[1], int(match[2]), len(value or b"")).encode() == value, f"garbled: {value!r}"
    return Parsed(match[1], int(match[2]))


def timestamp_of(producer: str, sequence: int) -> int:
    """Not in order on purpose, ms."""
    return BASE_MS + sequence * 100 + zlib.crc32(f"{producer}/{sequence}".encode()) % 450
