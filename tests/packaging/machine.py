"""A Debian machine for the tests: a tree without Python, and a real systemd as PID 1 in it, in namespaces."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DIST = REPOSITORY / "dist"
BINARY = DIST / "takhin"
TREE = REPOSITORY / "build" / "packaging" / "debian"
PACKAGES = "systemd,systemd-sysv,adduser,init-system-helpers,procps"
BOOT_SECONDS = 60.0


def debian_tree() -> Path:
    """A minimal Debian 12, made once. Nothing may be changed in it: take a ``copy_of_tree``."""
    TREE.parent.mkdir(parents=True, exist_ok=True)
    with (TREE.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not TREE.exists():
            aside = TREE.with_name("debian.new")
            shutil.rmtree(aside, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(aside)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:]
            aside.rename(TREE)
    return TREE


@contextlib.contextmanager
def copy_of_tree(directory: Path) -> Iterator[Path]:
    root = directory / "root"
    subprocess.run(["cp", "-a", str(debian_tree()), str(root)], check=True)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Machine:
    """A booted copy of the tree. Its network has nothing but a loopback of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        script = Path(__file__).with_name("boot.sh")
        namespaces = ["unshare", "-m", "-p", "-u", "-i", "-n", "-C", "--fork", "--kill-child"]
        with (root.parent / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*namespaces, "sh", str(script), str(root)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.init = 0
        end = time.monotonic() + BOOT_SECONDS
        while True:
            assert self._process.poll() is None, (root.parent / "boot.log").read_text()
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children:
                self.init = int(children[0])
                state = self.run("systemctl", "is-system-running", check=False).strip()
                if state in ("running", "degraded"):
                    return
            assert time.monotonic() < end, "systemd did not come up"
            time.sleep(0.1)

    def enter(self, *command: str, only: str = "mpniuC") -> list[str]:
        """A command line that runs a command inside; ``only`` says in which namespaces."""
        return ["nsenter", "-t", str(self.init), *(f"-{letter}" for letter in only), *command]

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> str:
        """Its output, both streams. ``check``: it must succeed."""
        done = subprocess.run(
            self.enter(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
        )
        assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-u", "takhin", "-n", "40", check=False)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "-p", name, "--value", "takhin").strip()

    def wait_for(self, name: str, value: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while (found := self.show(name)) != value:
            assert time.monotonic() < end, f"{name} is {found!r}, not {value!r}:\n{self.journal()}"
            time.sleep(0.1)

    def install(self, package: Path) -> str:
        shutil.copy(package, self.root / "tmp-package.deb")
        # The tree is the root inside, but /tmp is not the same there.
        return self.run("dpkg", "-i", "/tmp-package.deb", timeout=120)

    def close(self) -> None:
        if self.init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        self._process.wait(20)
