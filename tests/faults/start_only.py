"""Starts an engine and reads everything: ``python -m tests.faults.start_only DIRECTORY``."""

from __future__ import annotations

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
    engine.stop()
    os._exit(0)
