"""The server's own log: text for people, JSON for machines, one line each, on stderr.

A line is a fixed message and its facts: ``log.info("topic created", extra={"fields": {...}})``.
Facts are escaped and cut, so that a hostile name can neither forge a line nor flood the log.
What records hold is never logged.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

#: Longest text of one field, in characters; more is cut and marked.
MAX_FIELD_LENGTH: Final = 1024

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_FIELD_LENGTH else f"{text[:MAX_FIELD_LENGTH]}...({len(text)} characters)"


def _plain(value: object) -> Any:
    """A value that JSON has; anything else as its text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cut(str(value))


class TextFormatter(logging.Formatter):
    """``2025-03-01 12:00:00.123+00:00 INFO    engine  topic created  topic=orders partitions=3``

    Local time with its offset, so that it reads like the wall clock and is still exact. Values with
    blanks or anything unprintable are quoted. A traceback follows on lines of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")
        message = record.getMessage()
        if not message.isprintable():
            message = json.dumps(message)[1:-1]
        line = f"{time} {record.levelname:<7} {record.name.rpartition('.')[2]:<9} {_cut(message)}"
        fields = _fields(record)
        if fields:
            line += "  " + " ".join(f"{name}={self._value(value)}" for name, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    @staticmethod
    def _value(value: object) -> str:
        text = _cut(str(value))
        bare = text and text.isprintable() and not any(sign in text for sign in ' "=')
        return text if bare else json.dumps(text, ensure_ascii=not text.isprintable())


class JsonFormatter(logging.Formatter):
    """One object a line: ``ts`` (RFC 3339, UTC, ms), ``level``, ``logger``, ``msg``, and where there
    are any ``fields`` (an object) and ``exc`` (the traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _cut(record.getMessage()),
        }
        fields = _fields(record)
        if fields:
            line["fields"] = {str(name): _plain(value) for name, value in fields.items()}
        if record.exc_info:
            line["exc"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours among the root logger's handlers; writes to what ``sys.stderr`` is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def setup(level: str, format: str) -> None:
    """Send all logging to stderr: ``level`` is a key of ``LEVELS``, ``format`` is ``text`` or ``json``.

    Calling it again changes both; handlers of others are left alone. Python's own warnings go
    the same way.
    """
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)


def incident(log: logging.Logger, exc: BaseException, **fields: object) -> str:
    """Log a defect with its traceback and give the short random id that the line carries.

    The id is all that a caller outside may be told.
    """
    identity = secrets.token_hex(4)
    log.error("internal error", exc_info=exc, extra={"fields": {"incident": identity, **fields}})
    return identity
