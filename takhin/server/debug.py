"""What ``/debug/...`` shows, where ``http.debug`` allows it: threads, garbage, the configuration in force."""

from __future__ import annotations

import gc
import json
import sys
import threading
import traceback
from collections.abc import Callable, Mapping

import msgspec

#: A path to what it answers, as text.
Pages = Mapping[str, Callable[[], str]]


def threads() -> str:
    """Where every thread is. Code only: no values, so no records."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"{names.get(ident, '?')} ({ident})\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(sorted(parts))


def garbage() -> str:
    return json.dumps({"counts": gc.get_count(), "stats": gc.get_stats(), "enabled": gc.isenabled()}, indent=2) + "\n"


def debug_pages(config: Callable[[], msgspec.Struct]) -> Pages:
    def shown() -> str:
        return json.dumps(msgspec.to_builtins(config()), indent=2) + "\n"

    return {"/debug/threads": threads, "/debug/gc": garbage, "/debug/config": shown}
