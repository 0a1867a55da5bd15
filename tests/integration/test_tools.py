"""The field's own tools work against the server: grpcurl, ghz, h2load."""

from __future__ import annotations

import base64
import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.conftest import require_tool
from tests.integration.records import create_topic, end_offset
from tests.integration.server_process import ServerProcess

SERVICE = "takhin.v1.TakhinService"


def grpcurl(server: ServerProcess, *arguments: str, ok: bool = True) -> str:
    command = [require_tool("grpcurl"), "-plaintext", *arguments[:-1], server.address, arguments[-1]]
    if arguments[-1] == "list":
        command = [require_tool("grpcurl"), "-plaintext", server.address, *arguments]
    return run(command, ok)


def run(command: list[str], ok: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode == 0) is ok, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout if ok else done.stderr


def call(server: ServerProcess, method: str, request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(grpcurl(server, "-d", json.dumps(request), f"{SERVICE}/{method}"))
    return answer


def test_grpcurl_lists_services_and_methods(shared_server: ServerProcess) -> None:
    services = grpcurl(shared_server, "list").split()
    assert SERVICE in services
    assert "grpc.health.v1.Health" in services
    methods = run([require_tool("grpcurl"), "-plaintext", shared_server.address, "list", SERVICE]).split()
    expected = pb.DESCRIPTOR.services_by_name["TakhinService"].methods_by_name
    assert sorted(methods) == sorted(f"{SERVICE}.{name}" for name in expected)


def test_grpcurl_describes_a_message(shared_server: ServerProcess) -> None:
    text = run([require_tool("grpcurl"), "-plaintext", shared_server.address, "describe", "takhin.v1.Record"])
    assert "optional bytes value = 2;" in text


def test_grpcurl_produces_and_consumes(shared_server: ServerProcess) -> None:
    created = call(shared_server, "CreateTopic", {"name": "from-grpcurl", "num_partitions": 1})
    assert created == {"success": True}
    value = base64.b64encode(b"hello").decode()
    call(shared_server, "ProduceMessage", {"topic": "from-grpcurl", "record": {"value": value}})
    response = call(shared_server, "ConsumeMessages", {"topic": "from-grpcurl", "offset": -1, "until_end": True})
    assert response["records"][0]["value"] == value
    assert response["high_watermark"] == "1"


def test_grpcurl_shows_status_and_details_of_a_failure(shared_server: ServerProcess) -> None:
    shown = grpcurl(shared_server, "-d", '{"name": "nothing-here"}', f"{SERVICE}/GetTopic", ok=False)
    assert "NotFound" in shown
    assert "TOPIC_NOT_FOUND" in shown


@pytest.mark.parametrize("service", ["", SERVICE])
def test_grpcurl_checks_health(service: str, shared_server: ServerProcess) -> None:
    shown = grpcurl(shared_server, "-d", json.dumps({"service": service}), "grpc.health.v1.Health/Check")
    assert json.loads(shown) == {"status": "SERVING"}


def test_ghz_has_every_call_answered(shared_server: ServerProcess) -> None:
    with shared_server.client() as client:
        create_topic(client, "from-ghz")
        data = json.dumps({"topic": "from-ghz", "record": {"value": base64.b64encode(b"x" * 100).decode()}})
        shown = run(
            [require_tool("ghz"), "--insecure", "--call", f"{SERVICE}.ProduceMessage", "-d", data]
            + ["-n", "2000", "-c", "40", "--connections", "4", "--format", "json", shared_server.address]
        )
        assert json.loads(shown)["statusCodeDistribution"] == {"OK": 2000}
        assert end_offset(client, "from-ghz") == 2000


def test_h2load_has_every_call_answered(shared_server: ServerProcess, tmp_path: Path) -> None:
    message = pb.ProduceMessageRequest(topic="from-h2load", record=pb.Record(value=b"x" * 1000)).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    with shared_server.client() as client:
        create_topic(client, "from-h2load")
        shown = run(
            [require_tool("h2load"), "-n", "2000", "-c", "4", "-m", "16", "-d", str(body)]
            + ["-H", "content-type: application/grpc", "-H", "te: trailers"]
            + [f"http://{shared_server.address}/{SERVICE}/ProduceMessage"]
        )
        assert re.search(r"2000 succeeded, 0 failed, 0 errored", shown), shown
        # h2load sees HTTP's status only; that the calls succeeded shows in the log.
        assert end_offset(client, "from-h2load") == 2000


def test_a_client_that_speaks_no_grpc_is_refused_and_others_go_on(shared_server: ServerProcess) -> None:
    host, port = shared_server.address.split(":")
    done = subprocess.run(
        [require_tool("curl"), "-s", "-m", "5", f"http://{host}:{port}/"], capture_output=True, timeout=20, check=False
    )
    assert done.returncode != 0
    with shared_server.channel() as channel:
        answer = takhin_pb2_grpc.TakhinServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=5)
    assert answer.status == "healthy"
