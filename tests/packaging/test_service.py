"""The package under a real systemd: install, run, reload, watchdog, kill, stop under load, upgrade, remove, purge.

The tests of this file follow one another on one machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from .machine import REPOSITORY, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Without it nobody, root included, may raise a limit or lower an OOM score.
CAP_SYS_RESOURCE = 1 << 24

#: Produces until the server goes, in the machine's network but with this Python; prints what was acknowledged.
PRODUCE = textwrap.dedent(
    """
    import grpc, sys
    from takhin.v1 import takhin_pb2 as pb, takhin_pb2_grpc
    acknowledged = -1
    with grpc.insecure_channel("127.0.0.1:9092") as channel:
        stub = takhin_pb2_grpc.TakhinServiceStub(channel)
        requests = (pb.ProduceMessageRequest(topic="load", record=pb.Record(value=b"v" * 500)) for _ in iter(int, 1))
        try:
            for answer in stub.ProduceMessageStream(requests):
                if acknowledged < 0:
                    print("going", flush=True)
                acknowledged = answer.offset
        except grpc.RpcError as error:
            print(error.code().name, acknowledged, flush=True)
    """
)


def drop_in(machine: Machine, text: str) -> None:
    folder = machine.root / "etc/systemd/system/takhin.service.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text(text)
    machine.run("systemctl", "daemon-reload")


def end_offset(machine: Machine, topic: str) -> int:
    described = machine.run("takhin", "topic", "describe", topic, "--json")
    return int(re.search(r'"end_offset": (\d+)', described)[1])  # type: ignore[index]


def configure(machine: Machine, text: str) -> None:
    (machine.root / "etc/takhin.yaml").write_text(f"data_dir: /var/lib/takhin\n{text}")


def test_an_install_starts_the_server(machine: Machine, package: Path) -> None:
    machine.install(package)
    machine.wait_for("ActiveState", "active")
    assert "healthy, SERVING" in machine.run("takhin", "health")
    assert machine.show("StatusText").startswith("serving on port 9092: healthy")
    assert machine.run("systemctl", "is-enabled", "takhin").strip() == "enabled"
    assert machine.run("stat", "-c", "%U %a", "/var/lib/takhin").split() == ["takhin", "700"]
    assert machine.run("systemctl", "--failed", "--no-legend") == ""


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Machine) -> None:
    # The manual is not looked at: a minimal system keeps none.
    assert machine.run("systemd-analyze", "verify", "--man=no", "takhin.service") == ""
    level = re.search(r"level for takhin.service: ([0-9.]+)", machine.run("systemd-analyze", "security", "takhin"))
    assert level is not None
    assert float(level[1]) <= 1.5


def test_the_server_works_inside_its_sandbox(machine: Machine) -> None:
    pid = machine.show("MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert machine.show("MemoryDenyWriteExecute") == "yes"
    machine.run("takhin", "topic", "create", "t", "--config", "compression.type=zstd")
    machine.run("sh", "-c", "seq 1000 | takhin produce t")
    assert machine.run("takhin", "consume", "t", "--max-records", "1").splitlines()[0] == "1"


def limits(machine: Machine) -> tuple[str, str, str]:
    """Open files, OOM score, and a drop-in for them: the unit's own values, and nothing, where this machine may give
    them. Some machines may not raise what they were given; there, lower ones show that a process gets the unit's."""
    files, score = machine.show("LimitNOFILE"), machine.show("OOMScoreAdjust")
    assert (files, score) == ("65536", "-200")
    capabilities = re.search(r"^CapEff:\s+(\w+)$", machine.run("cat", "/proc/1/status"), re.MULTILINE)
    assert capabilities is not None
    if int(capabilities[1], 16) & CAP_SYS_RESOURCE:
        return files, score, ""
    return "5000", "200", "LimitNOFILE=5000\nOOMScoreAdjust=200\n"


def check_limits(machine: Machine, pid: str, files: str, score: str) -> None:
    found = machine.run("cat", f"/proc/{pid}/limits")
    assert re.search(rf"^Max open files\s+{files}\s+{files}\s", found, re.MULTILINE), found
    assert re.search(r"^Max core file size\s+0\s+0\s", found, re.MULTILINE), found
    assert machine.run("cat", f"/proc/{pid}/oom_score_adj").strip() == score


