"""The configuration of one topic, under Kafka's names, and the server's defaults for it.

The effective value of a name is the topic's own (an override, kept as text as Kafka's clients
send it), else the server's default from the ``topics`` section, else the built-in default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, ValidationError, convert

from .errors import InvalidTopicConfig

if TYPE_CHECKING:
    from .config import LogConfig

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

CleanupPolicy = Annotated[
    Literal["delete"],
    Meta(description="What becomes of old segments. `delete` removes them by age or size."),
]
CompressionType = Annotated[
    Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
    Meta(
        description="How batches are stored: by one of the codecs, or as they come (`producer`, `uncompressed`). "
        "Consumers always get plain records."
    ),
]
MaxMessageBytes = Annotated[
    int, Meta(ge=0, le=INT32_MAX, description="Largest record batch that is accepted, in bytes of its stored form.")
]
MessageTimestampType = Annotated[
    Literal["CreateTime", "LogAppendTime"],
    Meta(description="Which time a record carries: the producer's (`CreateTime`) or the server's (`LogAppendTime`)."),
]
RetentionBytes = Annotated[
    int,
    Meta(
        ge=-1,
        le=INT64_MAX,
        description="Bytes that each partition keeps; whole old segments beyond it are removed. -1 = no limit.",
    ),
]
RetentionMs = Annotated[
    int, Meta(ge=-1, le=INT64_MAX, description="Milliseconds that records are kept. -1 = for ever.")
]
SegmentBytes = Annotated[
    int, Meta(ge=1024, le=INT32_MAX, description="Size at which a segment is full and a new one begins, in bytes.")
]
SegmentMs = Annotated[
    int, Meta(ge=1, le=INT64_MAX, description="Age at which a new segment begins although the old is not full, in ms.")
]
IndexIntervalBytes = Annotated[
    int,
    Meta(
        ge=0, le=INT32_MAX, description="Bytes of log between two index entries. Less = faster seeks, larger indexes."
    ),
]


class TopicConfigs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in force for one topic."""

    cleanup_policy: CleanupPolicy
    compression_type: CompressionType
    max_message_bytes: MaxMessageBytes
    message_timestamp_type: MessageTimestampType
    retention_bytes: RetentionBytes
    retention_ms: RetentionMs
    segment_bytes: SegmentBytes
    segment_ms: SegmentMs
    index_interval_bytes: IndexIntervalBytes


_KAFKA_NAMES = {attribute: attribute.replace("_", ".") for attribute in TopicConfigs.__struct_fields__}

#: Attribute of ``TopicConfigs`` by Kafka's name, sorted by name.
ATTRIBUTES: Mapping[str, str] = {name: attribute for attribute, name in sorted(_KAFKA_NAMES.items())}


class TopicDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_KAFKA_NAMES):
    """The server's defaults for topics that do not say otherwise; the keys are Kafka's."""

    num_partitions: Annotated[
        int, Meta(ge=1, le=10_000, description="Partitions of a topic that is created without a number.")
    ] = 1
    cleanup_policy: CleanupPolicy = "delete"
    compression_type: CompressionType = "producer"
    max_message_bytes: MaxMessageBytes = 10_485_760
    message_timestamp_type: MessageTimestampType = "CreateTime"
    retention_bytes: RetentionBytes = -1
    retention_ms: RetentionMs = 604_800_000
    segment_bytes: SegmentBytes | None = None
    segment_ms: SegmentMs | None = None
    index_interval_bytes: IndexIntervalBytes | None = None


#: Values that Kafka has and this version has not; the error says so instead of "bad value".
_NOT_AVAILABLE: Mapping[str, frozenset[str]] = {
    "cleanup_policy": frozenset({"compact", "compact,delete", "delete,compact"}),
}


def _constraint(attribute: str) -> tuple[Any, Meta]:
    """(bare type, its Meta) of an attribute of ``TopicConfigs``."""
    bare, meta = get_args(_HINTS[attribute])[:2]
    return bare, meta


_HINTS = get_type_hints(TopicConfigs, include_extras=True)


def allowed_values(name: str) -> str:
    """What may be given for one of Kafka's names, in words."""
    bare, meta = _constraint(ATTRIBUTES[name])
    if get_origin(bare) is Literal:
        return " or ".join(get_args(bare))
    return f"an integer from {meta.ge} " + ("on" if meta.le == INT64_MAX else f"to {meta.le}")


def documentation(name: str) -> str:
    """One or two sentences on one of Kafka's names."""
    return _constraint(ATTRIBUTES[name])[1].description or ""


def unavailable(attribute: str, value: object) -> str:
    """A sentence if ``value`` is Kafka's but not available in this version, else nothing."""
    if isinstance(value, str) and value.replace(" ", "") in _NOT_AVAILABLE.get(attribute, ()):
        return f"{value!r} is not available in this version of Takhin"
    return ""


def _parse(name: str, text: str) -> Any:
    attribute = ATTRIBUTES[name]
    bare, _ = _constraint(attribute)
    value: Any = text.strip()
    if bare is int and re.fullmatch(r"[+-]?[0-9]{1,19}", value, re.ASCII):
        value = int(value)
    try:
        return convert(value, _HINTS[attribute])
    except ValidationError:
        shown = text if len(text) <= 64 else text[:64] + "..."
        why = unavailable(attribute, value) or f"{shown!r} cannot be used"
        raise InvalidTopicConfig(
            f"topic config {name}: {why}; allowed: {allowed_values(name)}",
            bad_field="configs",
            config=name,
            value=shown,
            allowed=allowed_values(name),
        ) from None


def _unknown(name: str) -> InvalidTopicConfig:
    shown = name if len(name) <= 64 else name[:64] + "..."
    nearest = difflib.get_close_matches(name[:64], ATTRIBUTES, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return InvalidTopicConfig(
        f"unknown topic config {shown!r}{hint}; there are: {', '.join(ATTRIBUTES)}",
        bad_field="configs",
        config=shown,
        known=",".join(ATTRIBUTES),
    )


def _default(log: LogConfig, defaults: TopicDefaults, attribute: str) -> Any:
    value = getattr(defaults, attribute)
    return getattr(log, attribute) if value is None else value


def topic_configs(log: LogConfig, defaults: TopicDefaults, overrides: Mapping[str, str]) -> TopicConfigs:
    """The effective configuration of a topic with these overrides (Kafka's names, values as text).

    Raises ``InvalidTopicConfig`` that names the config and what is allowed; for an unknown name,
    the names that exist and the nearest.
    """
    values: dict[str, Any] = {attribute: _default(log, defaults, attribute) for attribute in _KAFKA_NAMES}
    for name, text in overrides.items():
        if name not in ATTRIBUTES:
            raise _unknown(name)
        values[ATTRIBUTES[name]] = _parse(name, text)
    return TopicConfigs(**values)


def describe_topic_configs(
    log: LogConfig, defaults: TopicDefaults, overrides: Mapping[str, str]
) -> list[tuple[str, str, str, str]]:
    """(name, effective value, source, documentation) of every config, sorted by name.

    The source is ``topic`` for an override, ``server`` for a default that the server's
    configuration changed, ``default`` for the built-in one. Raises as ``topic_configs`` does.
    """
    effective = topic_configs(log, defaults, overrides)
    built_in_log, built_in = type(log)(), TopicDefaults()
    rows = []
    for name, attribute in ATTRIBUTES.items():
        value = getattr(effective, attribute)
        if name in overrides:
            source = "topic"
        elif value != _default(built_in_log, built_in, attribute):
            source = "server"
        else:
            source = "default"
        rows.append((name, str(value), source, documentation(name)))
    return rows
