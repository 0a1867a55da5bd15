"""Starts and stops an engine on each of the directories in one, under the shim.

python -m tests.faults.recover_traced DIRECTORY TRACE
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from .recover import engine_on
from .trace import Marks

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    marks = Marks(Path(sys.argv[2]))
    for directory in sorted(Path(sys.argv[1]).iterdir(), key=lambda path: int(path.name)):
        marks("base", n=int(directory.name))
        with engine_on(directory):
            pass
    marks.close()
