"""What `pip` makes of a clean clone: a wheel, a source distribution and an editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IN_CI = os.environ.get("CI") == "true"
in_ci_only = pytest.mark.skipif(not IN_CI, reason="in CI only: it fetches everything anew, half a minute each")
#: Fails when a compiled module, the generated code or the command is not there.
SMOKE = """
import takhin, takhin._fastlog, takhin._segment, takhin._wire, takhin.cli.main
from takhin.v1 import takhin_pb2, takhin_pb2_grpc
records = takhin._wire.decode_produce_batch(takhin_pb2.ProduceBatchRequest(topic="t").SerializeToString()).records
assert len(records) == 0 and takhin_pb2_grpc.TakhinServiceStub
print(takhin.__version__, takhin.__file__)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, directory: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fresh_python(directory: Path, python: str = sys.executable) -> Path:
    """The interpreter of a new virtual environment."""
    run(python, "-m", "venv", directory / "venv", directory=directory)
    return directory / "venv" / "bin" / "python"


def clean_clone(directory: Path) -> Path:
    """The tree as a clone of what would be committed now: nothing built in it."""
    tree = directory / "tree"
    names = run("git", "ls-files", "-co", "--exclude-standard", directory=REPOSITORY).splitlines()
    for name in names:
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(directory)!r})"
    run(sys.executable, "-c", build, directory=clean_clone(directory))
    (built,) = directory.glob("*.tar.gz")
    return built


def test_the_source_distribution_holds_the_sources_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"takhin/_fastlog.pyx", "takhin/_bytes.pxd", "proto/takhin/v1/takhin.proto", "LICENSE"} <= names
    assert [name for name in names if name.endswith((".c", ".so")) or name.startswith("takhin/v1")] == []


def test_the_wheel_holds_what_users_need_and_no_sources_of_c(sdist: Path, tmp_path: Path) -> None:
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    run(sys.executable, *build, sdist, directory=tmp_path)
    (wheel,) = tmp_path.glob("takhin-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "_fastlog.pyi", "_segment.pyi", "_wire.pyi", "v1/__init__.py", "v1/takhin_pb2.py"):
        assert f"takhin/{needed}" in names
    assert {"takhin/v1/takhin_pb2.pyi", "takhin/v1/takhin_pb2_grpc.py"} <= set(names)
    assert sum(name.endswith(".so") for name in names) == len(list((REPOSITORY / "takhin").glob("_*.pyx")))
    assert [name for name in names if name.endswith((".pyx", ".pxd", ".c", ".h"))] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"takhin"}, "nothing but the package"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", installed, wheel, directory=tmp_path)
    smoke = f"import sys; sys.path.insert(0, {str(installed)!r})\n{SMOKE}"
    assert str(installed) in run(sys.executable, "-c", smoke, directory=tmp_path)


def interpreter(version: str) -> str | None:
    """A Python of this version, if there is one."""
    found = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), shutil.which(f"python{version}")]
    for python in filter(None, found):
        asked = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith(f"Python {version}."):
            return str(python)
    return None


@in_ci_only
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_an_install_from_a_clean_clone_works(version: str, tmp_path: Path) -> None:
    here = version == f"{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable if here else interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    fresh = fresh_python(tmp_path, python)
    run(fresh, "-m", "pip", "install", "-q", ".", directory=clean_clone(tmp_path))
    assert f"{tmp_path}/venv/lib" in run(fresh, "-c", SMOKE, directory=tmp_path)
    assert run(fresh.parent / "takhin", "--version", directory=tmp_path).strip()
    run(fresh, "-m", "pip", "check", directory=tmp_path)


@in_ci_only
def test_an_editable_install_serves_the_tree(tmp_path: Path) -> None:
    tree = clean_clone(tmp_path)
    fresh = fresh_python(tmp_path)
    run(fresh, "-m", "pip", "install", "-q", "-e", ".", directory=tree)
    assert str(tree) in run(fresh, "-c", SMOKE, directory=tmp_path)
    (tree / "takhin" / "clock.py").write_text("ADDED = 'seen at once'\n")
    assert "seen at once" in run(fresh, "-c", "import takhin.clock as c; print(c.ADDED)", directory=tmp_path)


def test_an_unknown_kind_of_build_is_refused_by_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=clean_clone(tmp_path),
        env={**os.environ, "TAKHIN_BUILD": "quick"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TAKHIN_BUILD=quick: must be release, debug, coverage or sanitize" in done.stderr


def test_a_big_endian_machine_is_refused(tmp_path: Path) -> None:
    pretend = "import sys, runpy; sys.byteorder = 'big'; sys.argv = ['setup.py', '--version']; "
    done = subprocess.run(
        [sys.executable, "-c", pretend + "runpy.run_path('setup.py', run_name='__main__')"],
        cwd=clean_clone(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "big-endian" in done.stderr
