"""The part of the local engine for who runs it: its claim, progress, totals, and changes while it runs."""

from __future__ import annotations

import os
import threading

from ..config import LimitsConfig, LogConfig, TopicDefaults, topic_configs
from ..groups import Groups
from ..storage.manager import LogManager
from .base import Engine, GroupMember, Totals
from .topic import Topic


class LocalReload(Engine):
    _manager: LogManager
    _groups: Groups[GroupMember]
    _admin: threading.Lock
    _topics: dict[str, Topic]
    _log: LogConfig
    _defaults: TopicDefaults
    _limits: LimitsConfig
    _claimed = False

    def claim(self) -> None:
        if not self._claimed:
            self._manager.lock()
            self._claimed = True

    def _release(self) -> None:
        self._manager.release()
        self._claimed = False

    def progress(self) -> str:
        manager = self._manager
        if manager.expected_partitions == 0:
            return ""
        return f"recovered {len(manager.partitions())} of {manager.expected_partitions} partitions"

    def totals(self) -> Totals:
        done = self._manager.environment.counters
        try:
            disk = os.statvfs(self._manager.data_dir)
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        except OSError:
            free = total = 0
        return Totals(
            done.records_appended,
            done.bytes_appended,
            done.bytes_read,
            done.flushes,
            done.flush_seconds,
            free,
            total,
        )

    def reconfigure(self, topics: TopicDefaults, limits: LimitsConfig) -> None:
        """In force when it returns. Nothing that is there is taken away: a limit below what is in use refuses
        more. Raises nothing: the configuration was checked."""
        with self._admin:
            self._limits = limits
            self._groups.set_limits(limits)
            self._defaults = topics
            for topic in self._topics.values():
                topic.configs = topic_configs(self._log, topics, topic.overrides)
                for partition in topic.partitions:
                    partition.configs = topic.configs
