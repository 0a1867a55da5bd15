"""A disk of which is known what a power cut would leave: for scenarios within one process.

Below everything that is tested, it notes what each flush of a segment and of a directory has put on stable
storage, and it can be made slow. Small files that are replaced as a whole, and SQLite's, count as durable:
what they say never runs ahead of the segments.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any


class Disk:
    def __init__(self) -> None:
        self.root = Path()
        #: Seconds that a flush takes before it does anything.
        self.delay = 0.0
        #: Calls that began: of ``syncfs``, and of those that flush several segments.
        self.syncs_begun = 0
        self.several_begun = 0
        #: Bytes of each segment file on stable storage.
        self._stable: dict[Path, int] = {}
        #: Files whose pages a failed flush has lost: no later flush brings them back.
        self._lost: set[Path] = set()
        #: Entries of each directory on stable storage.
        self._entries: dict[Path, set[str]] = {}

    def begin(self, root: Path) -> None:
        """Everything that is there now is on stable storage."""
        self.root = root
        self._lost.clear()
        self._stable = {path: path.stat().st_size for path in root.rglob("*.log")}
        directories = [root, *(path for path in root.iterdir() if path.is_dir())]
        self._entries = {directory: set(os.listdir(directory)) for directory in directories}

    def install(self) -> None:
        """Come between the log and its files. Once in a process, before any planted bug."""
        from takhin import _os, _segment
        from tests.reference.flush_loop import PythonFlushLoop

        disk, sync_dir, syncfs, flush_files = self, _os.sync_dir, _os.syncfs, _os.flush_files

        class TracedFile(_segment.SegmentFile):
            def flush(self) -> None:
                path, size = Path(self.path), self.size()
                time.sleep(disk.delay)
                try:
                    super().flush()
                except OSError:
                    disk._lost.add(path)
                    raise
                if path not in disk._lost:
                    disk._stable[path] = max(size, disk._stable.get(path, 0))

            def truncate(self, size: int) -> None:
                super().truncate(size)
                path = Path(self.path)
                disk._stable[path] = min(size, disk._stable.get(path, 0))

        def traced_sync_dir(path: str | os.PathLike[str]) -> None:
            entries = set(os.listdir(path))
            sync_dir(path)
            disk._entries[Path(path)] = entries

        def traced_syncfs(fd: int) -> None:
            disk.syncs_begun += 1
            root = Path(os.readlink(f"/proc/self/fd/{fd}"))
            entries = {each: set(os.listdir(each)) for each in [root, *root.iterdir()] if each.is_dir()}
            sizes = {path: path.stat().st_size for path in root.rglob("*.log")}
            time.sleep(disk.delay)
            syncfs(fd)
            disk._entries.update(entries)
            for path in set(sizes) - disk._lost:
                disk._stable[path] = max(sizes[path], disk._stable.get(path, 0))

        def traced_flush_files(files: list[_segment.SegmentFile]) -> None:
            disk.several_begun += 1
            sizes = {Path(file.path): file.size() for file in files}
            time.sleep(disk.delay)
            try:
                flush_files(files)
            except OSError:
                disk._lost.update(sizes)
                raise
            for path in set(sizes) - disk._lost:
                disk._stable[path] = max(sizes[path], disk._stable.get(path, 0))

        traced = {
            "SegmentFile": TracedFile,
            "sync_dir": traced_sync_dir,
            "syncfs": traced_syncfs,
            "flush_files": traced_flush_files,
            # It flushes by the file's own method, which is traced.
            "FlushLoop": PythonFlushLoop,
        }
        for module in [module for name, module in sys.modules.items() if name.startswith("takhin.storage")]:
            for name, new in traced.items():
                if hasattr(module, name):
                    setattr(module, name, new)

    def image(self, target: Path, *, power_cut: bool) -> None:
        """What the next process would find: after a kill everything that was written, after a power cut what was
        flushed. Nobody may append meanwhile."""
        # Not the trash, which is emptied at this moment; a start makes the folder when it is missing.
        shutil.copytree(self.root, target, ignore=lambda _, names: {"deleted"} & set(names))
        if not power_cut:
            return
        for directory in [target, *(path for path in target.iterdir() if path.is_dir())]:
            source = self.root / directory.relative_to(target)
            entries = self._entries.get(source, set())
            for path in list(directory.iterdir()):
                if path.name in entries or (directory == target and path.is_file()):
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in target.rglob("*.log"):
            stable = self._stable.get(self.root / path.relative_to(target), 0)
            os.truncate(path, min(stable, path.stat().st_size))


def replace(owner: Any, name: str, new: Any) -> Any:
    """Put something in the place of an attribute that must be there; gives the old one."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old
