"""Names and small-file operations of the data directory.

Directories are flushed after files in them are made, renamed or removed: until then a power
cut can take the change back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .._os import close_file, flush, mkdir, open_file, rename, sync_dir, unlink, write_at

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
SEAL_SUFFIX = ".seal"

_SEGMENT_NAME = re.compile(r"(\d{20})\.log")
_PARTITION_DIR = re.compile(r"([a-zA-Z0-9._-]{1,249})-(0|[1-9]\d{0,9})")


def segment_path(directory: str, base_offset: int, suffix: str) -> str:
    """Kafka's name: the base offset in 20 digits."""
    return f"{directory}/{base_offset:020d}{suffix}"


def segment_base_offset(name: str) -> int | None:
    """The base offset in the name of a ``.log`` file; None for other names."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def partition_dir(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def parse_partition_dir(name: str) -> tuple[str, int] | None:
    """(topic, partition) of a partition directory's name; None for other names."""
    match = _PARTITION_DIR.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def write_aside(path: Path, data: bytes) -> None:
    """Replace a small file: whoever looks, also after a power cut, sees the old bytes or the new."""
    aside = path.with_name(path.name + ".tmp")
    fd = open_file(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_at(fd, data, 0)
        flush(fd)
    finally:
        close_file(fd)
    rename(aside, path)
    sync_dir(path.parent)


def make_dir(path: Path) -> None:
    """Unless it is there. The parent's entry is durable when it returns. Raises ``OSError``."""
    if not path.is_dir():
        mkdir(path)
        sync_dir(path.parent)


def remove_if_there(path: str | Path) -> None:
    try:
        unlink(path)
    except FileNotFoundError:
        pass


def free_name(directory: Path, name: str) -> Path:
    """``name``, or with a number behind when that is taken."""
    name = name[-240:]
    target, n = directory / name, 1
    while target.exists():
        target, n = directory / f"{name}.{n}", n + 1
    return target
