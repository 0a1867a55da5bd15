"""All partitions of a data directory: opening, making, removing, and what must be done now and then."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .._os import mkdir, rename, sync_dir
from ..clock import Clock
from ..config import LogConfig, TopicConfigs
from ..errors import DiskFull, TakhinError
from . import checkpoint, fs, retention
from .checkpointer import Checkpointer
from .environment import Counters, DiskFault, Environment
from .file_flush import FileFlush
from .files import OpenFiles
from .flusher import Flusher
from .group_flush import GroupFlush
from .hints import FlushedHints
from .lock import DataDirLock
from .partition import Partition
from .producers import Producers
from .quarantine import QUARANTINE_NAME, set_aside
from .recovery import Recovered, Recovery
from .scrubber import Scrubber
from .segment import Segment
from .space import DiskSpace

log = logging.getLogger(__name__)

HINTS_NAME = "flushed-offsets"
DELETED_NAME = "deleted"


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """A partition that the metadata knows of."""

    topic: str
    topic_id: str
    partition: int
    configs: TopicConfigs
    log_start_offset: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return (self.topic_id, self.partition)


class LogManager:
    """Thread-safe. One process has a data directory at a time."""

    def __init__(self, data_dir: Path, config: LogConfig, clock: Clock) -> None:
        self.data_dir = data_dir
        self._config = config
        self._lock_file = DataDirLock(data_dir)
        commit = config.flush == "commit"
        fault, counters = DiskFault(), Counters()

        def note_flushed(flushed: Sequence[tuple[str, int, int]]) -> bool:
            return self.environment.note_flushed(flushed)

        files = FileFlush(counters, fault, note_flushed)
        self._group = GroupFlush(data_dir, counters, fault, note_flushed)
        linger_ms = config.flush_linger_ms if commit else config.flush_interval_ms
        self.environment = Environment(
            clock=clock,
            files=OpenFiles(config.max_open_segments),
            fault=fault,
            flusher=Flusher(config.flush_threads, linger_ms, files, self._group),
            hints=FlushedHints(data_dir / HINTS_NAME),
            space=DiskSpace(data_dir, config.min_free_bytes, config.reserve_bytes),
            quarantine=data_dir / QUARANTINE_NAME,
            flush_on_commit=commit,
            counters=counters,
        )
        self.environment.fault.on_fault = self._on_fault
        self._lock = threading.Lock()
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._stopping = threading.Event()
        self._checkpointer = Checkpointer(data_dir, fault, self._stopping)
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeper", daemon=True)
        self.scrubber = Scrubber(self.partitions, config.scrub_bytes_per_second, config.scrub_interval_ms)
        #: How many partitions ``open`` has to open; for who watches a long start.
        self.expected_partitions = 0
        self._trash: list[Path] = []
        self._trash_waits = threading.Event()

    # -- life -----------------------------------------------------------------------------------

    def lock(self) -> None:
        """Own the data directory, making it if need be. Nothing else is written.

        Raises ``DataDirLocked``, ``OSError``.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock_file.acquire()

    def open(self, specs: Sequence[PartitionSpec]) -> None:
        """Recover and open the partitions, side by side. Raises ``OSError``, ``TakhinError``."""
        started = time.perf_counter()
        self.expected_partitions = len(specs)
        clean = checkpoint.is_clean(self.data_dir)
        known = {spec.key for spec in specs}
        self._checkpointer.open(known)
        hints = self.environment.hints.open()
        self._group.open()
        checkpoint.unmark_clean(self.data_dir)
        # There before they are needed: making them takes room that a full disk has not.
        for name in (QUARANTINE_NAME, DELETED_NAME):
            fs.make_dir(self.data_dir / name)
        for key in set(hints) - known:
            self.environment.hints.forget(*key)
        self._set_aside_unknown({fs.partition_dir(spec.topic, spec.partition) for spec in specs})
        self.environment.flusher.start()
        with ThreadPoolExecutor(self._config.recovery_threads, "recovery") as pool:
            scanned = sum(pool.map(lambda spec: self._open_one(spec, hints.get(spec.key, -1), clean), specs))
        self._empty_trash_dir()
        self.environment.space.open()
        self._housekeeper.start()
        self.scrubber.start()
        log.info(
            "log opened",
            extra={
                "fields": {
                    "partitions": len(specs),
                    "clean": clean,
                    "scanned_bytes": scanned,
                    "seconds": round(time.perf_counter() - started, 3),
                }
            },
        )

    def close(self) -> None:
        """Flush everything, write the checkpoint, leave the clean marker (unless a fault forbids). Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._trash_waits.set()
        self.scrubber.stop()
        if self._housekeeper.is_alive():
            self._housekeeper.join()
        partitions = self.partitions()
        for partition in partitions:
            partition.stop_writes()
        for _ in range(2):
            try:
                if self._checkpointer.write(partitions):
                    checkpoint.mark_clean(self.data_dir)
                break
            except (OSError, TakhinError) as problem:
                full = isinstance(problem, OSError) and problem.errno == errno.ENOSPC
                if not (full and self.environment.space.give_up_reserve()):
                    log.warning(
                        "no clean marker: the next start reads the log", extra={"fields": {"error": str(problem)}}
                    )
                    break
        self.environment.flusher.stop()
        self._group.close()
        for partition in partitions:
            partition.close()
        self.environment.hints.close()
        self._lock_file.release()

    def release(self) -> None:
        """Give up the lock without having opened anything."""
        self._lock_file.release()

    def _on_fault(self) -> None:
        # From a thread of its own: the reporter may hold a partition's lock.
        threading.Thread(target=self._fail_waiting, name="fault", daemon=True).start()

    def _fail_waiting(self) -> None:
        for partition in self.partitions():
            partition.fail_waiting()

    def partitions(self) -> list[Partition]:
        with self._lock:
            return list(self._partitions.values())

    # -- partitions -----------------------------------------------------------------------------

    def get(self, topic_id: str, partition: int) -> Partition | None:
        return self._partitions.get((topic_id, partition))

    def _open_one(self, spec: PartitionSpec, hint: int, clean: bool) -> int:
        directory = self.data_dir / fs.partition_dir(spec.topic, spec.partition)
        fs.make_dir(directory)
        recovered = Recovery(
            directory,
            spec.configs,
            self.environment,
            self._checkpointer.entry(spec.key),
            hint,
            spec.log_start_offset,
            clean,
        ).run()
        self._note_recovered(spec, hint, recovered)
        self._add(spec, recovered.segments, recovered.log_start_offset, recovered.log_end_offset, recovered.producers)
        if recovered.scanned_bytes or recovered.cut_bytes or recovered.set_aside or recovered.damages:
            log.info(
                "partition recovered",
                extra={
                    "fields": {
                        "topic": spec.topic,
                        "partition": spec.partition,
                        "log_end_offset": recovered.log_end_offset,
                        "scanned_bytes": recovered.scanned_bytes,
                        "cut_bytes": recovered.cut_bytes,
                        "damages": recovered.damages,
                        "set_aside": len(recovered.set_aside),
                    }
                },
            )
        return recovered.scanned_bytes

    def _note_recovered(self, spec: PartitionSpec, hint: int, recovered: Recovered) -> None:
        """What recovery found is flushed and will be shown: damage to it is no torn tail from now on. A log
        that was brought here and begins later does so by our word too, not only by its files."""
        try:
            if recovered.log_end_offset > max(hint, 0):
                self.environment.hints.write([(spec.topic_id, spec.partition, recovered.log_end_offset)])
            if recovered.log_start_offset > spec.log_start_offset:
                self.environment.save_log_start(spec.topic_id, spec.partition, recovered.log_start_offset)
        except (OSError, TakhinError) as problem:
            log.warning(
                "recovered offsets not noted",
                extra={"fields": {"topic": spec.topic, "partition": spec.partition, "error": str(problem)}},
            )

    def _add(
        self,
        spec: PartitionSpec,
        segments: list[Segment],
        log_start_offset: int,
        log_end_offset: int,
        producers: Producers,
        new: bool = False,
    ) -> None:
        partition = Partition(
            spec.topic,
            spec.topic_id,
            spec.partition,
            str(self.data_dir / fs.partition_dir(spec.topic, spec.partition)),
            spec.configs,
            self.environment,
            segments,
            log_start_offset,
            log_end_offset,
            producers,
            new,
        )
        with self._lock:
            self._partitions[spec.key] = partition

    def create(self, specs: Iterable[PartitionSpec]) -> None:
        """Make new partitions; durable when it returns. After a failure none of them is there.

        Raises ``DiskFull``, ``DescriptorsExhausted``, ``LogOffline``.
        """
        made: list[PartitionSpec] = []
        path = str(self.data_dir)
        try:
            for spec in specs:
                directory = self.data_dir / fs.partition_dir(spec.topic, spec.partition)
                path = str(directory)
                if directory.exists():
                    # Nothing that the metadata knows: what is left of an attempt that was cut short.
                    set_aside(self.environment.quarantine, directory, "unknown")
                mkdir(directory)
                made.append(spec)
                segment = Segment.create(path, 0, self.environment.files, spec.configs.index_interval_bytes)
                # Its directory is flushed with the first records: an empty file that a power cut
                # takes is simply made again.
                self._add(spec, [segment], 0, 0, Producers(), new=True)
            sync_dir(self.data_dir)
        except OSError as problem:
            error = self.environment.write_failed(problem, path)
            try:
                self.remove(made)
            except OSError as worse:
                log.warning(
                    "directories of partitions that could not be made are left, the next start sets them aside",
                    extra={"fields": {"partitions": len(made), "error": str(worse)}},
                )
            raise error from problem

    def remove(self, specs: Iterable[PartitionSpec]) -> None:
        """Remove partitions: readers are told, the files go in the background. Missing ones are passed
        over. Durable when it returns. Raises ``OSError``."""
        specs = list(specs)
        for spec in specs:
            with self._lock:
                partition = self._partitions.pop(spec.key, None)
            if partition is not None:
                partition.mark_deleted()
                partition.close()
        trash = self.data_dir / DELETED_NAME
        fs.make_dir(trash)
        moved = False
        for spec in specs:
            directory = self.data_dir / fs.partition_dir(spec.topic, spec.partition)
            if directory.exists():
                target = fs.free_name(trash, f"{spec.topic_id}-{spec.partition}")
                rename(directory, target)
                self._trash.append(target)
                moved = True
            self.environment.hints.forget(*spec.key)
            self._checkpointer.forget(spec.key)
        if moved:
            sync_dir(trash)
            sync_dir(self.data_dir)
            self._trash_waits.set()

    def _set_aside_unknown(self, known: set[str]) -> None:
        """Partition directories that no topic of the metadata has: kept, but not served."""
        with os.scandir(self.data_dir) as entries:
            unknown = [
                entry.name
                for entry in entries
                if entry.name not in known and entry.is_dir() and fs.parse_partition_dir(entry.name)
            ]
        for name in unknown:
            target = set_aside(self.environment.quarantine, self.data_dir / name, "unknown")
            log.error(
                "directory of an unknown topic set aside", extra={"fields": {"path": name, "kept_in": str(target)}}
            )

    # -- now and then ---------------------------------------------------------------------------

    def _keep_house(self) -> None:
        checkpoint_every = self._config.recovery_point_interval_ms / 1000
        retain_every = self._config.retention_check_interval_ms / 1000
        next_checkpoint = time.monotonic() + checkpoint_every
        next_retain = time.monotonic() + retain_every
        while not self._stopping.is_set():
            wait = min(next_checkpoint, next_retain) - time.monotonic()
            if wait > 0 and self._trash_waits.wait(wait):
                self._trash_waits.clear()
                self._empty_trash()
            now = time.monotonic()
            if self._stopping.is_set():
                return
            if now >= next_checkpoint:
                self._safely("reserve", self.environment.space.restore)
                self._safely("checkpoint", self.write_checkpoint)
                next_checkpoint = time.monotonic() + checkpoint_every
            if now >= next_retain:
                self._safely("retention", self.retain)
                next_retain = time.monotonic() + retain_every

    def _safely(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except DiskFull:
            log.warning("disk full", extra={"fields": {"during": what}})
        except (OSError, TakhinError) as problem:
            log.error("housekeeping failed", extra={"fields": {"during": what, "error": str(problem)}})
        except Exception:  # a defect; the thread must live
            log.exception("housekeeping failed unexpectedly")

    def write_checkpoint(self) -> None:
        """Move the recovery points of the partitions that changed. Raises ``OSError``."""
        self._checkpointer.write(self.partitions())

    def retain(self) -> None:
        """Apply retention to all partitions. Raises ``OSError``, ``TakhinError``."""
        if self.environment.fault.reason:
            return
        for partition in self.partitions():
            if self._stopping.is_set():
                return
            if not partition.deleted:
                retention.retain(partition)

    def _empty_trash(self) -> None:
        # What is left at a stop goes after the next start.
        while self._trash and not self._stopping.is_set():
            shutil.rmtree(self._trash.pop(), ignore_errors=True)

    def _empty_trash_dir(self) -> None:
        trash = self.data_dir / DELETED_NAME
        if trash.exists():
            self._trash.extend(trash.iterdir())
            self._trash_waits.set()
