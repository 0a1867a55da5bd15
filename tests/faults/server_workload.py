"""The workload of ``workload``, against the real server: the client is this process, the server one of its own.

    python -m tests.faults.server_workload DIRECTORY TRACE SEED LIFE

Marks are made by the client, when it has the answer.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.integration.server_process import ServerProcess

from .grpc_backend import GrpcBackend
from .session import Session
from .trace import Marks
from .workload import first_life, second_life, third_life

CONFIG = {
    "segment_bytes": 1024,
    "index_interval_bytes": 128,
    "recovery_point_interval_ms": 100,
    "retention_check_interval_ms": 100,
    "reserve_bytes": 65536,
    "flush_threads": 2,
}


def main(directory: Path, trace: Path, seed: int, life: str) -> None:
    marks = Marks(trace)
    with tempfile.TemporaryDirectory() as outside:
        server = ServerProcess(Path(outside), {"data_dir": str(directory), "log": CONFIG})
        try:
            server.start()
            with server.channel() as channel:
                backend = GrpcBackend(channel)
                if life == "a":
                    first_life(Session(backend, marks, life), seed, lambda: None)
                    server.kill()
                else:
                    session = Session(backend, marks, life, {"t": 1, "kept": 1, "gone": 2})
                    (second_life if life == "b" else third_life)(session, seed)
            if life != "a":
                assert server.stop() == 0, server.log_text()
                marks("stopped")
        finally:
            server.kill()
    marks.close()
    if life == "a":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
