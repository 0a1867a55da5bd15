"""Nothing that is taken out of a log is thrown away: it goes to ``quarantine/`` in the data directory."""

from __future__ import annotations

import os
from pathlib import Path

from .._os import close_file, flush, open_file, rename, sync_dir, write_at
from .._segment import SegmentFile
from . import fs

QUARANTINE_NAME = "quarantine"
_PIECE_BYTES = 1 << 20


def keep_and_cut(quarantine: Path, partition: str, base_offset: int, file: SegmentFile, position: int) -> Path:
    """Cut a segment at ``position``; the copy of what goes is on stable storage before. Gives its path.

    Raises ``OSError``; then nothing was cut, and there is no copy.
    """
    fs.make_dir(quarantine)
    size = file.size()
    copy = fs.free_name(quarantine, f"{partition}-{base_offset:020d}-{position}.torn")
    fd = open_file(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for at in range(position, size, _PIECE_BYTES):
            write_at(fd, file.pread(at, min(size - at, _PIECE_BYTES)), at - position)
        flush(fd)
        sync_dir(quarantine)
    except OSError:
        fs.remove_if_there(copy)
        raise
    finally:
        close_file(fd)
    file.truncate(position)
    file.flush()
    return copy


def set_aside(quarantine: Path, source: Path, label: str) -> Path:
    """Move a file or directory, under a name that is free. Gives its new path. Raises ``OSError``."""
    fs.make_dir(quarantine)
    target = fs.free_name(quarantine, f"{label}-{source.name}")
    rename(source, target)
    sync_dir(quarantine)
    sync_dir(source.parent)
    return target
