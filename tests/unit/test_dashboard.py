"""The page for people: what it shows, that it reads without scripts, and that nothing hostile gets in."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import grpc
import pytest

from takhin.app import App
from takhin.config import Config, GrpcConfig, HttpConfig
from takhin.engine.base import EngineHealth, Totals
from takhin.server import dashboard
from takhin.server.dashboard import History
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc


class Page(HTMLParser):
    """The text of each table's rows, the links, and every tag that was never closed."""

    VOID = {"meta", "link", "line", "polyline", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "a":
            self.links.append(found["href"] or "")
        self.scripts += tag == "script"
        if found.get("aria-label"):
            self.labels.append(found["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


class Running:
    def __init__(self, directory: Path, debug: bool = False) -> None:
        self.app = App(
            Config(
                data_dir=str(directory),
                grpc=GrpcConfig(addr="127.0.0.1:0"),
                http=HttpConfig(addr="127.0.0.1:0", debug=debug),
            )
        )
        self.app.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.app.grpc_port}")
        self.stub = takhin_pb2_grpc.TakhinServiceStub(self.channel)

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.app.http_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
        finally:
            connection.close()

    def page(self, query: str = "") -> Page:
        code, _, text = self.get(f"/{query}")
        assert code == 200
        found = Page(text)
        assert found.open == []
        return found

    def close(self) -> None:
        self.channel.close()
        self.app.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.close()


def test_topics_partitions_and_lag_are_in_tables(running: Running) -> None:
    running.stub.CreateTopic(pb.CreateTopicRequest(name="orders", num_partitions=2), timeout=5)
    for _ in range(3):
        record = pb.Record(value=b"v")
        running.stub.ProduceMessage(pb.ProduceMessageRequest(topic="orders", partition=1, record=record), timeout=5)
    offset = pb.TopicPartitionOffset(topic="orders", partition=1, offset=1)
    running.stub.CommitOffset(pb.CommitOffsetRequest(group_id="<b>billing", offsets=[offset]), timeout=5)
    page = running.page()
    topic = next(row for row in page.rows if row[0] == "orders")
    assert topic[1:3] == ["2", "3"]
    assert topic[-1] == "yes"
    assert ["<b>billing", "Empty", "0", "2", "2", "orders-1"] in page.rows
    assert "?topic=orders" in page.links
    partitions = running.page("?topic=orders")
    assert [row[:5] for row in partitions.rows[1:]] == [["0", "0", "0", "0", "0"], ["1", "0", "3", "3", "3"]]


def test_an_unknown_or_hostile_topic_is_told_and_does_no_harm(running: Running) -> None:
    page = running.page("?topic=%3Cscript%3Ealert(1)%3C/script%3E&page=-4")
    assert page.scripts == 1


def test_faults_are_shown_and_named_in_the_title(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "None is known" in running.get("/")[2]
    monkeypatch.setattr(running.app.engine, "health", lambda: EngineHealth("unhealthy", ("the <disk> is gone",)))
    text = running.get("/")[2]
    assert "<li>the &lt;disk&gt; is gone</li>" in text
    assert "<title>unhealthy - Takhin</title>" in text


def test_nothing_is_loaded_from_elsewhere_and_the_policy_says_so(running: Running) -> None:
    _, headers, text = running.get("/")
    assert re.findall(r'(?:src|href)="(?!/|\?|#|data:)', text) == []
    assert "http://" not in text
    assert "https://" not in text
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert " style=" not in text


def test_many_topics_are_on_pages(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "ROWS", 2)
    for name in "abc":
        running.stub.CreateTopic(pb.CreateTopicRequest(name=name), timeout=5)
    first, second = running.page(), running.page("?page=2")
    assert [row[0] for row in first.rows[1:3]] == ["a", "b"]
    assert second.rows[1][0] == "c"
    assert "?page=2" in first.links
    assert "?page=1" in second.links


def test_a_plot_says_in_words_what_it_shows(running: Running) -> None:
    running.app.dashboard.history.sample()
    running.app.dashboard.history.sample()
    assert any("Records in a second over the last" in label for label in running.page().labels)


def test_rates_are_between_neighbouring_samples_and_never_negative() -> None:
    totals = iter([Totals(records_appended=n) for n in (0, 10, 40, 5)])
    times = iter([0.0, 5.0, 10.0, 15.0])
    history = History(lambda: next(totals), lambda: next(times))
    for _ in range(4):
        history.sample()
    assert history.rates(lambda t: t.records_appended) == [2.0, 6.0, 0.0]
    history.stop()


def test_debug_pages_are_there_only_when_they_are_enabled(running: Running, tmp_path: Path) -> None:
    assert running.get("/debug/threads")[0] == 404
    other = Running(tmp_path / "other", debug=True)
    try:
        assert "housekeeper" in other.get("/debug/threads")[2]
        assert '"debug": true' in other.get("/debug/config")[2]
        assert "counts" in other.get("/debug/gc")[2]
    finally:
        other.close()
