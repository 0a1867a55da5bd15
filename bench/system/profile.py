"""``python -m bench.system.profile``: where the processor's time of a message goes, by ``perf``, on both sides.

Each sample of a server's threads counts for one part: in a system call for that call, with all that it does, else by
the file of the code that ran. Microseconds of a message are the samples' share of the CPU time that the row measures.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .machine import describe_machine, warm_page_cache
from .measure import Table
from .processes import REPOSITORY, Failed, Server, build_client
from .report import RESULTS, machine_line, save
from .rows import Row, choose

#: Samples a second and processor; not a divisor of anything's period.
FREQUENCY = 1999
#: Of a frame of a system call, which the compiler may have left out for that of what it calls.
SYSTEM_CALLS = {
    "send": r"sys_send(msg|to)$",
    "receive": r"sys_recv(msg|from)$",
    "append": r"(sys|do)_pwritev?\d*$|(sys|vfs)_fallocate$",
    "read": r"(sys|do)_preadv?\d*$|filemap_read$",
    "flush": r"sys_(fdatasync|fsync|syncfs)$|do_fsync$|sync_file_range$",
    "futex": r"(sys|do)_futex(_\w+)?$",
    "poll": r"sys_(epoll_\w+|p?poll|eventfd\d*|read|write|timerfd_\w+|sched_yield)$",
    "page fault": r"exc_page_fault$",
}
#: Of the file that a sample was in, outside of the kernel.
FILES = {
    "log and codec": r"/takhin/_\w+\.",
    "gRPC": r"cygrpc",
    "Python": r"/python3[^/]*$|libpython",
    "libc": r"/libc[.-]|ld-linux",
}
#: Scheduling, interrupts and other calls; libraries other than the above.
KERNEL, REST = "kernel, else", "rest"
PARTS = (*SYSTEM_CALLS, KERNEL, *FILES, REST)

_FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.*) \((?P<file>[^()]*)\)$")


def part_of(frames: list[tuple[str, str]]) -> str:
    """``frames``: (symbol, file), the innermost first."""
    kernel = [symbol.partition("+")[0] for symbol, file in frames if file.startswith("[")]
    for part, pattern in SYSTEM_CALLS.items():
        if any(re.search(pattern, symbol) for symbol in kernel):
            return part
    if kernel and frames[0][1].startswith("["):
        return KERNEL
    return next((part for part, pattern in FILES.items() if re.search(pattern, frames[0][1])), REST)


def samples(lines: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Of what ``perf script`` prints: a line for each, its frames, and an empty line."""
    frames: list[tuple[str, str]] = []
    for line in lines:
        found = _FRAME.match(line.rstrip("\n"))
        if found:
            frames.append((found["symbol"], found["file"]))
        elif frames:
            yield frames
            frames = []
    if frames:
        yield frames


class Profiler:
    """Counts samples, by process id of the server and name of the messages that it is loaded with."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "perf.data"
        self.counts: dict[tuple[int, str], Counter[str]] = {}

    @contextlib.contextmanager
    def watch(self, server: Server, messages: str) -> Iterator[None]:
        self._data.unlink(missing_ok=True)  # what another run left must not count for this one
        command = ["perf", "record", "--quiet", "-e", "cpu-clock", "-F", str(FREQUENCY), "--call-graph", "fp"]
        with subprocess.Popen([*command, "-p", str(server.pid), "-o", str(self._data)]) as recorder:
            try:
                yield
            finally:
                recorder.send_signal(signal.SIGINT)
        script = ["perf", "script", "-i", str(self._data), "-F", "comm,ip,sym,dso"]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as printer:
            assert printer.stdout is not None
            found = Counter(part_of(frames) for frames in samples(printer.stdout))
        if not found:
            raise Failed("perf took no samples: is it permitted to?")
        self.counts.setdefault((server.pid, messages), Counter()).update(found)


def profile(table: Table, profiler: Profiler, row: Row) -> dict[str, Any]:
    profiler.counts.clear()
    runs = table.measure(row)["runs"]
    result: dict[str, Any] = {"name": row.name, "title": row.title}
    sides = {"takhin": (table.takhin.pid, row.name)}
    if row.against == "one-partition":
        sides["against"] = (table.takhin.pid, f"{row.name}-one")
    elif table.tuned is not None and "tuned" in runs:  # what differs is what Takhin does with a message
        sides["tuned"] = (table.tuned.pid, row.name)
    for side, key in sides.items():
        of_runs = [run["server_cpu_us_per_message"] for run in runs[side]]
        result[side] = _parts(profiler.counts[key], sum(of_runs) / len(of_runs))
    return result


def _parts(counts: Counter[str], us: float) -> dict[str, float]:
    return {"all": us, **{part: us * counts[part] / counts.total() for part in PARTS}}


def report_table(report: dict[str, Any]) -> str:
    """Markdown: microseconds of CPU a message; behind the stroke of the tuned bare server, or of one partition."""
    lines = [machine_line(report), "", "| work | all | " + " | ".join(PARTS) + " |"]
    lines.append("| --- |" + " --: |" * (len(PARTS) + 1))
    for row in report["rows"]:
        sides = [row[side] for side in ("takhin", "tuned", "against") if side in row]
        cells = [" / ".join(f"{side[part]:.0f}" for side in sides) for part in ("all", *PARTS)]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="names, or beginnings of names, with commas; only these")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run")
    parser.add_argument("--out", type=Path, default=RESULTS.with_name("profile.json"))
    arguments = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("profiles need perf: on Debian, apt-get install linux-perf")
    chosen = choose(arguments.rows)
    build_client()
    data = REPOSITORY / "build" / "bench"
    directory = Path(tempfile.mkdtemp(dir=data, prefix="profile-"))
    report: dict[str, Any] = {"machine": describe_machine(data), "pairs": arguments.pairs, "seconds": arguments.seconds}
    try:
        warm_page_cache(directory)
        profiler = Profiler(directory)
        with Table(directory, arguments.pairs, arguments.seconds, watch=profiler.watch) as table:
            report["rows"] = [profile(table, profiler, row) for row in chosen]
    finally:
        shutil.rmtree(directory)
    save(report, arguments.out)
    print(report_table(report))


if __name__ == "__main__":
    main()
