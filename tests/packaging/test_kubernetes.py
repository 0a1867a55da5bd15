"""The Kubernetes example: held against the program that it runs, and against Kubernetes' own schemas."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from takhin import __version__, address
from takhin.config_file import load
from tests.conftest import require_tool

from .machine import REPOSITORY

EXAMPLE = REPOSITORY / "packaging" / "kubernetes.yaml"
#: Of Kubernetes: an old one that is still about, and a newer one.
RELEASES = ("1.29", "1.34")


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """By kind."""
    return {part["kind"]: part for part in yaml.safe_load_all(EXAMPLE.read_text())}


@pytest.fixture(scope="module")
def pod(parts: dict[str, Any]) -> dict[str, Any]:
    return dict(parts["StatefulSet"]["spec"]["template"]["spec"])


@pytest.fixture
def ports(parts: dict[str, Any], tmp_path: Path) -> dict[str, int]:
    """What the configuration in it makes the server listen on."""
    (tmp_path / "takhin.yaml").write_text(parts["ConfigMap"]["data"]["takhin.yaml"])
    config = load(str(tmp_path / "takhin.yaml"), []).config
    assert config.data_dir == "/var/lib/takhin"
    found = {"grpc": address.parse(config.grpc.addr), "http": address.parse(config.http.addr)}
    assert all(where.is_wildcard for where in found.values()), "others than the pod itself must reach it"
    return {name: where.port for name, where in found.items()}


def test_every_port_is_one_that_the_server_listens_on(
    parts: dict[str, Any], pod: dict[str, Any], ports: dict[str, int]
) -> None:
    (container,) = pod["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    assert {port["name"]: port["port"] for port in parts["Service"]["spec"]["ports"]} == ports
    (rule,) = parts["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == set(ports.values())
    annotations = parts["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["http"])
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": ports["grpc"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_the_files_are_where_the_server_looks_for_them(parts: dict[str, Any], pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    arguments = container["args"]
    config = Path(arguments[arguments.index("--config") + 1])
    assert config.name in parts["ConfigMap"]["data"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts[str(config.parent)]]["configMap"]["name"] == parts["ConfigMap"]["metadata"]["name"]
    (claim,) = parts["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert mounts["/var/lib/takhin"] == claim["metadata"]["name"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is False or "/tmp" in mounts


def test_it_is_the_image_and_the_user_of_the_container_file(parts: dict[str, Any], pod: dict[str, Any]) -> None:
    (user,) = re.findall(r"^USER (\d+):\1$", (REPOSITORY / "packaging" / "Containerfile").read_text(), re.MULTILINE)
    context = pod["securityContext"]
    assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert context["runAsNonRoot"] is True
    assert pod["containers"][0]["image"] == f"takhin:{__version__}"
    assert parts["StatefulSet"]["spec"]["replicas"] == 1, "it is no cluster"


def test_the_labels_fit_together(parts: dict[str, Any]) -> None:
    labels = parts["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert parts["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert parts["StatefulSet"]["spec"]["serviceName"] == parts["Service"]["metadata"]["name"]


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_knows_every_field(release: str) -> None:
    done = subprocess.run(
        [require_tool("kubernetes-validate"), "--strict", "--kubernetes-version", release, str(EXAMPLE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"passed for resource (\w+)/takhin against version", done.stdout + done.stderr)
    assert sorted(found) == ["configmap", "networkpolicy", "service", "statefulset"]
