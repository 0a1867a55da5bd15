"""The server's own log lines."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings

import pytest

from takhin.observe.logging import MAX_FIELD_LENGTH, incident, setup


@pytest.fixture(autouse=True)
def root_logger_is_put_back():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def log():
    return logging.getLogger("takhin.storage.engine")


def test_a_text_line_has_time_level_logger_message_and_fields(capsys, log):
    setup("info", "text")
    log.info("topic %s", "created", extra={"fields": {"topic": "orders", "partitions": 3}})
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d "
        r"INFO    engine    topic created  topic=orders partitions=3\n",
        err,
    )


def test_a_text_field_that_is_not_plain_is_quoted_and_cannot_forge_a_line(capsys, log):
    setup("info", "text")
    log.info("a\nb", extra={"fields": {"name": 'x\n2025 INFO forged="1"', "empty": "", "bidi": "\u202e", "sum": "a=b"}})
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.rstrip().endswith(r'a\nb  name="x\n2025 INFO forged=\"1\"" empty="" bidi="\u202e" sum="a=b"')


def test_a_json_line_is_one_object_with_an_rfc3339_time(capsys, log):
    setup("info", "json")
    log.warning("disk\nfull", extra={"fields": {"path": "/d\n", "free_bytes": 0, "on": True, "at": None, "odd": {1}}})
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    line = json.loads(err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "warning",
        "logger": "takhin.storage.engine",
        "msg": "disk\nfull",
        "fields": {"path": "/d\n", "free_bytes": 0, "on": True, "at": None, "odd": "{1}"},
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_is_written(capsys, log, format):
    setup("info", format)
    try:
        raise KeyError("lost")
    except KeyError:
        log.exception("failed")
    err = capsys.readouterr().err
    assert "KeyError: 'lost'" in (json.loads(err)["exc"] if format == "json" else err)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_long_field_is_cut(capsys, log, format):
    setup("info", format)
    log.info("x", extra={"fields": {"name": "n" * 70_000}})
    err = capsys.readouterr().err
    assert len(err) < MAX_FIELD_LENGTH + 200
    assert "70000 characters" in err


def test_lines_below_the_level_are_not_written(capsys, log):
    setup("warning", "text")
    log.info("quiet")
    log.warning("loud")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "loud" in err


def test_a_second_setup_replaces_the_first(capsys, log):
    setup("info", "text")
    setup("debug", "json")
    log.debug("once")
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "debug"


def test_handlers_of_others_are_left_alone(log):
    stream = io.StringIO()
    other = logging.StreamHandler(stream)
    logging.getLogger().addHandler(other)
    setup("info", "text")
    log.info("both")
    assert "both" in stream.getvalue()


def test_fields_that_are_no_mapping_do_not_stop_the_line(capsys, log):
    setup("info", "text")
    log.info("x", extra={"fields": "nonsense"})
    assert capsys.readouterr().err.endswith("engine    x\n")


def test_pythons_warnings_become_lines(capsys):
    with warnings.catch_warnings():
        setup("info", "json")
        warnings.simplefilter("always")
        warnings.warn("old thing", stacklevel=1)
        logging.captureWarnings(False)
    assert "old thing" in json.loads(capsys.readouterr().err)["msg"]


def test_an_incident_gives_the_id_that_its_line_carries(capsys, log):
    setup("info", "json")
    first = incident(log, ValueError("boom"), method="ListTopics")
    second = incident(log, ValueError("boom"))
    one, two = map(json.loads, capsys.readouterr().err.splitlines())
    assert first != second
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert one["fields"] == {"incident": first, "method": "ListTopics"}
    assert two["fields"] == {"incident": second}
    assert "ValueError: boom" in one["exc"]