def test_limits_and_oom_settings_are_in_force(machine: Machine) -> None:
    files, score, lower = limits(machine)
    if lower:
        drop_in(machine, f"[Service]\n{lower}")
        machine.run("systemctl", "restart", "takhin")
    check_limits(machine, machine.show("MainPID"), files, score)
    assert machine.show("OOMPolicy") == "stop"
    assert machine.show("TasksMax") == "16384"
    if lower:
        (machine.root / "etc/systemd/system/takhin.service.d/test.conf").unlink()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "takhin")


def test_a_reload_changes_what_can_change_and_keeps_the_process(machine: Machine) -> None:
    pid = machine.show("MainPID")
    configure(machine, "logging: {level: debug}\ngrpc: {data_threads: 9}\n")
    machine.run("systemctl", "reload", "takhin")
    assert machine.show("MainPID") == pid
    journal = machine.journal()
    assert "changed: logging.level" in journal
    assert "needs a restart: grpc.data_threads" in journal
    machine.wait_for("SubState", "running")


def test_a_bad_file_makes_the_reload_fail_and_changes_nothing(machine: Machine) -> None:
    pid = machine.show("MainPID")
    configure(machine, "logging: {level: loud}\n")
    assert "failed" in machine.run("systemctl", "reload", "takhin", check=False)
    assert "logging.level: expected debug or info" in machine.journal()
    machine.run("systemctl", "kill", "-s", "HUP", "--kill-who=main", "takhin")
    time.sleep(0.5)
    assert "reload refused: nothing is changed" in machine.journal()
    assert machine.show("MainPID") == pid
    assert "healthy, SERVING" in machine.run("takhin", "health")
    configure(machine, "")


def test_a_killed_server_is_back_with_its_data(machine: Machine) -> None:
    before, end = machine.show("MainPID"), end_offset(machine, "t")
    machine.run("systemctl", "kill", "-s", "KILL", "takhin")
    machine.wait_for("NRestarts", "1")
    machine.wait_for("ActiveState", "active")
    assert machine.show("MainPID") != before
    assert end_offset(machine, "t") == end


def test_a_server_that_does_not_answer_is_killed_by_the_watchdog(machine: Machine) -> None:
    drop_in(machine, "[Service]\nWatchdogSec=2\n")
    machine.run("systemctl", "restart", "takhin")
    machine.wait_for("NRestarts", "0")
    time.sleep(3)
    assert machine.show("NRestarts") == "0", "while it answers, it lives"
    machine.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", "takhin")
    machine.wait_for("NRestarts", "1")
    machine.wait_for("ActiveState", "active")
    assert "watchdog" in machine.journal().lower()
    (machine.root / "etc/systemd/system/takhin.service.d/test.conf").unlink()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "takhin")


def test_a_configuration_that_cannot_be_used_is_not_tried_again(machine: Machine) -> None:
    configure(machine, "nonsense: 1\n")
    machine.run("systemctl", "restart", "takhin", check=False)
    machine.wait_for("ActiveState", "failed")
    assert machine.show("ExecMainStatus") == "78"
    assert machine.show("NRestarts") == "0"
    configure(machine, "")
    machine.run("systemctl", "start", "takhin")


