"""Topic configs under Kafka's names."""

from __future__ import annotations

import pytest

from takhin.config import LogConfig, TopicDefaults, describe_topic_configs, topic_configs
from takhin.errors import InvalidTopicConfig
from takhin.topic_config import ATTRIBUTES

LOG, DEFAULTS = LogConfig(), TopicDefaults()


def test_without_overrides_the_servers_defaults_are_in_force():
    configs = topic_configs(LogConfig(segment_ms=7), TopicDefaults(retention_ms=5), {})
    assert (configs.retention_ms, configs.segment_ms, configs.cleanup_policy) == (5, 7, "delete")


def test_a_topic_default_beats_the_log_section_and_an_override_beats_both():
    log, defaults = LogConfig(segment_bytes=2000), TopicDefaults(segment_bytes=3000)
    assert topic_configs(log, TopicDefaults(), {}).segment_bytes == 2000
    assert topic_configs(log, defaults, {}).segment_bytes == 3000
    assert topic_configs(log, defaults, {"segment.bytes": "4000"}).segment_bytes == 4000


def test_the_names_are_kafkas():
    assert list(ATTRIBUTES) == [
        "cleanup.policy",
        "compression.type",
        "index.interval.bytes",
        "max.message.bytes",
        "message.timestamp.type",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.ms",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "-1"),
        ("retention.ms", str(2**63 - 1)),
        ("retention.bytes", "0"),
        ("segment.bytes", "1024"),
        ("segment.bytes", "2147483647"),
        ("segment.ms", "1"),
        ("index.interval.bytes", "0"),
        ("max.message.bytes", "0"),
        ("message.timestamp.type", "LogAppendTime"),
        ("compression.type", "uncompressed"),
        ("cleanup.policy", "delete"),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert str(getattr(topic_configs(LOG, DEFAULTS, {name: value}), ATTRIBUTES[name])) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "-2"),
        ("retention.ms", "9223372036854775808"),
        ("retention.ms", "1.5"),
        ("retention.ms", ""),
        ("retention.ms", "１"),
        ("retention.ms", "9" * 5000),
        ("retention.bytes", "ten"),
        ("segment.bytes", "1023"),
        ("segment.bytes", "2147483648"),
        ("segment.ms", "0"),
        ("index.interval.bytes", "-1"),
        ("message.timestamp.type", "createtime"),
        ("cleanup.policy", "shred"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_the_value_and_what_is_allowed(name, value):
    with pytest.raises(InvalidTopicConfig) as caught:
        topic_configs(LOG, DEFAULTS, {name: value})
    error = caught.value
    assert error.bad_field == "configs"
    assert error.fields["config"] == name
    assert name in error.message
    assert value[:40] in error.message
    assert error.fields["allowed"] in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [("cleanup.policy", "compact"), ("cleanup.policy", "compact,delete")],
)
def test_what_kafka_has_and_this_version_has_not_is_said_so(name, value):
    with pytest.raises(InvalidTopicConfig, match="not available in this version"):
        topic_configs(LOG, DEFAULTS, {name: value})


def test_an_unknown_name_is_refused_with_the_nearest_and_all_that_exist():
    with pytest.raises(InvalidTopicConfig) as caught:
        topic_configs(LOG, DEFAULTS, {"retention_ms": "1"})
    assert "did you mean retention.ms?" in caught.value.message
    assert all(name in caught.value.message for name in ATTRIBUTES)


def test_a_description_tells_topic_server_and_default_apart():
    rows = describe_topic_configs(LogConfig(segment_ms=9), TopicDefaults(retention_bytes=8), {"retention.ms": " 7 "})
    assert [row[0] for row in rows] == list(ATTRIBUTES)
    found = {name: (value, source) for name, value, source, _ in rows}
    assert found["retention.ms"] == ("7", "topic")
    assert found["retention.bytes"] == ("8", "server")
    assert found["segment.ms"] == ("9", "server")
    assert found["cleanup.policy"] == ("delete", "default")
    assert all(row[3] for row in rows)
