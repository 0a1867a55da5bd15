"""Builds the executable: ``dist/takhin`` (one file) and ``dist/folder`` (what the Debian package installs).

Everything is made in ``build/binary`` from a copy of the tree, with the versions in ``requirements.txt``, so that
nothing that lies about in the tree or in ``.venv`` gets in. Two builds of one tree give the same bytes, where the same
Python and the same compiler are used.

    python3 packaging/binary/build.py [--out dist] [--work build/binary]

``TAKHIN_PYTHON`` names the interpreter that goes in; it must have a shared library (Debian: python3-dev).
Needs gcc, binutils and Debian's python3-venv.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"
#: What the package is built from.
SOURCES = (
    "takhin",
    "proto",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "NOTICE",
)
#: For what is compiled here: checks of buffers where the compiler can put them, and nothing left to write in the
#: tables of addresses once the program is loaded.
FORTIFY = "-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2"
BIND_NOW = "-Wl,-z,relro,-z,now"
#: For trees without a history.
SOME_TIME = "1735689600"


def run(*command: str | Path, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None) -> str:
    """The command's output. Ends the build with what it said when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(env) if env is not None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-8000:]}")
    return done.stdout


def step(text: str) -> None:
    print(f"binary: {text}", flush=True)


def source_date_epoch() -> str:
    """Seconds: what the environment says, else the time of the last commit."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or SOME_TIME


def environment(**more: str) -> dict[str, str]:
    """What builds may see: nothing of Python's that the caller has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYI", "TAKHIN_"))}
    fixed = {"SOURCE_DATE_EPOCH": source_date_epoch(), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return {**kept, **fixed, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}


def interpreter() -> str:
    """The Python that goes in. Debian's, where it fits: its libraries are the ones that the target has."""
    shared = "not sysconfig.get_config_var('Py_ENABLE_SHARED')"
    test = f"import sys, sysconfig; sys.exit(sys.version_info < (3, 11) or {shared})"
    for candidate in (os.environ.get("TAKHIN_PYTHON"), "/usr/bin/python3", sys.executable):
        if candidate and subprocess.run([candidate, "-c", test], check=False).returncode == 0:
            return candidate
    return sys.exit("binary: no Python of 3.11 or newer with a shared library here (Debian: apt install python3-dev)")


def source_files() -> list[str]:
    """Tracked and new files; without git, all that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *SOURCES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not listed:
        listed = [
            path.relative_to(REPOSITORY).as_posix()
            for source in SOURCES
            for path in ([REPOSITORY / source] if (REPOSITORY / source).is_file() else (REPOSITORY / source).rglob("*"))
            if path.is_file() and path.suffix not in (".so", ".c", ".pyc")
        ]
    return sorted(name for name in set(listed) if (REPOSITORY / name).is_file())


def copy_tree(target: Path) -> str:
    """Copies the sources; gives a hash of them."""
    digest = hashlib.sha256()
    shutil.rmtree(target, ignore_errors=True)
    for name in source_files():
        data = (REPOSITORY / name).read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return digest.hexdigest()


def make_environment(work: Path, python: str) -> Path:
    """The virtual environment with the pinned versions; gives its ``bin``. Made anew when they change."""
    venv, stamp = work / "venv", work / "venv" / ".made"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + run(python, "-VV").encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        step("environment")
        shutil.rmtree(venv, ignore_errors=True)
        run(python, "-m", "venv", venv)
        pip = (venv / "bin" / "python", "-m", "pip")
        run(*pip, "install", "-q", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS, env=environment())
        stamp.write_text(wanted)
    return venv / "bin"


def make_bootloader(work: Path, bin_dir: Path) -> None:
    """PyInstaller's bootloader, built here with ``tmpdir.c`` linked into it and zlib inside."""
    source = HERE / "tmpdir.c"
    pinned = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("pyinstaller=="))
    place = run(bin_dir / "python", "-c", "import PyInstaller as p; print(p.__path__[0], p.PLATFORM)").split()
    target = Path(place[0]) / "bootloader" / place[1] / "run"
    stamp = work / "venv" / ".bootloader"
    wanted = hashlib.sha256(source.read_bytes() + f"{pinned} {FORTIFY} {BIND_NOW}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    step("bootloader")
    folder = work / "bootloader"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    download = ("-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:")
    run(bin_dir / "python", *download, "-d", folder, pinned, env=environment())
    (packed,) = folder.glob("*.tar.gz")
    run("tar", "-xf", packed, "-C", folder)
    (sources,) = folder.glob("*/bootloader")
    flags = f"-O2 -Wall -Wextra -Werror -ffile-prefix-map={HERE}=. {FORTIFY}"
    run("gcc", *flags.split(), "-c", source, "-o", folder / "tmpdir.o")
    build_env = environment(
        LINKFLAGS=f"{folder / 'tmpdir.o'} -Wl,--build-id=none {BIND_NOW}",
        CFLAGS=f"-ffile-prefix-map={sources}=. {FORTIFY}",
    )
    run(bin_dir / "python", "./waf", "--static-zlib", "configure", "all", cwd=sources, env=build_env)
    shutil.copy(sources / "build" / "release" / "run", target)
    stamp.write_text(wanted)


def install_takhin(work: Path, bin_dir: Path) -> None:
    """The package, compiled for release, into the virtual environment."""
    tree, stamp = work / "tree", work / "venv" / ".takhin"
    wanted = f"{copy_tree(tree)} {FORTIFY} {BIND_NOW}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    step("takhin")
    stamp.unlink(missing_ok=True)
    flags = f"-ffile-prefix-map={tree}=. -Wdate-time -Werror=date-time {FORTIFY}"
    build_env = environment(CFLAGS=flags, LDFLAGS=BIND_NOW, TAKHIN_BUILD="release")
    pip = (bin_dir / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--force-reinstall")
    run(*pip, "--no-cache-dir", tree, cwd=work, env=build_env)
    stamp.write_text(wanted)


def freeze(work: Path, bin_dir: Path) -> None:
    step("freeze")
    frozen = work / "frozen"
    shutil.rmtree(frozen, ignore_errors=True)
    command = ("-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "--clean")
    places = ("--distpath", frozen, "--workpath", work / "pyinstaller")
    config = environment(PYINSTALLER_CONFIG_DIR=str(work / "cache"))
    run(bin_dir / "python", *command, *places, HERE / "takhin.spec", cwd=work, env=config)


def publish(work: Path, bin_dir: Path, out: Path) -> None:
    """Puts the two forms, the licences and the bill of materials into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    frozen = work / "frozen"
    shutil.rmtree(out / "folder", ignore_errors=True)
    shutil.copytree(frozen / "folder", out / "folder", symlinks=True)
    (out / "folder" / "takhin-launcher").rename(out / "folder" / "takhin")
    aside = out / ".takhin.new"
    shutil.copy2(frozen / "takhin", aside)
    aside.rename(out / "takhin")  # one that runs is left alone
    run(bin_dir / "python", HERE / "sbom.py", "--frozen", frozen / "folder", "--out", out, env=environment())
    step(f"{out / 'takhin'}: {(out / 'takhin').stat().st_size / 1e6:.1f} MB, sha256 {digest(out / 'takhin')}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the executable.")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "binary")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bin_dir = make_environment(work, interpreter())
    make_bootloader(work, bin_dir)
    install_takhin(work, bin_dir)
    freeze(work, bin_dir)
    publish(work, bin_dir, arguments.out.resolve())


if __name__ == "__main__":
    main()
