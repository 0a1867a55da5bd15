"""The page for people on the HTTP port: topics, partitions, rates, lag, disk, faults.

All of it is rendered here, plots too, so that it reads without scripts; the page's script only fetches it again
every few seconds. It loads nothing from elsewhere, and its policy allows nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import string
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from urllib.parse import parse_qs, quote

from .. import __version__
from ..engine.base import Engine, GroupDescription, PartitionDescription, Totals
from ..errors import TakhinError

#: Seconds between two samples, and how many are kept: ten minutes.
SAMPLE_SECONDS = 5.0
SAMPLES = 120
#: Rows of one table; more are on further pages.
ROWS = 100
#: Seconds that a topic's rate looks back at least.
RATE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    totals: Totals


class History:
    """The engine's totals over the last minutes, sampled by a thread."""

    def __init__(self, totals: Callable[[], Totals], clock: Callable[[], float] = time.monotonic) -> None:
        self._totals = totals
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES + 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def sample(self) -> None:
        self._samples.append(Sample(self._clock(), self._totals()))

    def rates(self, of: Callable[[Totals], float]) -> list[float]:
        """A second, between neighbouring samples, the oldest first."""
        samples = list(self._samples)
        return [
            max(of(after.totals) - of(before.totals), 0.0) / max(after.at - before.at, 1e-9)
            for before, after in pairwise(samples)
        ]

    def _run(self) -> None:
        while True:
            self.sample()
            if self._stop.wait(SAMPLE_SECONDS):
                return


class Dashboard:
    """Renders the page. Safe from any thread."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._started = time.monotonic()
        self.history = History(engine.totals)
        self._lock = threading.Lock()
        #: Log end offsets of topics when they were last looked at: (when, by name).
        self._looks: deque[tuple[float, dict[str, int]]] = deque(maxlen=8)

    def render(self, query: str) -> tuple[bytes, str]:
        """The page and its content security policy. ``query`` is a URL's, without the question mark."""
        asked = parse_qs(query)
        topic = asked.get("topic", [""])[0]
        page = _number(asked.get("page", ["1"])[0])
        health = self._engine.health()
        content = "\n".join(
            [
                _live("faults", self._faults(health.causes)),
                _live("tiles", self._tiles()),
                _live("topics", self._topic(topic, page) if topic else self._topics(page)),
                _live("groups", "" if topic else self._groups(page)),
            ]
        )
        uptime = _duration(time.monotonic() - self._started)
        about = f"{html.escape(self._name)}, version {html.escape(__version__)}, up {uptime}"
        template, policy = _template()
        text = template.substitute(state=html.escape(health.status), about=about, content=content)
        return text.encode(), policy

    # -- parts --------------------------------------------------------------------------------

    @staticmethod
    def _faults(causes: Sequence[str]) -> str:
        if not causes:
            return '<h2>Faults</h2><p class="soft">None is known.</p>'
        items = "".join(f"<li>{html.escape(cause)}</li>" for cause in causes)
        return f'<h2>Faults</h2><ul class="faults">{items}</ul>'

    def _tiles(self) -> str:
        totals = self._engine.totals()
        rates = self.history.rates
        flush_ms = 1000 * totals.flush_seconds / totals.flushes if totals.flushes else 0.0
        disk = ""
        if totals.disk_total_bytes:
            used = 1 - totals.disk_free_bytes / totals.disk_total_bytes
            label = f"{100 * used:.0f} percent of the disk are used"
            disk = (
                f"<div><dt>Disk free</dt><dd>{_size(totals.disk_free_bytes)}<small>of "
                f'{_size(totals.disk_total_bytes)}</small></dd><dd><meter min="0" max="1" high="0.9" '
                f'value="{used:.3f}" aria-label="{label}">{label}</meter></dd></div>'
            )
        return (
            '<h2>Now</h2><dl class="tiles">'
            + _tile("Records in", rates(lambda t: t.records_appended), _count, "a second")
            + _tile("Bytes in", rates(lambda t: t.bytes_appended), _size, "a second")
            + _tile("Bytes out", rates(lambda t: t.bytes_read), _size, "a second", "out")
            + f"<div><dt>Flush</dt><dd>{flush_ms:.1f} ms<small>on average, {_count(totals.flushes)} so far"
            + "</small></dd></div>"
            + disk
            + "</dl>"
        )

    def _topics(self, page: int) -> str:
        names = self._engine.topic_names()
        rows = []
        ends = {}
        for name in names[(page - 1) * ROWS : page * ROWS]:
            try:
                partitions = self._engine.describe_topic(name).partitions
            except TakhinError:  # deleted meanwhile
                continue
            ends[name] = sum(partition.log_end_offset for partition in partitions)
            rows.append((name, partitions))
        before = self._look(ends)
        cells = [
            [
                _link(name),
                _count(len(partitions)),
                _count(sum(p.high_watermark - p.log_start_offset for p in partitions)),
                _rate(before, name, ends[name]),
                _size(sum(p.size_bytes for p in partitions)),
                _offline(partitions),
            ]
            for name, partitions in rows
        ]
        head = ["Topic", "Partitions", "Records", "New a second", "Size", "Writes"]
        return "<h2>Topics</h2>" + _table("topics", f"{_count(len(names))} topics", head, cells, page, len(names))

    def _topic(self, name: str, page: int) -> str:
        back = '<p><a href="?">All topics</a></p>'
        try:
            partitions = self._engine.describe_topic(name).partitions
        except TakhinError:
            return f"<h2>Topic {html.escape(name)}</h2><p>There is no such topic.</p>{back}"
        cells = [
            [
                str(p.partition),
                _count(p.log_start_offset),
                _count(p.high_watermark),
                _count(p.log_end_offset),
                _count(p.high_watermark - p.log_start_offset),
                _size(p.size_bytes),
                _offline([p]),
            ]
            for p in partitions[(page - 1) * ROWS : page * ROWS]
        ]
        head = ["Partition", "Log start", "High watermark", "Log end", "Records", "Size", "Writes"]
        caption = f"{_count(len(partitions))} partitions of {html.escape(name)}"
        table = _table("partitions", caption, head, cells, page, len(partitions), f"topic={quote(name)}&amp;")
        return f"<h2>Topic {html.escape(name)}</h2>{back}{table}"

    def _groups(self, page: int) -> str:
        groups = self._engine.groups()
        cells = []
        for group in groups[(page - 1) * ROWS : page * ROWS]:
            try:
                described = self._engine.describe_group(group.group_id)
            except TakhinError:  # gone meanwhile
                continue
            cells.append(_group_row(described))
        head = ["Group", "State", "Readers", "Lag", "Largest lag", "of partition"]
        caption = f"{_count(len(groups))} consumer groups. Lag: readable records that are not committed."
        return "<h2>Consumer groups</h2>" + _table("consumer groups", caption, head, cells, page, len(groups))

    def _look(self, ends: dict[str, int]) -> tuple[float, dict[str, int]] | None:
        """Keep what is seen now; gives (seconds since, what was seen then) of an earlier look."""
        now = time.monotonic()
        with self._lock:
            old = [look for look in self._looks if now - look[0] >= RATE_SECONDS]
            if not self._looks or now - self._looks[-1][0] >= RATE_SECONDS:
                self._looks.append((now, ends))
        return (now - old[-1][0], old[-1][1]) if old else None


