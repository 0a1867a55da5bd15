"""Clients that other people's tools generate from proto/ drive every method."""

from __future__ import annotations

import subprocess

import pytest

from takhin.v1 import takhin_pb2
from tests.integration.server_process import ServerProcess
from tests.integration.toolchains import PROTO_ROOT, go_client, java_program, node_client, run_client

ALL_METHODS = sorted(takhin_pb2.DESCRIPTOR.services_by_name["TakhinService"].methods_by_name)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_go_client_drives_every_method(shared_server: ServerProcess) -> None:
    printed = run_client([*go_client(), shared_server.address, "from-go"])
    assert printed.split() == ALL_METHODS


def test_a_java_client_drives_every_method(shared_server: ServerProcess) -> None:
    printed = run_client([*java_program("takhin.it.Drive"), shared_server.address, "from-java"])
    assert printed.split() == ALL_METHODS


def test_a_node_client_drives_every_method(shared_server: ServerProcess) -> None:
    printed = run_client([*node_client(), shared_server.address, "from-node", str(PROTO_ROOT)])
    assert printed.split() == ALL_METHODS


def test_a_client_program_fails_when_the_server_does(shared_server: ServerProcess) -> None:
    """The three tests above prove something only if the programs can fail."""
    done = subprocess.run(
        [*node_client(), shared_server.address, "no/such name", str(PROTO_ROOT)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert "INVALID_ARGUMENT" in done.stderr
