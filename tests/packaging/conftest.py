"""What the tests of this folder share. All but those of the wheel want ``make test-packaging``, which builds first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing, require_tool

from .machine import BINARY, DIST, Machine, copy_of_tree


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder with what ``make deb`` has built."""
    if os.environ.get("TAKHIN_PACKAGING") != "1":
        pytest.skip("run by make test-packaging, which builds the executable first")
    assert BINARY.exists(), "make deb has to come first"
    return DIST


@pytest.fixture(scope="session")
def root_user() -> None:
    if os.geteuid() != 0:
        missing("only root can make namespaces and mounts here")


@pytest.fixture(scope="session")
def package(built: Path) -> Path:
    (found,) = built.glob("takhin_[0-9]*[0-9]_*.deb")
    return found


@pytest.fixture(scope="module")
def tree(built: Path, root_user: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian tree without Python, of this file's own."""
    require_tool("debootstrap")
    with copy_of_tree(tmp_path_factory.mktemp("tree")) as root:
        yield root


@pytest.fixture(scope="module")
def machine(tree: Path) -> Iterator[Machine]:
    """The same, booted."""
    made = Machine(tree)
    yield made
    made.close()
