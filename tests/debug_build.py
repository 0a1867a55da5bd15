"""The debug build of this tree, made once for each state of the sources.

It has what the release build lacks: the fault plan of ``takhin._os`` (``TAKHIN_FAULTS``) and the
switches of the planted bugs. It lies in ``build/debug/``, beside the build that everything else uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILDS = REPOSITORY / "build" / "debug"
#: What `setup.py build_ext` reads besides the sources.
PROJECT_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
NATIVE_SUFFIXES = {".pyx", ".pxd", ".h"}
#: Builds that are kept, so that going back and forth between two states costs nothing.
KEPT = 4


def debug_tree() -> Path:
    """A directory with the package ``takhin`` of the debug build: the ``cwd`` and the first entry of
    ``PYTHONPATH`` for processes that are to use it (see ``debug_environment``).

    Made at the first call for a state of the sources, which takes up to a minute; processes that ask at
    the same time wait for the one that builds.
    """
    BUILDS.mkdir(parents=True, exist_ok=True)
    with (BUILDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        native = _native()
        sources = list(_python_sources())
        tree = BUILDS / f"tree-{_digest([native / 'takhin', *sources])}"
        if not (tree / "takhin").is_dir():
            aside = BUILDS / f"making-{os.getpid()}"
            shutil.rmtree(aside, ignore_errors=True)
            for path in sources:
                target = aside / path.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            for path in (native / "takhin").glob("*.so"):
                os.link(path, aside / "takhin" / path.name)
            shutil.copytree(native / "takhin" / "v1", aside / "takhin" / "v1")
            aside.rename(tree)
        for made in (native, tree):
            os.utime(made)
        _forget_old("tree-*")
        _forget_old("native-*")
        return tree


def debug_environment(tree: Path, **more: str) -> Mapping[str, str]:
    """The environment of a process that imports ``takhin`` from a tree and ``tests`` from here."""
    return {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{REPOSITORY}", "PYTHONUNBUFFERED": "1", **more}


def run_debug(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Python with the debug build, to its end: ``-c`` or ``-m`` and what follows."""
    tree = debug_tree()
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=debug_environment(tree),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _native() -> Path:
    """A directory with the compiled modules and the protobuf code."""
    sources = [path for path in sorted((REPOSITORY / "takhin").iterdir()) if path.suffix in NATIVE_SUFFIXES]
    protos = sorted((REPOSITORY / "proto").rglob("*.proto"))
    native = BUILDS / f"native-{_digest([REPOSITORY / 'setup.py', *sources, *protos], sys.version)}"
    if native.is_dir():
        return native
    aside = BUILDS / f"making-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    for path in [*sources, *protos, *(REPOSITORY / name for name in PROJECT_FILES)]:
        target = aside / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.copy2(path, target)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"],
        cwd=aside,
        env={**os.environ, "TAKHIN_BUILD": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"the debug build failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    shutil.rmtree(aside / "build", ignore_errors=True)
    aside.rename(native)
    return native


def _python_sources() -> Iterator[Path]:
    for path in sorted((REPOSITORY / "takhin").rglob("*.py")):
        if "v1" not in path.relative_to(REPOSITORY / "takhin").parts:
            yield path


def _digest(paths: list[Path], more: str = "") -> str:
    found = hashlib.sha256(more.encode())
    for path in paths:
        found.update(str(path).encode() + b"\0")
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _forget_old(pattern: str) -> None:
    made = sorted(BUILDS.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in made[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    print(debug_tree())
