"""Plots of the results: ``python -m bench.system.plot [FILE]``. Needs matplotlib, of the ``plot`` extra."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .report import RESULTS


def plot(report: dict[str, Any], out: Path) -> None:
    """One bar a row: the ratio to the yardstick, the spread as a line, the goal as a mark, the tuned bare server's as
    a point."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("plots need matplotlib: pip install 'takhin[plot]'")
    rows = [row for row in report["rows"] if "ratio" in row][::-1]
    figure = Figure(figsize=(9, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for n, row in enumerate(rows):
        low, high = row["ratio_spread"]
        colour = "#3b7a57" if row.get("met", True) else "#b5523b"
        axes.barh(n, row["ratio"], color=colour, height=0.6)
        axes.plot([low, high], [n, n], color="black", linewidth=1)
        if "tuned_ratio" in row:
            axes.plot([row["tuned_ratio"]], [n], marker="o", color="white", markeredgecolor="black", markersize=5)
        if row["goal"] is not None:
            axes.plot([row["goal"]] * 2, [n - 0.4, n + 0.4], color="black", linestyle=":", linewidth=2)
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=8)
    axes.set_xlabel("messages a second, to the yardstick's (grpcio as it comes; one partition); points: to the tuned")
    axes.axvline(1.0, color="grey", linewidth=0.5)
    figure.savefig(out)


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    out = source.with_suffix(".svg")
    plot(json.loads(source.read_text()), out)
    print(out)


if __name__ == "__main__":
    main()
