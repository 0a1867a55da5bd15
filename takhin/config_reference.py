"""The reference configuration: a YAML file with every setting, what it means and its default.

It is made from the structs of ``config``; ``packaging/takhin.yaml`` is exactly this text.
"""

from __future__ import annotations

import textwrap

from .config_setting import Setting, as_yaml, sections, settings

#: The reference is what a package installs, so its data lives where a service keeps its state.
#: Without a configuration file it is the default, a directory that anybody can make.
PACKAGED_DATA_DIR = "/var/lib/takhin"

_WIDTH = 110

_HEAD = """\
Takhin's configuration: every setting, what it means, and its default. Leave out what you do not change.

Check a file with `takhin config check FILE`; see what is in force, and why, with
`takhin config show --config FILE`. Made by `takhin config reference`.

${VAR} is taken from the environment, ${VAR:-default} falls back when it is unset or empty, and $${ is a
plain ${. `takhin --set grpc.addr=127.0.0.1:9999` overrides one setting on the command line.
"""


def _comment(text: str, indent: str = "") -> list[str]:
    lines = []
    for line in text.splitlines():
        wrapped = textwrap.wrap(line, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
        lines += [f"{indent}# {part}" for part in wrapped] or [f"{indent}#"]
    return lines


def _entry(setting: Setting, value: object, indent: str) -> list[str]:
    return [
        *_comment(setting.description, indent),
        *_comment(f"Allowed: {setting.allowed}. Default: {as_yaml(setting.default)}.", indent),
        f"{indent}{setting.key}: {as_yaml(value)}",
    ]


def reference() -> str:
    """The text of the file."""
    lines = _comment(_HEAD)
    for setting in settings().values():
        if setting.section:
            continue
        packaged = setting.path == "data_dir"
        lines += ["", *_entry(setting, PACKAGED_DATA_DIR if packaged else setting.default, "")]
        if packaged:
            note = (
                f"# As a service: {PACKAGED_DATA_DIR}. The default above is for a server that is started "
                "without a configuration."
            )
            lines.insert(-1, note)
    for section, documentation in sections().items():
        lines += ["", "", *_comment(documentation), f"{section}:"]
        for index, setting in enumerate(s for s in settings().values() if s.section == section):
            lines += [""] * (index > 0) + _entry(setting, setting.default, "  ")
    return "\n".join(lines) + "\n"
