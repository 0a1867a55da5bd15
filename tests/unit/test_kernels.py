"""The kernels of the C modules, in the C that Cython makes of them, touch no Python object."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("Cython")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "takhin"

#: All functions of the headers that hold kernels, and in the modules themselves all that run without the GIL.
IN_HEADERS = re.compile(r"^cdef inline [^(\n]*?(\w+)\(", re.MULTILINE)
IN_MODULES = re.compile(r"^ *cdef (?!extern)[^(\n]*?(\w+)\([^)]*\) noexcept nogil:", re.MULTILINE)
#: A function of the interpreter or of Cython's runtime, or an exception; not the integer type.
TOUCHES = re.compile(r"\b(Py(?!_ssize_t)[A-Z_]\w*|_?_Pyx_\w+|__PYX_\w+|goto __pyx_L\d+_error)\b")
MODULES = ("_fastlog", "_os", "_segment", "_wire")


def kernels_of(module: str) -> list[str]:
    """Ends of their names in C."""
    found = [f"{module}_{name}" for name in IN_MODULES.findall((PACKAGE / f"{module}.pyx").read_text())]
    for path in sorted(PACKAGE.glob(f"{module}_*.pxd")):
        found += [f"{path.stem}_{name}" for name in IN_HEADERS.findall(path.read_text())]
    return found


KERNELS = [(module, kernel) for module in MODULES for kernel in kernels_of(module)]
#: The walk over records is inline in the modules that use it: it is looked at in the C of one of them.
USERS = {"_fastlog_walk": "_wire"}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By module, the body of each C function, by the end of its name, without comments."""
    if not PACKAGE.joinpath("_wire.pyx").exists():
        pytest.skip("runs in the source tree only")
    directives = ["boundscheck=False", "wraparound=False", "initializedcheck=False", "cdivision=True"]
    bodies = {}
    for module in MODULES:
        out = tmp_path_factory.mktemp("kernels") / f"{module}.c"
        subprocess.run(
            [sys.executable, "-m", "cython", "-3", *(f"-X{directive}" for directive in directives)]
            + [str(PACKAGE / f"{module}.pyx"), "-o", str(out)],
            check=True,
            cwd=ROOT,
            timeout=100,
        )
        text = re.sub(r"/\*.*?\*/", "", out.read_text(), flags=re.DOTALL)
        found = re.finditer(
            r"^static [^;{}]*?__pyx_f_6takhin_\d+(\w+)\([^;{}]*\) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE
        )
        bodies[module] = {match[1]: match[2] for match in found}
    return bodies


def body_of(functions: dict[str, dict[str, str]], module: str, kernel: str) -> str:
    header = next((name for name in USERS if kernel.startswith(name)), None)
    there = functions[USERS[header] if header else module]
    if kernel in there:
        return there[kernel]
    # Methods have the name of their class between that of the module and their own.
    name = kernel.removeprefix(module + "_")
    [body] = [body for mangled, body in there.items() if re.fullmatch(rf"{module}_\d+[A-Z][A-Za-z]+_{name}", mangled)]
    return body


@pytest.mark.parametrize(("module", "kernel"), KERNELS, ids=str)
def test_kernel_does_not_touch_the_interpreter(module: str, kernel: str, functions: dict[str, dict[str, str]]) -> None:
    assert TOUCHES.findall(body_of(functions, module, kernel)) == []


def test_the_kernels_are_all_there() -> None:
    assert {
        ("_wire", "_wire_fields_next_field"),
        ("_wire", "_wire_requests_read_batch"),
        ("_wire", "_wire_responses_write_records"),
        ("_fastlog", "_fastlog_frame_batch"),
        ("_fastlog", "_fastlog_check_batch"),
        ("_fastlog", "_fastlog_close_batch"),
        ("_fastlog", "_fastlog_walk_walk_next"),
        ("_segment", "_segment_collect"),
        ("_segment", "_segment_add"),
        ("_os", "_os_timed_write"),
        ("_os", "_os_os_read_at"),
    } < set(KERNELS)
    assert len(KERNELS) >= 40


def test_the_check_sees_a_function_that_does(functions: dict[str, dict[str, str]]) -> None:
    assert TOUCHES.findall(functions["_wire"]["_wire_raise_malformed"])
    assert TOUCHES.findall(functions["_segment"]["_segment_fail"])
