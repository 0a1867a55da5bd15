"""Small filesystems to fill and to break. Takes root, mount and losetup; without them tests are skipped."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: ext4's ioctl that ends all writing at once, as a power cut does; and: do not even flush the journal.
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


def need(*commands: str) -> None:
    """Skip the test where it cannot run, and say why."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def tmpfs(place: Path, size_mb: int) -> Iterator[Path]:
    need("mount", "umount")
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def resize(tmpfs_place: Path, size_mb: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_mb}m", str(tmpfs_place)], check=True)


class Ext4:
    """An ext4 on a loop device over a sparse image."""

    def __init__(self, image: Path, place: Path, size_mb: int, options: str = "defaults", journal: bool = True) -> None:
        need("mount", "umount", "losetup", "mkfs.ext4")
        self.image = image
        self.place = place
        self.device = ""
        self._options = options
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        _run("mkfs.ext4", "-q", "-F", *(() if journal else ("-O", "^has_journal")), image)
        place.mkdir()

    def mount(self) -> None:
        self.device = _run("losetup", "--find", "--show", self.image)
        try:
            # A loop device calls a write done of which only the first pages found room: let it write
            # single pages, all or nothing.
            Path(f"/sys/block/{Path(self.device).name}/queue/max_sectors_kb").write_text("4")
            _run("mount", "-t", "ext4", "-o", self._options, self.device, self.place)
        except OSError as error:
            self._let_go()
            pytest.skip(f"a loop device cannot be set up as needed here: {error}")
        except BaseException:
            self._let_go()
            raise

    def unmount(self) -> None:
        """Nobody may use it any more."""
        if self.device:
            subprocess.run(["umount", str(self.place)], check=False, capture_output=True)
            self._let_go()

    def _let_go(self) -> None:
        subprocess.run(["losetup", "--detach", self.device], check=False, capture_output=True)
        self.device = ""

    def cut_power(self) -> None:
        """From here on nothing reaches the disk."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as error:
            pytest.skip(f"this kernel cannot shut an ext4 down: {error}")
        finally:
            os.close(fd)

    def turn_read_only(self) -> None:
        """By an error, as a damaged disk does: also under the feet of who has files open for writing."""
        trigger = Path("/sys/fs/ext4") / Path(self.device).name / "trigger_fs_error"
        try:
            trigger.write_text("made up by a test\n")
        except OSError as error:
            pytest.skip(f"this kernel cannot make an error up: {error}")


@contextmanager
def ext4(image: Path, place: Path, size_mb: int, options: str = "defaults", journal: bool = True) -> Iterator[Ext4]:
    disk = Ext4(image, place, size_mb, options, journal)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()


def fill_up(place: Path) -> Path:
    """Leave not one byte free; gives the file to remove."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass
    assert shutil.disk_usage(place).free == 0
    return ballast
