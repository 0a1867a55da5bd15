"""Plays scenarios with planted bugs and without, each in a process of its own, and tells what the checker saw.

``python -m tests.crash.mutation DIRECTORY [NAME ...]``, in the environment of the debug build. A NAME is a mutant's
or a scenario's; all without any. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from takhin import _os

from . import history, mutants
from .checker import check
from .disk import Disk
from .scenarios import SCENARIOS
from .stage import Stage

#: Seconds that one play may take.
LIMIT_S = 30.0
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Play:
    mutant: str
    scenario: str

    @property
    def name(self) -> str:
        return self.mutant or self.scenario


def play(each: Play, directory: Path) -> dict[str, Any]:
    """Runs in a process of its own."""
    disk = Disk()
    disk.install()
    if each.mutant:
        mutants.plant(each.mutant)
    scenario, more = SCENARIOS[each.scenario]
    stage = Stage(directory, disk, **more)
    trouble = ""
    try:
        scenario(stage)
    except Exception:
        # A planted bug may well keep the play from coming to its end.
        trouble = traceback.format_exc()
    stage.history.close()
    violations = check(history.read(stage.history.path))
    return {
        "violations": [[violation.invariant, violation.text] for violation in violations],
        "trouble": trouble,
    }


def start(each: Play, directory: Path) -> int:
    """Fork; gives the process."""
    directory.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        signal.alarm(int(LIMIT_S))
        with (directory / "stderr").open("w") as err:
            os.dup2(err.fileno(), 2)
        result = play(each, directory)
        (directory / "result.json").write_text(json.dumps(result))
        code = 0
    except BaseException:
        (directory / "crash").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def result_of(each: Play, directory: Path, status: int, seconds: float) -> dict[str, Any]:
    file = directory / "result.json"
    if file.exists():
        result = json.loads(file.read_text())
    else:
        crash = directory / "crash"
        trouble = crash.read_text() if crash.exists() else f"the play ended with status {status}"
        result = {"violations": [], "trouble": trouble}
    return {**asdict(each), **result, "seconds": round(seconds, 2)}


def main(arguments: Sequence[str]) -> None:
    assert _os.DEBUG, "needs the debug build"
    root, names = Path(arguments[0]), set(arguments[1:])
    plays = [Play("", name) for name in SCENARIOS]
    plays += [Play(each.name, each.scenario) for each in mutants.MUTANTS.values() if each.scenario]
    waiting = [each for each in plays if not names or each.name in names]
    under_way: dict[int, tuple[Play, Path, float]] = {}
    while waiting or under_way:
        while waiting and len(under_way) < AT_ONCE:
            each = waiting.pop(0)
            directory = root / (each.mutant or f"without-{each.scenario}")
            under_way[start(each, directory)] = (each, directory, time.monotonic())
        process, status = os.wait()
        each, directory, began = under_way.pop(process)
        print(json.dumps(result_of(each, directory, status, time.monotonic() - began)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
