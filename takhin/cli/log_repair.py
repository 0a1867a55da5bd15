"""What can be mended in a log without a server, and doing it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .._segment import SegmentFile
from ..storage import fs
from ..storage.lock import LOCK_NAME, DataDirLock
from ..storage.quarantine import QUARANTINE_NAME, keep_and_cut, set_aside
from .log_verify import Finding, verify_partition
from .log_walk import Bad, PartitionFiles, walk


@dataclass(frozen=True, slots=True)
class Action:
    """``cut`` the segment at ``position``, or take away its ``index`` files."""

    kind: Literal["cut", "index"]
    files: PartitionFiles
    base_offset: int
    position: int
    text: str


@contextmanager
def owned(directory: Path) -> Iterator[Path]:
    """The data directory of ``directory``, which may be a partition's, with its lock held.

    Raises ``DataDirLocked``, ``OSError``.
    """
    inside = fs.parse_partition_dir(directory.resolve().name) and not (directory / LOCK_NAME).exists()
    data_dir = directory.resolve().parent if inside else directory
    lock = DataDirLock(data_dir)
    lock.acquire()
    try:
        yield data_dir
    finally:
        lock.release()


def plan(files: PartitionFiles) -> tuple[list[Action], list[Finding]]:
    """What can be done, and what is wrong that cannot. Nothing is changed. Raises ``OSError``."""
    actions: list[Action] = []
    lasting: list[Finding] = []
    cut = _bad_end(files)
    if cut is not None:
        actions.append(cut)
    for finding in verify_partition(files).findings:
        if finding.kind == "index":
            base_offset = fs.segment_base_offset(Path(finding.path).stem + fs.LOG_SUFFIX)
            assert base_offset is not None
            if not any(action.kind == "index" and action.base_offset == base_offset for action in actions):
                text = f"take away the index files of {files.file(base_offset)}: {finding.text}"
                actions.append(Action("index", files, base_offset, -1, text))
        elif finding.kind == "damage" and not (
            cut and finding.path == files.file(cut.base_offset) and finding.position == cut.position
        ):
            lasting.append(finding)
    # Beside damage that stays, index files that speak of what stood there are right.
    damaged = {finding.path for finding in lasting}
    return [a for a in actions if a.kind == "cut" or files.file(a.base_offset) not in damaged], lasting


def _bad_end(files: PartitionFiles) -> Action | None:
    if not files.segments:
        return None
    base_offset = files.segments[-1]
    file = SegmentFile(files.file(base_offset))
    size = file.size()
    ends = deque(walk(file, size), maxlen=1)
    last = ends[0] if ends else None
    if not isinstance(last, Bad):
        return None
    text = f"cut {size - last.position} bytes at {last.position} off {file.path}: {last.reason}"
    return Action("cut", files, base_offset, last.position, text)


def apply(action: Action, data_dir: Path) -> list[Path]:
    """Do it; where what was taken is kept. Raises ``OSError``."""
    quarantine = data_dir / QUARANTINE_NAME
    name = action.files.path.resolve().name
    if action.kind == "cut":
        file = SegmentFile(action.files.file(action.base_offset), writable=True)
        # The index files may point behind the cut: they go too.
        kept = [keep_and_cut(quarantine, name, action.base_offset, file, action.position)]
    else:
        kept = []
    for suffix in (fs.INDEX_SUFFIX, fs.TIME_INDEX_SUFFIX, fs.SEAL_SUFFIX):
        path = Path(action.files.file(action.base_offset, suffix))
        if path.exists():
            kept.append(set_aside(quarantine, path, name))
    return kept
