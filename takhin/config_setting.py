"""The settings, one by one: path, type, default and description, read from the structs of ``config``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, ValidationError, convert
from msgspec.structs import FieldInfo, fields

from .config import Config
from .topic_config import INT64_MAX, unavailable


@dataclass(frozen=True, slots=True)
class Setting:
    #: As in a file, from the root, with dots: ``grpc.addr``, ``topics.retention.ms``.
    path: str
    #: Name of the section; empty for the settings at the root.
    section: str
    #: The key within its section.
    key: str
    #: The attribute within its section's struct.
    attribute: str
    #: ``int``, ``bool``, ``str`` or a ``Literal``.
    bare_type: Any
    #: The annotation with its constraints, for ``msgspec.convert``.
    annotation: Any
    optional: bool
    default: Any
    description: str
    #: What may be given, in words.
    allowed: str

    def value_in(self, config: Config) -> Any:
        owner = getattr(config, self.section) if self.section else config
        return getattr(owner, self.attribute)

    def from_text(self, text: str) -> Any:
        """``text`` as the setting's type; as it is where it cannot be, for ``fault`` to find."""
        word = text.strip()
        if self.optional and word in ("", "null"):
            return None
        integer = self.bare_type is not bool and (self.bare_type is int or isinstance(self.default, int))
        if integer and re.fullmatch(r"[+-]?[0-9]{1,19}", word, re.ASCII):
            return int(word)
        if self.bare_type is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        return text

    def fault(self, value: Any) -> str:
        """What is wrong with a value, in a sentence with what is expected; empty when nothing is."""
        try:
            convert(value, self.annotation)
        except ValidationError:
            return f"expected {self.allowed}, got {unavailable(self.attribute, value) or shown(value)}"
        return ""


def shown(value: Any) -> str:
    """A value for an error: short, and with the name of its type as people say it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    name = {str: "text", bool: "true or false", int: "an integer", float: "a number"}.get(type(value), "something else")
    text = as_yaml(value)
    return f"{text if len(text) <= 80 else text[:80] + '...'} ({name})"


def as_yaml(value: Any) -> str:
    """A scalar as YAML reads it."""
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _words(bare: Any, meta: Meta) -> str:
    if bare is bool:
        return "true or false"
    if get_origin(bare) is Literal:
        return " or ".join(str(choice) for choice in get_args(bare))
    if bare is int:
        return f"an integer from {meta.ge} " + ("on" if meta.le == INT64_MAX else f"to {meta.le}")
    return "text that is not empty" if meta.min_length else "text"


def _setting(section: str, info: FieldInfo, hint: Any) -> Setting:
    annotation, optional = hint, False
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        optional = True
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{section}.{info.name}: a setting needs its documentation")
    bare, meta = get_args(hint)[:2]
    allowed = _words(bare, meta)
    if optional:  # the only ones so far: topic defaults that follow the log section
        allowed += f", or null for the value of log.{info.name}"
    return Setting(
        path=f"{section}.{info.encode_name}" if section else info.encode_name,
        section=section,
        key=info.encode_name,
        attribute=info.name,
        bare_type=bare,
        annotation=annotation,
        optional=optional,
        default=info.default,
        description=meta.description or "",
        allowed=allowed,
    )


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _walk() -> Iterator[Setting]:
    hints = get_type_hints(Config, include_extras=True)
    for info in fields(Config):
        hint = hints[info.name]
        if not _is_section(hint):
            yield _setting("", info, hint)
            continue
        inner = get_type_hints(hint, include_extras=True)
        for below in fields(hint):
            yield _setting(info.encode_name, below, inner[below.name])


@cache
def settings() -> Mapping[str, Setting]:
    """All settings by path, in the order of the structs: the root's first, then section by section."""
    return MappingProxyType({setting.path: setting for setting in _walk()})


@cache
def sections() -> Mapping[str, str]:
    """The sections by name, in order, with their documentation."""
    hints = get_type_hints(Config, include_extras=True)
    return MappingProxyType({name: inspect.getdoc(hint) or "" for name, hint in hints.items() if _is_section(hint)})
