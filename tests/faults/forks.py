"""Work in child processes of one that has everything imported: each costs milliseconds.

The parent must have no threads of its own: an engine is started in children only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Ended:
    #: As ``waitstatus_to_exitcode``; -SIGKILL when it was killed, or hung.
    code: int
    hung: bool
    cpu_seconds: float
    #: What the work gave back; a ``problem`` and its ``where`` when it raised.
    result: dict[str, Any] = field(default_factory=dict)


def in_child(work: Callable[[], dict[str, Any] | None], timeout_s: float = 20.0) -> Ended:
    """Run ``work`` in a child and wait for it; at the end of the time it is killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            os.write(writing, json.dumps(_guarded(work)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    data, hung, end = b"", False, time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([reading], [], [], max(end - time.monotonic(), 0))
        if not ready:
            hung = True
            os.kill(pid, signal.SIGKILL)
            break
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        data += piece
    os.close(reading)
    _, status, usage = os.wait4(pid, 0)
    result: dict[str, Any] = json.loads(data) if data else {}
    return Ended(os.waitstatus_to_exitcode(status), hung, usage.ru_utime + usage.ru_stime, result)


def _guarded(work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    try:
        return work() or {}
    except BaseException as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [frame for frame in frames if "/tests/" in frame.filename] or frames
        return {
            "problem": "".join(traceback.format_exception_only(problem)).strip(),
            "where": " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(own[-4:])),
        }
