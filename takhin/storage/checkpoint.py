"""Where recovery may begin: one small file for all partitions, and the marker of a clean stop.

Everything below a partition's recovery point is on stable storage. The file is replaced as a
whole, and sums itself; when it is missing or damaged, recovery reads from the beginning of each
log and comes to the same result.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from .._fastlog import crc32c
from .._os import sync_dir
from ..errors import NewerFormat
from . import fs
from .producers import ProducerState
from .segment import IndexSummary

log = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint"
CLEAN_NAME = "clean-shutdown"
_FORMAT = 1


class PartitionCheckpoint(msgspec.Struct, frozen=True, array_like=True):
    topic_id: str
    partition: int
    #: (base offset, bytes) of all segments, the active one last, at the recovery point.
    segments: list[tuple[int, int]]
    #: The recovery point: the offset behind the active segment's bytes above.
    next_offset: int
    #: Of the active segment's index files, up to the recovery point.
    index: IndexSummary
    producers: list[ProducerState]


class _Document(msgspec.Struct, frozen=True, array_like=True):
    format: int
    partitions: list[PartitionCheckpoint]


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What every format begins with, whatever follows."""

    format: int


Key = tuple[str, int]


def read(data_dir: Path) -> dict[Key, PartitionCheckpoint]:
    """By (topic id, partition); empty when the file is missing or cannot be believed.

    Raises ``NewerFormat``: what a newer version wrote beside it may look like damage to this one.
    """
    try:
        data = (data_dir / CHECKPOINT_NAME).read_bytes()
    except OSError:
        return {}
    try:
        if len(data) < 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "big"):
            raise msgspec.ValidationError("its checksum does not fit")
        found = msgspec.msgpack.decode(data[:-4], type=_Head).format
        if found > _FORMAT:
            raise NewerFormat(
                f"{data_dir / CHECKPOINT_NAME} has format {found}, written by a newer version of this program; this "
                f"one knows formats up to {_FORMAT}. Start the newer version. Nothing was changed."
            )
        document = msgspec.msgpack.decode(data[:-4], type=_Document)
        if document.format != _FORMAT:
            raise msgspec.ValidationError(f"its format is {document.format}")
    except msgspec.MsgspecError as problem:
        log.warning("checkpoint not usable: reading the whole log", extra={"fields": {"error": str(problem)}})
        return {}
    return {(entry.topic_id, entry.partition): entry for entry in document.partitions}


def write(data_dir: Path, entries: dict[Key, PartitionCheckpoint]) -> None:
    """Durable when it returns. Raises ``OSError``."""
    data = msgspec.msgpack.encode(_Document(_FORMAT, list(entries.values())))
    fs.write_aside(data_dir / CHECKPOINT_NAME, data + crc32c(data).to_bytes(4, "big"))


def mark_clean(data_dir: Path) -> None:
    """Say that everything is flushed and in the checkpoint. Raises ``OSError``."""
    checkpoint = (data_dir / CHECKPOINT_NAME).read_bytes()
    fs.write_aside(data_dir / CLEAN_NAME, b"takhin 1 %08x\n" % crc32c(checkpoint))


def is_clean(data_dir: Path) -> bool:
    """Whether the last stop left the marker, for the checkpoint that is there now."""
    try:
        return (data_dir / CLEAN_NAME).read_bytes() == b"takhin 1 %08x\n" % crc32c(
            (data_dir / CHECKPOINT_NAME).read_bytes()
        )
    except OSError:
        return False


def unmark_clean(data_dir: Path) -> None:
    """Before the first write. Raises ``OSError``."""
    fs.remove_if_there(data_dir / CLEAN_NAME)
    sync_dir(data_dir)
