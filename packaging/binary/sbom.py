"""The bill of materials (CycloneDX 1.5, JSON) and the licences of everything inside the executable.

Run by build.py with the Python of the build environment: what went in is in ``contents.json`` beside the frozen folder,
names, versions and licences are in the metadata of the installed distributions and in dpkg's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

_LICENSE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
_SPDX = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "MIT": "MIT",
}


@dataclass
class Component:
    name: str
    version: str
    #: A package URL.
    purl: str
    #: An SPDX expression, else the words of whoever made it.
    license: str
    texts: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        known = re.fullmatch(r"[A-Za-z0-9.+-]+", self.license)
        spdx = {"license": {"id" if known and self.license[0].isupper() else "name": self.license}}
        licenses = [{"expression": self.license}] if re.search(r" (OR|AND|WITH) ", self.license) else [spdx]
        return {
            "type": "library",
            "bom-ref": self.purl,
            "name": self.name,
            "version": self.version,
            "licenses": licenses if self.license else [],
            "purl": self.purl,
        }


def license_of(found: Distribution) -> str:
    metadata = found.metadata
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    classified = [line.rpartition(":: ")[2] for line in metadata.get_all("Classifier", []) if "License ::" in line]
    words = (metadata["License"] or "").strip()
    for text in (words, *classified):
        if text in _SPDX:
            return _SPDX[text]
    return words if words and "\n" not in words else (classified[0] if classified else "")


def of_distribution(found: Distribution) -> Component:
    texts = []
    for path in found.files or ():
        if ".dist-info" in path.parts[0] and _LICENSE_FILE.search(path.name):
            texts.append(path.read_text(encoding="utf-8"))
    name, version = found.metadata["Name"], found.version
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return Component(name, version, f"pkg:pypi/{normal}@{version}", license_of(found), texts)


def of_debian(path: Path) -> Component | None:
    """The Debian package that a shared library came from."""
    resolved = path.resolve()
    names = {str(path), str(resolved), str(resolved).removeprefix("/usr"), "/usr" + str(resolved).removeprefix("/usr")}
    for name in sorted(names):
        asked = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            package = asked.stdout.split(":")[0]
            break
    else:
        return None
    form = "${Version} ${Architecture}"
    version, architecture = subprocess.check_output(["dpkg-query", "-W", "-f", form, package], text=True).split()[:2]
    copyright_file = Path("/usr/share/doc") / package / "copyright"
    text = copyright_file.read_text(errors="replace") if copyright_file.exists() else ""
    licenses = sorted(set(re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)))
    words = ", ".join(licenses[:6]) or ("PSF-2.0" if package.startswith("libpython") else "see its copyright file")
    purl = f"pkg:deb/debian/{package}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
    return Component(package, version, purl, words, [text] if text else [])


def components(contents: dict[str, Any]) -> Iterator[Component]:
    """What is inside, each once. Ends the build when a file came from nowhere that is known."""
    owner: dict[str, Distribution] = {}
    for found in distributions():
        for path in found.files or ():
            owner[str(Path(str(found.locate_file(path))).resolve())] = found
    files = [Path(name).resolve() for name in [*contents["modules"], *contents["binaries"].values()]]
    standard = Path(os.__file__).resolve().parent
    seen: dict[str, Component] = {}
    for file in files:
        if str(file) in owner:
            component = of_distribution(owner[str(file)]) if owner[str(file)] else None
        elif file.is_relative_to(standard) or file.name.startswith("libpython"):
            version = platform.python_version()
            texts = [path.read_text() for path in (standard / "LICENSE.txt",) if path.exists()]
            debian = of_debian(file) if not texts else None
            component = Component("cpython", version, f"pkg:generic/cpython@{version}", "PSF-2.0", texts)
            if debian:
                component.texts = debian.texts
        else:
            component = of_debian(file)
        if component is None:
            sys.exit(f"sbom: {file} is inside, and nobody knows where it came from")
        seen.setdefault(component.purl, component)
    # The bootloader, and the two small modules of PyInstaller's that start everything.
    for name in ("pyinstaller",):
        component = of_distribution(distribution(name))
        component.license = "GPL-2.0-or-later WITH Bootloader-exception"
        seen.setdefault(component.purl, component)
    yield from sorted(seen.values(), key=lambda component: component.name.lower())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frozen", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    contents = json.loads((arguments.frozen.parent / "contents.json").read_text())
    inside = list(components(contents))
    own = next(component for component in inside if component.name == "takhin")
    others = [component for component in inside if component is not own]
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).isoformat().replace("+00:00", "Z")
    listed = [component.as_json() for component in others]
    summed = hashlib.sha256(json.dumps([own.version, listed], sort_keys=True).encode()).hexdigest()
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(summed[:32], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": when,
            "component": {**own.as_json(), "type": "application"},
        },
        "components": listed,
        "dependencies": [{"ref": own.purl, "dependsOn": [component.purl for component in others]}],
    }
    (arguments.out / "takhin.cdx.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    with (arguments.out / "LICENSES.txt").open("w") as file:
        file.write("Takhin, and the licences of what its executable contains.\n")
        for component in [own, *others]:
            file.write(f"\n{'=' * 100}\n{component.name} {component.version}: {component.license or 'see below'}\n")
            for text in component.texts:
                file.write(f"{'-' * 100}\n{text.rstrip()}\n")


if __name__ == "__main__":
    main()
