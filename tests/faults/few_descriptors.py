"""An engine that runs out of file descriptors, and gets them back, as a process of its own.

    python -m tests.faults.few_descriptors DIRECTORY

Prints a JSON object: what was answered meanwhile, the processor time of a second without descriptors,
and how long it took to proceed afterwards.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from takhin import errors

from .backend import EngineBackend, open_engine
from .records import make_value


def main(directory: Path) -> dict[str, Any]:
    engine = open_engine(directory, recovery_point_interval_ms=100)
    backend = EngineBackend(engine, 0.3)
    for name in ("a", "b"):
        engine.create_topic(name, 1, 0, {"segment.bytes": "1024", "retention.ms": "-1"})
    sent = 0

    def produce(topic: str) -> int:
        nonlocal sent
        sent += 1
        return backend.produce(topic, 0, [(None, make_value("x", sent, 400).encode(), 1)], -1)[0]

    for topic in ("a", "b") * 6:
        produce(topic)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    said = []
    for topic in ("a", "b") * 6:  # each needs a new segment now and then
        try:
            produce(topic)
            said.append("ok")
        except errors.TakhinError as error:
            said.append(type(error).__name__)
    health = engine.health().status
    before = time.process_time()
    time.sleep(1)
    cpu = time.process_time() - before
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    began = time.monotonic()
    offsets = {}
    for topic in ("a", "b"):
        while topic not in offsets:
            try:
                offsets[topic] = produce(topic)
            except errors.TakhinError:
                assert time.monotonic() < began + 10, "it does not proceed"
                time.sleep(0.02)
    took = time.monotonic() - began
    for topic, offset in offsets.items():
        at = 0
        while at <= offset:
            at = backend.read(topic, 0, at)[-1][0] + 1
    engine.stop()
    return {"said": said, "health": health, "cpu": cpu, "took": took}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(main(Path(sys.argv[1]))))
