"""What happened, as JSON lines: one event a line, in the order in which it was seen.

Every event has ``e`` (what it is), ``t`` (monotonic seconds) and, when it is read back, ``n`` (its
place in the order). An operation is an ``invoke`` with a number, ``op``, and at most one ``ok``,
``fail`` (it surely did not happen) or ``info`` (nobody knows) with the same number; without any of these
it is unknown too. An outcome that stands before an invocation really came before it.

============== ===================================================================================
event          fields
============== ===================================================================================
invoke         op, w (who), f (what), and what was asked; see below
ok             op, and what was answered
fail, info     op, status, reason
read           op (of the stream), records [[offset, identity, timestamp]], hw, start
out_of_range   op (of the stream), position, hw, start
fault          what: something is about to be done to the server, until ``healed``
down           the process has ended: what it had not done yet, it never will
healed         the server serves again; seconds: how long its start took, where it was one
exit           code, seconds: how the server ended when it was asked to
unexpected     text: something that nothing in the plan explains
damage         topic, partition, first, last: records whose bytes were damaged on purpose
drain          name, topic, partition, records, hw, start, losses [[first, last]]: all that can be read
times          name, topic, partition, answers [[T, offset, timestamp]]: ListOffsets of a drained partition
digest         name, files {path: sum}: the bytes of a data directory after a recovery
cut            bytes, kept: torn bytes that recovery cut, and bytes found in quarantine since
============== ===================================================================================

============== ============================================= =====================================
f              asked                                         answered
============== ============================================= =====================================
produce        topic, partition (-1: any), acks, values;     partition, base (-1: not told)
               idempotent, stream (its name), fenced,
               repeat (of which op)
stream         topic, partition, offset (-1: earliest),      position (the next), when it ended well
               until_end, group
offsets        topic, partition                              hw, start
find_time      topic, partition, time                        offset, timestamp
delete_records topic, partition, offset                      start
set            key, value: a commit, a config, a topic
get            key                                           value
============== ============================================= =====================================
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class History:
    """Writes a history; thread-safe. Each line is with the operating system when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self._next_op = 0
        self._passed = 0.0

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _write(self, event: Event) -> None:
        """Caller holds the lock."""
        if not self._file.closed:
            event["t"] = round(time.monotonic() + self._passed, 4)
            self._file.write(json.dumps(event, separators=(",", ":")) + "\n")

    def note(self, what: str, /, **fields: Any) -> None:
        with self._lock:
            self._write({"e": what, **fields})

    def let_pass(self, seconds: float) -> None:
        """On the history's clock, at once."""
        with self._lock:
            self._passed += seconds

    def invoke(self, who: str, what: str, /, **fields: Any) -> int:
        """Write it before anything is sent; gives the number of the operation."""
        with self._lock:
            op = self._next_op
            self._next_op += 1
            self._write({"e": "invoke", "op": op, "w": who, "f": what, **fields})
        return op

    def ok(self, op: int, **fields: Any) -> None:
        self.note("ok", op=op, **fields)

    def fail(self, op: int, status: str, reason: str = "") -> None:
        self.note("fail", op=op, status=status, reason=reason)

    def info(self, op: int, status: str, reason: str = "") -> None:
        self.note("info", op=op, status=status, reason=reason)


def numbered(events: Iterable[Event]) -> list[Event]:
    return [{**event, "n": n} for n, event in enumerate(events)]


def read(path: Path) -> list[Event]:
    def lines() -> Iterator[Event]:
        with path.open() as file:
            for line in file:
                if line.endswith("\n"):  # the last one may have been cut short
                    yield json.loads(line)

    return numbered(lines())
