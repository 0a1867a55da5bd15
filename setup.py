"""Builds what the wheel holds besides plain Python: the Cython modules, the protobuf code, the version.

Switches, in the environment:

``TAKHIN_BUILD=debug``     assertions, bounds checks, the fault seam, ``-O1 -g``
``TAKHIN_BUILD=coverage``  as debug, with Cython line tracing
``TAKHIN_BUILD=sanitize``  as debug, with AddressSanitizer and UndefinedBehaviorSanitizer
``TAKHIN_ANNOTATE=1``      leaves Cython's HTML annotation beside the C code, in ``build/``
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

HERE = Path(__file__).resolve().parent
PROTO_ROOT = HERE / "proto"
MODULES = ("_fastlog", "_os", "_segment", "_wire")
BUILD = os.environ.get("TAKHIN_BUILD", "release")
if BUILD not in ("release", "debug", "coverage", "sanitize"):
    sys.exit(f"TAKHIN_BUILD={BUILD}: must be release, debug, coverage or sanitize")
if sys.byteorder != "little":
    # The C modules read varints and fixed fields with little-endian loads and byte swaps.
    sys.exit("takhin is built and tested on little-endian machines only; this one is big-endian")

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "embedsignature.format": "python",
    "boundscheck": BUILD != "release",
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "linetrace": BUILD == "coverage",
}
MACROS: list[tuple[str, str | None]] = [("_GNU_SOURCE", None)]
if BUILD == "release":
    COMPILE, LINK = ["-O3", "-g1", "-fno-strict-aliasing"], []
else:
    COMPILE, LINK = ["-O1", "-g", "-fno-strict-aliasing", "-fno-omit-frame-pointer", "-UNDEBUG"], []
    MACROS.append(("TAKHIN_DEBUG", "1"))
if BUILD == "coverage":
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
if BUILD == "sanitize":
    COMPILE += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]


def extensions() -> list[Extension]:
    headers = [path.as_posix() for pattern in ("_*.pxd", "_*.h") for path in sorted(Path("takhin").glob(pattern))]
    return [
        Extension(
            f"takhin.{name}",
            [f"takhin/{name}.pyx"],
            depends=headers,
            include_dirs=["takhin"],
            define_macros=MACROS,
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
        for name in MODULES
    ]


def generate_protobuf(out: Path) -> None:
    """Write ``takhin/v1/*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` below ``out``."""
    import grpc_tools
    from grpc_tools import protoc

    include = Path(grpc_tools.__file__).parent / "_proto"
    for proto in sorted(PROTO_ROOT.rglob("*.proto")):
        arguments = [
            "protoc",
            f"-I{PROTO_ROOT}",
            f"-I{include}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            str(proto),
        ]
        if protoc.main(arguments) != 0:
            raise ExecError(f"protoc failed on {proto}")
        package = out / proto.relative_to(PROTO_ROOT).parent
        (package / "__init__.py").write_text('"""Generated from proto/ when the project is built."""\n')


def generate_version(out: Path) -> None:
    """Write ``takhin/_version.py`` below ``out``: asking the installed metadata at each start would cost 20 ms."""
    version = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["version"]
    text = f'"""Generated from pyproject.toml when the project is built."""\n\n__version__ = "{version}"\n'
    target = out / "takhin" / "_version.py"
    if not target.exists() or target.read_text() != text:
        aside = target.with_suffix(".new")  # a process that starts now sees the old one or the new one
        aside.write_text(text)
        aside.replace(target)


class BuildPy(build_py):
    """Generates the protobuf code and the version before the packages are collected."""

    def run(self) -> None:
        generate_protobuf(HERE)
        generate_version(HERE)
        self.packages = sorted({*(self.packages or []), "takhin.v1"})
        super().run()


class BuildExt(build_ext):
    """Translates with our directives, into a place of each build's own; an editable install, which
    builds in place, needs the generated code there as well."""

    def finalize_options(self) -> None:
        from Cython.Build import cythonize

        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            compiler_directives=DIRECTIVES,
            annotate=bool(os.environ.get("TAKHIN_ANNOTATE")),
            build_dir=f"build/cython-{BUILD}",
        )
        # Objects of one switch must not be taken for those of another.
        self.build_temp = f"build/temp-{BUILD}-{sys.implementation.cache_tag}"
        super().finalize_options()

    def run(self) -> None:
        generate_protobuf(HERE)
        generate_version(HERE)
        super().run()


setup(ext_modules=extensions(), cmdclass={"build_py": BuildPy, "build_ext": BuildExt})
