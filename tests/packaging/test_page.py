"""The page for people in a real browser: light and dark, narrow and wide, with and without scripts."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from takhin.app import App
from takhin.config import Config, GrpcConfig, HttpConfig
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from tests.conftest import require_tool

from .machine import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PICTURES = REPOSITORY / "build" / "test-logs"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with something on it."""
    if os.environ.get("TAKHIN_PACKAGING") != "1":
        pytest.skip("run by make test-packaging")
    directory = str(tmp_path_factory.mktemp("page"))
    app = App(Config(data_dir=directory, grpc=GrpcConfig(addr="127.0.0.1:0"), http=HttpConfig(addr="127.0.0.1:0")))
    app.start()
    with grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        stub = takhin_pb2_grpc.TakhinServiceStub(channel)
        for name in ("orders", "a-long-name.of.some.team.that-likes-long-names.and.dots.v2"):
            stub.CreateTopic(pb.CreateTopicRequest(name=name, num_partitions=2), timeout=5)
        for n in range(5):
            record = pb.Record(value=b"v" * n)
            stub.ProduceMessage(pb.ProduceMessageRequest(topic="orders", partition=1, record=record), timeout=5)
            app.dashboard.history.sample()
        offset = pb.TopicPartitionOffset(topic="orders", partition=1, offset=2)
        stub.CommitOffset(pb.CommitOffsetRequest(group_id="billing", offsets=[offset]), timeout=5)
    yield f"http://127.0.0.1:{app.http_port}/"
    app.close()


def browser(directory: Path, *options: str) -> str:
    """What headless Chromium prints."""
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [require_tool("chromium"), *fixed, f"--user-data-dir={directory / 'profile'}", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def pixels(picture: Path) -> tuple[int, int, list[bytes]]:
    """(width, height, rows of RGB or RGBA) of a PNG with eight bits a channel."""
    data, place, packed, width, height, channels = picture.read_bytes(), 8, b"", 0, 0, 3
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", body[:10])
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += body
        place += length + 12
    raw, rows, size = zlib.decompress(packed), [], width * channels
    before = bytearray(size)
    for n in range(height):
        kind_of_filter, row = raw[n * (size + 1)], bytearray(raw[n * (size + 1) + 1 : (n + 1) * (size + 1)])
        for i in range(size):
            left = row[i - channels] if i >= channels else 0
            up, corner = before[i], before[i - channels] if i >= channels else 0
            if kind_of_filter == 1:
                add = left
            elif kind_of_filter == 2:
                add = up
            elif kind_of_filter == 3:
                add = (left + up) // 2
            elif kind_of_filter == 4:
                add = min((left, up, corner), key=lambda near, at=left + up - corner: abs(at - near))
            else:
                break
            row[i] = (row[i] + add) & 255
        rows.append(bytes(row))
        before = row
    return width, height, rows


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1280])
def test_it_is_drawn_in_the_colours_and_the_width_that_are_asked_for(
    url: str, theme: str, width: int, tmp_path: Path
) -> None:
    picture = tmp_path / "page.png"
    preferred = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    browser(tmp_path, preferred, f"--window-size={width},1000", f"--screenshot={picture}", url)
    PICTURES.mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, PICTURES / f"page-{theme}-{width}.png")
    found_width, _, rows = pixels(picture)
    assert found_width == width
    corner = sum(rows[2][:3])
    assert corner < 150 if theme == "dark" else corner > 600
    assert len(set(rows[30])) > 3, "there is something in the header"


def test_the_script_runs_within_its_policy_and_the_tables_are_there(url: str, tmp_path: Path) -> None:
    dumped = browser(tmp_path, "--dump-dom", "--enable-logging=stderr", url)
    assert 'id="pause" aria-pressed="false">' in dumped, "the script has shown its button"
    assert ">orders</a>" in dumped
    assert "<td>orders-1</td>" in dumped


def test_without_scripts_the_same_is_there(url: str) -> None:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    for part in ('aria-pressed="false" hidden', ">orders</a>", "<polyline", "Reload the page for new figures"):
        assert part in text


def test_a_screen_reader_finds_headings_tables_and_plots_by_name(url: str, tmp_path: Path) -> None:
    dumped = browser(tmp_path, "--dump-dom", url)
    for heading in ("Faults", "Now", "Topics", "Consumer groups"):
        assert f"<h2>{heading}</h2>" in dumped
    assert '<html lang="en">' in dumped
    assert dumped.count("<caption>") == dumped.count("<table>") == 2
    assert 'scope="col"' in dumped
    assert 'scope="row"' in dumped
    assert dumped.count('role="img" aria-label="') == dumped.count("<svg") == 3
    assert 'role="status"' in dumped
