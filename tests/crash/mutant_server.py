"""``python -m tests.crash.mutant_server NAME serve ...``: the server, with a bug planted in it.

It needs the debug build (tests/debug_build.py) and refuses any other.
"""

from __future__ import annotations

import sys

from takhin import _os


def main() -> None:
    if not _os.DEBUG:
        sys.exit("a server with a planted bug is run from the debug build only")
    name = sys.argv.pop(1)

    from takhin.cli.main import cli

    from . import mutants

    mutants.plant(name)
    cli(prog_name="takhin")


if __name__ == "__main__":
    main()
