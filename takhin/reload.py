"""Taking a changed configuration into a running server: what can change does, and the rest is named.

Whoever asked for it learns the outcome from a small file in the data directory: ``takhin reload`` reads it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from .config import Config, LimitsConfig, TopicDefaults, problems
from .config_setting import settings
from .errors import ConfigError

#: Reads the configuration again. Raises ``ConfigError``.
Reader = Callable[[], Config]

#: Sections whose settings can change while the server runs.
CHANGEABLE: Final = ("logging", "memory", "limits", "topics")
OUTCOME_NAME: Final = "reload-outcome"


@runtime_checkable
class Reconfigurable(Protocol):
    """An engine that takes new defaults and limits while it runs."""

    def reconfigure(self, topics: TopicDefaults, limits: LimitsConfig) -> None: ...


class Plan(msgspec.Struct, frozen=True):
    """What a reload would do."""

    #: The running configuration with what can change.
    config: Config
    #: Paths of settings that change now, and of those that need a restart.
    changed: list[str]
    needs_restart: list[str]


class Outcome(msgspec.Struct, frozen=True):
    """What a reload did."""

    #: Of the process that did it.
    pid: int
    #: Which one it was, counted from 1.
    number: int
    #: Why nothing was changed; empty when it was done.
    error: str = ""
    changed: list[str] = []
    needs_restart: list[str] = []


def plan(running: Config, wanted: Config, sections: tuple[str, ...] = CHANGEABLE) -> Plan:
    """Raises ``ConfigError`` when what can change does not fit what cannot."""
    differing = [
        (path, setting.section in sections)
        for path, setting in settings().items()
        if setting.value_in(running) != setting.value_in(wanted)
    ]
    config = msgspec.structs.replace(running, **{name: getattr(wanted, name) for name in sections})
    changed = [path for path, can in differing if can]
    needs_restart = [path for path, can in differing if not can]
    found = problems(config)
    if found:
        sentences = [f"{path}: {message}, until a restart" for path, message in found]
        raise ConfigError("\n".join(sentences), path=found[0][0])
    return Plan(config, changed, needs_restart)


def write_outcome(data_dir: Path, outcome: Outcome) -> None:
    """For who waits. Nothing depends on it: a full disk only leaves the caller without an answer."""
    path = data_dir / OUTCOME_NAME
    aside = path.with_name(path.name + ".new")
    with contextlib.suppress(OSError):
        aside.write_bytes(msgspec.json.encode(outcome) + b"\n")
        os.replace(aside, path)


def read_outcome(data_dir: Path) -> Outcome | None:
    """None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode((data_dir / OUTCOME_NAME).read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError):
        return None