# -- pieces of HTML -------------------------------------------------------------------------------


@cache
def _template() -> tuple[string.Template, str]:
    """The page, and the policy that allows just its own script and style."""
    text = resources.files(__package__).joinpath("dashboard.html").read_text("utf-8")

    def allowed(tag: str) -> str:
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return "'sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() + "'"

    policy = (
        f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return string.Template(text), policy


def _live(name: str, content: str) -> str:
    return f'<section data-live="{name}">{content}</section>'


def _tile(title: str, rates: Sequence[float], shown: Callable[[float], str], unit: str, kind: str = "") -> str:
    now = rates[-1] if rates else 0.0
    plot = _plot(title, rates, shown, kind)
    return f"<div><dt>{title}</dt><dd>{shown(now)}<small>{unit}</small></dd><dd>{plot}</dd></div>"


def _plot(title: str, values: Sequence[float], shown: Callable[[float], str], kind: str) -> str:
    """A line over the last ten minutes; what it shows is in words, for who cannot see it."""
    if len(values) < 2:
        return '<small class="soft">a plot follows in some seconds</small>'
    top = max(values) or 1.0
    points = " ".join(f"{SAMPLES - len(values) + n},{38 - 36 * value / top:.1f}" for n, value in enumerate(values))
    minutes = len(values) * SAMPLE_SECONDS / 60
    label = (
        f"{title} a second over the last {minutes:.0f} minutes: between {shown(min(values))} and "
        f"{shown(max(values))}, now {shown(values[-1])}"
    )
    return (
        f'<svg class="{kind}" viewBox="0 0 {SAMPLES} 40" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<line x1="0" x2="{SAMPLES}" y1="39" y2="39"/><polyline points="{points}"/></svg>'
    )


def _table(
    name: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], page: int, count: int, link: str = ""
) -> str:
    """Cells are HTML; the first of each row is its header."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    pages = (count + ROWS - 1) // ROWS
    turn = ""
    if pages > 1:
        links = [f'<a href="?{link}page={n}">{word}</a>' for n, word in ((page - 1, "Back"), (page + 1, "Further"))]
        turn = f"<p>Page {page} of {pages}. {links[0] if page > 1 else ''} {links[1] if page < pages else ''}</p>"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="Table of {name}">'
        f"<table><caption>{caption}</caption>"
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>{turn}"
    )


def _group_row(group: GroupDescription) -> list[str]:
    worst = max(group.offsets, key=lambda offset: offset.lag, default=None)
    return [
        html.escape(group.group_id),
        html.escape(group.state),
        _count(len(group.members)),
        _count(sum(offset.lag for offset in group.offsets)),
        _count(worst.lag) if worst else "-",
        html.escape(f"{worst.topic}-{worst.partition}") if worst else "-",
    ]


def _link(topic: str) -> str:
    return f'<a href="?topic={quote(topic)}">{html.escape(topic)}</a>'


def _offline(partitions: Sequence[PartitionDescription]) -> str:
    reasons = {p.offline_reason for p in partitions if p.offline_reason}
    return "none: " + html.escape("; ".join(sorted(reasons))) if reasons else "yes"


def _rate(before: tuple[float, dict[str, int]] | None, name: str, end: int) -> str:
    if before is None or name not in before[1]:
        return "-"
    return _count(max(end - before[1][name], 0) / before[0])


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,5}", text) else 1
