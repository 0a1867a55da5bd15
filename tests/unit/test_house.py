"""The house rules that import-linter cannot see: compiled modules, and the size of files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "takhin"
MAX_LINES = 500
FOLDERS = ("takhin", "tests", "bench", "packaging")

#: A family of Cython files, by the beginning of their names, and the families that it may build on.
#: `_fastlog` knows no protobuf, `_wire` no files.
FAMILIES: dict[str, set[str]] = {
    "_bytes": set(),
    "_os": set(),
    "_fastlog": {"_bytes"},
    "_segment": {"_bytes", "_fastlog", "_os"},
    "_wire": {"_bytes", "_fastlog", "_wire"},
}
#: The Python modules of this project that a family may use.
LEAVES = {"errors"}
CYTHON = sorted([*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxd")])
#: `from .x import`, `from . import x`, `from takhin.x import`, `cimport takhin.x`, `include "x.pxi"`.
IMPORTS = re.compile(
    r"^\s*(?:from\s+\.(?P<relative>\w+)\s+c?import\b"
    r"|from\s+\.\s+c?import\s+(?P<siblings>[\w, ]+)"
    r"|from\s+takhin\.(?P<absolute>[\w.]+)\s+c?import\b"
    r"|c?import\s+takhin\.(?P<plain>[\w.]+)"
    r"|include\s+[\"'](?P<include>\w+))",
    re.MULTILINE,
)
#: Who may use which compiled module, as (package or module, ...). The rest of the project goes through these.
USERS: dict[str, tuple[str, ...]] = {
    "_wire": ("server",),
    "_os": ("storage",),
    "_segment": ("storage", "cli"),
    "_fastlog": ("storage", "engine", "server", "groups", "cli"),
}


def family(name: str) -> str:
    """The family of a Cython module; the longest that fits."""
    return max((each for each in FAMILIES if name == each or name.startswith(f"{each}_")), key=len, default="")


def imported(source: str) -> set[str]:
    """The modules of this project that Cython source imports or cimports."""
    found: set[str] = set()
    for match in IMPORTS.finditer(source):
        names = next(group for group in match.groups() if group is not None)
        found.update(name.strip().split(".")[0] for name in names.split(","))
    return found


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_a_cython_file_builds_only_on_what_is_below_it(path: Path) -> None:
    own = family(path.stem)
    assert own, f"{path.name} belongs to no family: say in FAMILIES what it may build on"
    for name in imported(path.read_text()):
        assert name in LEAVES or family(name) in FAMILIES[own] | {own}, f"{path.name} must not build on {name}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ._wire cimport thing", {"_wire"}),
        ("from . import errors, _wire", {"errors", "_wire"}),
        ("cimport takhin._wire", {"_wire"}),
        ("    from takhin.storage.log import Log", {"storage"}),
        ('include "_bytes.pxi"', {"_bytes"}),
        ("from libc.stdint cimport int32_t", set()),
    ],
)
def test_the_rule_sees_every_way_to_import(source: str, expected: set[str]) -> None:
    assert imported(f"# above\n{source}\n") == expected


def test_compiled_modules_are_used_by_their_own_layer_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if place == "v1":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            for module in USERS.keys() & set(names):
                assert place in USERS[module], f"{path.relative_to(REPOSITORY)} must not use {module}"


def test_no_file_is_longer_than_500_lines() -> None:
    kinds = {".py", ".pyi", ".pyx", ".pxd", ".h", ".go", ".java", ".js"}
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in kinds]
    assert len(files) > 100
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines())
        for path in files
        # Generated, or somebody else's.
        if not {"v1", "node_modules"} & set(path.relative_to(REPOSITORY).parts)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "v1" not in path.relative_to(PACKAGE).parts:
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(REPOSITORY)} has no docstring"
