"""The kernels of ``_wire``, in the C that Cython makes of them, touch no Python object."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("Cython")

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "takhin" / "_wire.pyx"

#: All functions of the headers that hold the kernels.
KERNELS = [
    f"{path.stem}_{name}"
    for path in sorted(SOURCE.parent.glob("_wire_*.pxd"))
    for name in re.findall(r"^cdef inline [^(\n]*?(\w+)\(", path.read_text(), re.MULTILINE)
]
#: A function of the interpreter or of Cython's runtime, or an exception.
TOUCHES = re.compile(r"\b(Py[A-Z_]\w*|_?_Pyx_\w+|__PYX_\w+|goto __pyx_L\d+_error)\b")


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The body of each C function, by name, without comments."""
    if not SOURCE.exists():
        pytest.skip("runs in the source tree only")
    out = tmp_path_factory.mktemp("kernels") / "_wire.c"
    directives = ["boundscheck=False", "wraparound=False", "initializedcheck=False", "cdivision=True"]
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", *(f"-X{directive}" for directive in directives), SOURCE, "-o", out],
        check=True,
        cwd=ROOT,
        timeout=100,
    )
    text = re.sub(r"/\*.*?\*/", "", out.read_text(), flags=re.DOTALL)
    found = re.finditer(
        r"^static [^;{}]*?__pyx_f_6takhin_\d+(\w+)\([^;{}]*\) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE
    )
    return {match[1]: match[2] for match in found}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_does_not_touch_the_interpreter(kernel: str, functions: dict[str, str]) -> None:
    assert TOUCHES.findall(functions[kernel]) == []


def test_the_kernels_are_all_there() -> None:
    assert {"_wire_fields_next_field", "_wire_requests_read_batch", "_wire_responses_write_records"} < set(KERNELS)
    assert len(KERNELS) >= 20


def test_the_check_sees_a_function_that_does(functions: dict[str, str]) -> None:
    assert TOUCHES.findall(functions["_wire_raise_malformed"])
