"""Builds ``dist/takhin_VERSION_ARCH.deb`` from the one-folder form in ``dist/folder``, which must be there.

    python3 packaging/debian/package.py [--version 0.1.0] [--out dist]

Needs dpkg-deb and objdump. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WORK = REPOSITORY / "build" / "binary"
sys.path.insert(0, str(HERE.parent / "binary"))

from build import environment, run, source_date_epoch  # noqa: E402

#: Nobody can be reached there: who publishes packages says who they are, in Debian's own variables.
MAINTAINER = "{} <{}>".format(
    os.environ.get("DEBFULLNAME", "Takhin maintainers"), os.environ.get("DEBEMAIL", "maintainers@takhin.invalid")
)


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def elf_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and is_elf(path))


def glibc_floor(folder: Path) -> str:
    """The newest version of glibc's symbols that anything in the folder needs."""
    newest = (0, 0)
    for path in elf_files(folder):
        listed = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
        for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", listed):
            newest = max(newest, (int(major), int(minor)))
    return f"{newest[0]}.{newest[1]}"


def project_version() -> str:
    return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"])


def changelog(version: str) -> str:
    """Debian's form of CHANGELOG.md's newest section."""
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    lines = [f"takhin ({version}) unstable; urgency=medium", ""]
    for entry in re.findall(r"^- (.*(?:\n  .*)*)", newest, re.MULTILINE):
        words = " ".join(entry.split())
        lines += textwrap.wrap(words, 78, initial_indent="  * ", subsequent_indent="    ", break_long_words=False)
    when = email.utils.formatdate(int(source_date_epoch()))
    return "\n".join([*lines, "", f" -- {MAINTAINER}  {when}", ""])


def write(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)


def packed(text: str | bytes) -> bytes:
    return gzip.compress(text if isinstance(text, bytes) else text.encode(), 9, mtime=0)


def lay_out(root: Path, out: Path, version: str) -> None:
    """The files of the package below ``root``."""
    share, library = root / "usr/share", root / "usr/lib/takhin"
    shutil.copytree(out / "folder", library, symlinks=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/takhin").symlink_to("../lib/takhin/takhin")
    write(root / "etc/takhin.yaml", (HERE.parent / "takhin.yaml").read_bytes())
    write(root / "usr/lib/systemd/system/takhin.service", (REPOSITORY / "systemd/takhin.service").read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        run(WORK / "venv/bin/python", HERE.parent / "man.py", folder, cwd=WORK, env=environment())
        for name in ("takhin.1", "takhin.yaml.5"):
            write(share / f"man/man{name[-1]}/{name}.gz", packed((Path(folder) / name).read_bytes()))
    for shell, place in (
        ("bash", "bash-completion/completions/takhin"),
        ("zsh", "zsh/vendor-completions/_takhin"),
        ("fish", "fish/vendor_completions.d/takhin.fish"),
    ):
        write(share / place, run(library / "takhin", "completion", shell))
    documents = share / "doc/takhin"
    write(documents / "copyright", (HERE / "copyright").read_bytes())
    write(documents / "changelog.gz", packed(changelog(version)))
    write(documents / "LICENSES.txt.gz", packed((out / "LICENSES.txt").read_bytes()))
    write(documents / "takhin.cdx.json.gz", packed((out / "takhin.cdx.json").read_bytes()))
    write(documents / "examples/restart-backoff.conf", (REPOSITORY / "systemd/restart-backoff.conf").read_bytes())
    write(share / "lintian/overrides/takhin", (HERE / "lintian-overrides").read_bytes())
    for path in library.rglob("*"):
        executable = path.name == "takhin" and path.parent == library
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or executable else 0o644)
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def add_control(root: Path, version: str, architecture: str) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    fields = {
        "version": version,
        "architecture": architecture,
        "maintainer": MAINTAINER,
        "glibc": glibc_floor(root / "usr/lib/takhin"),
        "installed_kib": sum((path.stat().st_size + 1023) // 1024 for path in files),
    }
    control = root / "DEBIAN"
    write(control / "control", (HERE / "control.in").read_text().format(**fields))
    write(control / "conffiles", "/etc/takhin.yaml\n")
    sums = "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if not path.is_relative_to(root / "etc")
    )
    write(control / "md5sums", sums)
    for name in ("postinst", "prerm", "postrm"):
        write(control / name, (HERE / name).read_bytes(), 0o755)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--version", default=project_version(), help="another version, to try upgrades")
    parser.add_argument("--compression", default="xz", help="as for dpkg-deb -Z; none is quick")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if not (out / "folder" / "takhin").exists():
        sys.exit(f"{out / 'folder'} is not there: build it with `make binary`")
    architecture = run("dpkg", "--print-architecture").strip()
    target = out / f"takhin_{arguments.version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(dir=out) as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o755)
        lay_out(root, out, arguments.version)
        add_control(root, arguments.version, architecture)
        for path in [root, *root.rglob("*")]:
            os.utime(path, (int(source_date_epoch()),) * 2, follow_symlinks=False)
        run(
            "dpkg-deb",
            "--root-owner-group",
            f"-Z{arguments.compression}",
            "--build",
            root,
            Path(folder) / "deb",
            env=environment(),
        )
        (Path(folder) / "deb").replace(target)
    print(f"deb: {target}: {target.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
