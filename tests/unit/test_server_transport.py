"""gRPC looks at its environment once, when it is first imported: what we ask for has to be there by then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from takhin.server.transport import GRPC_EXPERIMENTS

#: Runs the server on an address that is taken, so that it ends by itself, and tells what gRPC finds.
PROGRAM = """
import os, sys

class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print("found", os.environ.get("GRPC_EXPERIMENTS"), flush=True)

sys.meta_path.insert(0, Look())
from takhin.cli.main import main
main()
"""


@pytest.mark.parametrize("of_the_user", [None, "event_engine_listener"])
def test_the_server_asks_before_grpc_is_imported(tmp_path: Path, of_the_user: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    if of_the_user is not None:
        environment["GRPC_EXPERIMENTS"] = of_the_user
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-c", PROGRAM, "serve", "--data-dir", str(tmp_path), "--addr", address]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout.split() == ["found", of_the_user or GRPC_EXPERIMENTS]
    assert "experiment" not in done.stderr.lower(), "this grpcio does not know the name"
