"""Reads the configuration: a YAML file, ``${VAR}`` from the environment, and the command line over both.

Every problem is found in one pass and named with its place and its full path. Each value
remembers where it came from: ``default``, ``file FILE:LINE``, ``environment VAR`` or
``command line``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from .config import Config, problems
from .config_setting import Setting, sections, settings, shown
from .errors import ConfigError

#: A configuration is a page or two; this keeps a wrong path (a log, a disk) out of memory.
MAX_FILE_BYTES = 1_048_576

DEFAULT = "default"
COMMAND_LINE = "command line"

#: ``$${`` is a literal ``${``; otherwise ``${`` begins a variable, closed or not.
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Problem(NamedTuple):
    #: ``FILE:LINE``, ``FILE`` or ``command line``; empty for the defaults.
    place: str
    #: The setting's path; empty when the whole file is meant.
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class Loaded(NamedTuple):
    config: Config
    #: Where each setting's value came from, by path; all settings are there.
    origins: Mapping[str, str]


@dataclass
class _Reading:
    """What is gathered while a configuration is read."""

    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, path: str, message: str) -> None:
        self.problems.append(Problem(place, path, message))

    def take(self, setting: Setting, value: Any, origin: str, place: str) -> None:
        fault = setting.fault(value)
        if fault:
            self.add(place, setting.path, fault)
        else:
            self.values[setting.path] = value
            self.origins[setting.path] = origin
            self.places[setting.path] = place


def load(
    path: str | os.PathLike[str] | None, overrides: Iterable[str] = (), environ: Mapping[str, str] | None = None
) -> Loaded:
    """The configuration from a file (None = defaults only) with ``PATH=VALUE`` overrides of the command line.

    Raises ``ConfigError`` with every problem, one a line.
    """
    loaded, found = examine(path, overrides, environ)
    if loaded is None:
        raise ConfigError("\n".join(map(str, found)), file=str(path or ""), path=found[0].path)
    return loaded


def examine(
    path: str | os.PathLike[str] | None, overrides: Iterable[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Loaded | None, list[Problem]]:
    """As ``load``, but gives the problems; there is a configuration exactly when there is none of them."""
    reading = _Reading(os.environ if environ is None else environ)
    if path is not None:
        _read_file(reading, os.fspath(path))
    for override in overrides:
        _override(reading, override)
    config = _build(reading.values)
    for setting_path, message in problems(config):
        reading.add(reading.places.get(setting_path, ""), setting_path, message)
    if reading.problems:
        return None, reading.problems
    origins = {name: reading.origins.get(name, DEFAULT) for name in settings()}
    return Loaded(config, origins), []


def _build(values: Mapping[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        setting = settings()[path]
        (tree.setdefault(setting.section, {}) if setting.section else tree)[setting.key] = value
    return msgspec.convert(tree, Config)


# -- the command line ---------------------------------------------------------------------------


def _override(reading: _Reading, override: str) -> None:
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals:
        reading.add(COMMAND_LINE, path, "an override is written PATH=VALUE, such as grpc.addr=127.0.0.1:9999")
    elif path not in settings():
        reading.add(COMMAND_LINE, path, f"unknown setting; {_meant(_similar(path)) or 'see takhin config show'}")
    else:
        setting = settings()[path]
        reading.take(setting, setting.from_text(text), COMMAND_LINE, COMMAND_LINE)


# -- the file -----------------------------------------------------------------------------------


def _read_file(reading: _Reading, file: str) -> None:
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        return reading.add(file, "", f"cannot be read: {exc.strerror or exc}")
    if len(data) > MAX_FILE_BYTES:
        return reading.add(file, "", f"is larger than {MAX_FILE_BYTES} bytes: not a configuration")
    loader = None
    try:
        loader = yaml.SafeLoader(data.decode())
        root = loader.get_single_node()
        if root is None:
            return None
        if not isinstance(root, yaml.MappingNode):
            return reading.add(f"{file}:{_line(root)}", "", "expected settings (key: value), got something else")
        _read_mapping(reading, loader, file, "", root)
    except UnicodeDecodeError as exc:
        reading.add(file, "", f"is not UTF-8 text: byte {exc.start} cannot be read")
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        reading.add(f"{file}:{mark.line + 1}" if mark else file, "", f"not valid YAML: {exc.problem or exc.context}")
    except yaml.YAMLError as exc:
        reading.add(file, "", f"not valid YAML: {' '.join(str(exc).split())}")
    except RecursionError:
        reading.add(file, "", "not a configuration: nested too deeply")
    finally:
        if loader is not None:
            loader.dispose()
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _read_mapping(
    reading: _Reading, loader: yaml.SafeLoader, file: str, section: str, mapping: yaml.MappingNode
) -> None:
    seen: dict[str, int] = {}
    for key_node, value_node in mapping.value:
        place = f"{file}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode):
            reading.add(place, section, "a key must be text")
            continue
        key = key_node.value
        path = f"{section}.{key}" if section else key
        if key in seen:
            reading.add(place, path, f"is given twice, first on line {seen[key]}")
            continue
        seen[key] = _line(key_node)
        if not section and key in sections():
            _read_section(reading, loader, file, key, value_node)
        elif path in settings() and settings()[path].section == section:
            _read_value(reading, loader, file, settings()[path], value_node)
        else:
            reading.add(place, path, _unknown(section, key))


def _read_section(reading: _Reading, loader: yaml.SafeLoader, file: str, name: str, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        _read_mapping(reading, loader, file, name, node)
        return
    value = _construct(loader, node)
    if value is not None:  # a section with all its keys commented out is null
        reading.add(f"{file}:{_line(node)}", name, f"expected a section (keys below it), got {shown(value)}")


def _read_value(reading: _Reading, loader: yaml.SafeLoader, file: str, setting: Setting, node: yaml.Node) -> None:
    place = f"{file}:{_line(node)}"
    origin = f"file {place}"
    if isinstance(node, yaml.ScalarNode) and "${" in node.value:
        text, used = _expand(reading, place, setting.path, node.value)
        if text is None:
            return
        if used:
            origin = f"environment {', '.join(used)}"
        reading.take(setting, setting.from_text(text), origin, place)
        return
    reading.take(setting, _construct(loader, node), origin, place)


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """The value of a scalar; for anything else only what kind of thing it is."""
    if isinstance(node, yaml.MappingNode):
        return {}
    if isinstance(node, yaml.SequenceNode):
        return []
    try:
        return loader.construct_object(node)
    except ValueError as exc:  # such as the date 2024-99-99 or an integer of many digits
        raise yaml.MarkedYAMLError(problem=str(exc), problem_mark=node.start_mark) from None


def _expand(reading: _Reading, place: str, path: str, text: str) -> tuple[str | None, Sequence[str]]:
    """The text with its variables replaced, or None after a problem, and the variables that were set."""
    used: list[str] = []
    bad = False

    def replace(match: re.Match[str]) -> str:
        nonlocal bad
        if match[0] == "$${":
            return "${"
        name, colon, default = match[1].partition(":-")
        if not match[2] or not _VARIABLE_NAME.fullmatch(name) or "${" in default:
            bad = True
            reading.add(place, path, f"{match[0]!r} is not ${{VAR}} or ${{VAR:-default}} (write $${{ for a plain ${{)")
            return ""
        value = reading.environ.get(name)
        if colon and not value:  # as in a shell, an empty variable takes the default too
            return default
        if value is None:
            bad = True
            reading.add(place, path, f"the environment variable {name} is not set, and there is no default")
            return ""
        used.append(name)
        return value

    expanded = _VARIABLE.sub(replace, text)
    return None if bad else expanded, used


def _unknown(section: str, key: str) -> str:
    """The sentence for a key that is not there: with the nearest that is, else with all that could be meant."""
    wanted = f"{section}.{key}" if section else key
    if section and key in settings():  # grpc: {grpc.addr: ...}, or a root setting put too deep
        return f"unknown setting; the path {key} is meant from the root"
    if wanted in settings():  # "grpc.addr: ..." as one key at the root of a file
        setting = settings()[wanted]
        return f"unknown setting; write {setting.key} below {setting.section}:"
    prefix = f"{section}." if section else ""
    here = [setting.key for setting in settings().values() if setting.section == section]
    if not section:
        here += sections()
    found = [prefix + name for name in difflib.get_close_matches(key.replace("-", "_"), here, n=1)]
    return (
        f"unknown setting; {_meant(found or _similar(wanted)) or 'there are: ' + ', '.join(prefix + n for n in here)}"
    )


def _similar(path: str) -> list[str]:
    """Paths of settings that ``path`` may mean, the likeliest first: the same key elsewhere, or a near one."""
    same_key = [setting.path for setting in settings().values() if setting.key == path]
    return same_key or difflib.get_close_matches(path.replace("-", "_"), settings(), n=1)


def _meant(paths: Sequence[str]) -> str:
    return f"did you mean {paths[0]}?" if paths else ""
