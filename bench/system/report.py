"""Results for people: ``python -m bench.system.report [FILE]`` prints the table as Markdown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .processes import REPOSITORY

RESULTS = REPOSITORY / "bench" / "results" / "system.json"


def save(report: dict[str, Any], out: Path) -> None:
    """As JSON, in a directory that may have to be made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = [machine_line(report), ""]
    if report.get("rows"):
        lines += [
            "| work | messages/s | records/s | MB/s | p50 / p99 | CPU a message / bare / tuned "
            "| ratio (spread) | goal | | of the tuned |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --- | --: |",
        ]
        lines += [_row(row) for row in report["rows"]]
    if report.get("in_process"):
        lines += ["", "| in process | records/s | GB/s | goal | |", "| --- | --: | --: | --: | --- |"]
        lines += [_in_process(row) for row in report["in_process"]]
    if report.get("footprint"):
        lines += ["", "| footprint | | goal: at most | |", "| --- | --: | --: | --- |"]
        lines += [
            f"| {row['title']} | {row['value']:.2f} {row['unit']} | {row['goal_at_most']:g} | {_met(row)} |"
            for row in report["footprint"]
        ]
    if report.get("client_limit"):
        lines += ["", "The client alone, against an echo in Go:", ""]
        lines += [
            f"* {row['title']}: {row['messages_per_second']:,.0f} messages/s, {row['megabytes_per_second']:,.0f} MB/s"
            for row in report["client_limit"]
        ]
    return "\n".join(lines)


def machine_line(report: dict[str, Any]) -> str:
    """Where, when and of what it was measured."""
    machine = report["machine"]
    disk = machine["disk"]
    return (
        f"{machine['time']}, commit {machine['commit'][:10]}{' with changes' if machine['changed'] else ''}; "
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}, grpcio {machine['grpcio']}; the disk flushes 1 KiB in "
        f"{disk['flush_1k_p50_ms']:.2f} ms and 256 KiB in {disk['flush_256k_p50_ms']:.2f} ms and takes "
        f"{disk['write_and_flush_megabytes_per_second']:.0f} MB/s; {_pairs(report)} of runs of "
        f"{report['seconds']:g} s, load average at the start {machine['load'][0]:.1f}."
    )


def _pairs(report: dict[str, Any]) -> str:
    more = report.get("noisy_pairs", report["pairs"])
    return f"{report['pairs']} pairs" + (f" ({more} of the noisy rows)" if more > report["pairs"] else "")


def _row(row: dict[str, Any]) -> str:
    own = row["takhin"]
    ratio = tuned = goal = ""
    cpu = f"{own['server_cpu_us_per_message']:.0f} us"
    if "ratio" in row:
        low, high = row["ratio_spread"]
        ratio = f"**{row['ratio']:.2f}** ({low:.2f} to {high:.2f})"
        cpu += f" / {row['yardstick']['server_cpu_us_per_message']:.0f} us"
    if "tuned_ratio" in row:
        low, high = row["tuned_ratio_spread"]
        tuned = f"{row['tuned_ratio']:.2f} ({low:.2f} to {high:.2f})"
        if row.get("tuned_met") is False:  # the goal is not set to it, but who misses it shall see that
            tuned += " **below**"
        cpu += f" / {row['tuned']['server_cpu_us_per_message']:.0f} us"
    if row["goal"] is not None:
        goal = f"{row['goal']:.2f}"
    if "absolute" in row:
        absolute = row["absolute"]
        goal = f"{goal} {absolute['figure']} {absolute['order']} {absolute['value']:,.0f}".strip()
    return (
        f"| {row['title']} | {own['messages_per_second']:,.0f} | {own['records_per_second']:,.0f} "
        f"| {own['megabytes_per_second']:,.0f} | {own['p50_us'] / 1000:.2f} / {own['p99_us'] / 1000:.2f} ms "
        f"| {cpu} | {ratio} | {goal} | {_met(row)} | {tuned} |"
    )


def _in_process(row: dict[str, Any]) -> str:
    goals = []
    if row["goal_records_per_second"]:
        goals.append(f"{row['goal_records_per_second'] / 1e6:g} M records/s")
    if row["goal_bytes_per_second"]:
        goals.append(f"{row['goal_bytes_per_second'] / 1e9:g} GB/s")
    return (
        f"| {row['title']} | {row['records_per_second'] / 1e6:.1f} M | {row['bytes_per_second'] / 1e9:.2f} "
        f"| {', '.join(goals)} | {_met(row)} |"
    )


def _met(row: dict[str, Any]) -> str:
    return {True: "met", False: "**missed**", None: ""}[row.get("met")]


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS).read_text())))
