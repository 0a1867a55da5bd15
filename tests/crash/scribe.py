"""Histories written by hand, for the tests of the checker."""

from __future__ import annotations

from typing import Any

from .history import Event
from .values import make


class Scribe:
    """Writes a history by hand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.time = 0.0
        self._ops = 0

    def note(self, what: str, /, **fields: Any) -> None:
        self.events.append({"e": what, "t": self.time, **fields})

    def invoke(self, who: str, what: str, /, **fields: Any) -> int:
        self._ops += 1
        self.note("invoke", op=self._ops, w=who, f=what, **fields)
        return self._ops

    def produce(self, *values: str, base: int | None = None, how: str = "ok", who: str = "p", **fields: Any) -> int:
        """One call; the values are sequences of ``who``."""
        asked = {"topic": "t", "partition": 0, "acks": -1, **fields}
        op = self.invoke(who, "produce", values=[value_of(value, who) for value in values], **asked)
        if how == "ok":
            self.note("ok", op=op, partition=max(asked["partition"], 0), base=-1 if base is None else base)
        elif how != "open":
            self.note(how, op=op, status="ANY", reason=fields.get("reason", ""))
        return op

    def stream(self, offset: int, **fields: Any) -> int:
        return self.invoke("c", "stream", topic="t", partition=0, offset=offset, **fields)

    def read(self, op: int, *records: tuple[int, str], hw: int | None = None, start: int = 0) -> None:
        listed = [[offset, value_of(value), 1000 + offset] for offset, value in records]
        top = hw if hw is not None else (records[-1][0] + 1 if records else 0)
        self.note("read", op=op, records=listed, hw=top, start=start)

    def drain(self, *values: str, start: int = 0, hw: int | None = None, name: str = "end", **fields: Any) -> None:
        listed = [[start + n, value_of(value), 1000 + start + n] for n, value in enumerate(values)]
        self.drain_of(listed, start=start, hw=start + len(values) if hw is None else hw, name=name, **fields)

    def drain_of(self, listed: list[list[Any]], *, start: int, hw: int, name: str = "end", **fields: Any) -> None:
        place = {"topic": "t", "partition": 0, **fields}
        self.note("drain", name=name, records=listed, hw=hw, start=start, **place)

    def offsets(self, hw: int, start: int = 0) -> None:
        self.note("ok", op=self.invoke("a", "offsets", topic="t", partition=0), hw=hw, start=start)

    def delete_records(self, offset: int, how: str = "ok") -> None:
        op = self.invoke("a", "delete_records", topic="t", partition=0, offset=offset)
        self.note(how, op=op, **({"start": offset} if how == "ok" else {"status": "ANY", "reason": ""}))

    def set(self, value: Any, how: str = "ok", key: str = "k") -> int:
        op = self.invoke("g", "set", key=key, value=value)
        if how != "open":
            self.note(how, op=op, status="ANY", reason="")
        return op

    def get(self, value: Any, key: str = "k") -> None:
        self.note("ok", op=self.invoke("g", "get", key=key), value=value)


def value_of(value: str, who: str = "p") -> str:
    """``3`` is the third value of ``p``, ``q3`` of ``q``; others stay as they are."""
    if value.isdigit():
        return make(who, int(value), b"x")[0]
    if value[1:].isdigit():
        return make(value[0], int(value[1:]), b"x")[0]
    return value
