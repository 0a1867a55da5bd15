"""Starts an engine, reads everything, and prints where each log begins and ends as a JSON object:
``python -m tests.faults.start_only DIRECTORY``."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from .backend import open_engine
from .recover import observe

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    engine = open_engine(Path(sys.argv[1]), segment_bytes=1 << 20, min_free_bytes=0)
    observed = observe(engine)
    assert observed.topics
    bounds = {f"{topic}-{partition}": log[:2] for (topic, partition), log in observed.logs.items()}
    engine.stop()
    print(json.dumps(bounds), flush=True)
    os._exit(0)