def test_a_stop_under_load_is_quick_and_loses_nothing(machine: Machine) -> None:
    machine.run("takhin", "topic", "create", "load")
    producer = subprocess.Popen(
        machine.enter(sys.executable, "-c", PRODUCE, only="n"), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with producer:
        try:
            assert producer.stdout is not None
            assert producer.stdout.readline() == "going\n"
            time.sleep(1)
            begun = time.monotonic()
            machine.run("systemctl", "stop", "takhin")
            assert time.monotonic() - begun < 10
            code, acknowledged = producer.stdout.readline().split()
        finally:
            # It has said all. A client that ends while it still makes requests does not always come to its end.
            producer.kill()
    assert code == "UNAVAILABLE"
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    assert (machine.root / "var/lib/takhin/clean-shutdown").exists()
    machine.run("systemctl", "start", "takhin")
    assert end_offset(machine, "load") > int(acknowledged) > 0


def test_the_single_executable_serves_under_the_same_unit(machine: Machine, built: Path) -> None:
    shutil.copy(built / "takhin", machine.root / "usr/local/bin/takhin")
    program = "/usr/local/bin/takhin"
    files, score, lower = limits(machine)
    drop_in(
        machine,
        f"[Service]\n{lower}NotifyAccess=all\nWatchdogSec=4\n"
        f"ExecStart=\nExecStart={program} serve --config /etc/takhin.yaml\n"
        f"ExecReload=\nExecReload={program} reload --config /etc/takhin.yaml\n",
    )
    machine.run("systemctl", "restart", "takhin")
    assert machine.show("StatusText").startswith("serving on port 9092: healthy")
    loader, child = machine.run("pgrep", "-f", program).split()
    for pid in (loader, child):
        check_limits(machine, pid, files, score)
    machine.run("systemctl", "reload", "takhin")
    time.sleep(5)
    assert machine.show("NRestarts") == "0", "the child feeds the watchdog of the loader"
    begun = time.monotonic()
    machine.run("systemctl", "stop", "takhin")
    assert time.monotonic() - begun < 10
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    (machine.root / "etc/systemd/system/takhin.service.d/test.conf").unlink()
    (machine.root / "usr/local/bin/takhin").unlink()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "takhin")


def test_an_upgrade_keeps_data_and_configuration(machine: Machine, package: Path, tmp_path: Path) -> None:
    configure(machine, "logging: {level: warning}\n")
    end = end_offset(machine, "t")
    command = [sys.executable, str(REPOSITORY / "packaging/debian/package.py"), "--version", "99.0"]
    command += ["--compression", "none", "--out"]
    (tmp_path / "folder").symlink_to(package.parent / "folder")
    for name in ("LICENSES.txt", "takhin.cdx.json"):
        (tmp_path / name).symlink_to(package.parent / name)
    subprocess.run([*command, str(tmp_path)], check=True, capture_output=True)
    (newer,) = tmp_path.glob("*.deb")
    machine.install(newer)
    machine.wait_for("ActiveState", "active")
    assert machine.run("dpkg-query", "-W", "-f", "${Version}", "takhin") == "99.0"
    assert end_offset(machine, "t") == end
    assert "level: warning" in (machine.root / "etc/takhin.yaml").read_text()


def test_data_of_a_newer_version_is_refused(machine: Machine) -> None:
    machine.run("systemctl", "stop", "takhin")
    database = machine.root / "var/lib/takhin/metadata.db"
    original = database.read_bytes()
    database.write_bytes(original[:60] + (1000).to_bytes(4, "big") + original[64:])
    machine.run("systemctl", "start", "takhin", check=False)
    assert "written by a newer version" in machine.journal()
    machine.run("systemctl", "stop", "takhin")
    database.write_bytes(original)
    machine.run("systemctl", "reset-failed", "takhin")
    machine.run("systemctl", "start", "takhin")
    assert end_offset(machine, "t") == 1000


def test_a_removal_leaves_data_and_configuration(machine: Machine) -> None:
    machine.run("dpkg", "--remove", "takhin")
    assert machine.run("systemctl", "is-active", "takhin", check=False).strip() in ("inactive", "failed")
    assert not (machine.root / "usr/lib/takhin").exists()
    assert (machine.root / "etc/takhin.yaml").exists()
    assert (machine.root / "var/lib/takhin/t-0").exists()


def test_a_purge_takes_the_configuration_and_keeps_the_records(machine: Machine) -> None:
    said = machine.run("dpkg", "--purge", "takhin")
    assert "the data in /var/lib/takhin" in said
    assert not (machine.root / "etc/takhin.yaml").exists()
    assert (machine.root / "var/lib/takhin/t-0").exists()
    assert "takhin" in (machine.root / "etc/passwd").read_text()


def test_a_purge_without_records_leaves_nothing(machine: Machine, package: Path) -> None:
    machine.run("rm", "-rf", "/var/lib/takhin")
    machine.run("systemctl", "mask", "takhin")
    machine.install(package)
    machine.run("dpkg", "--purge", "takhin")
    assert not (machine.root / "var/lib/takhin").exists()
    assert "takhin" not in (machine.root / "etc/passwd").read_text()
