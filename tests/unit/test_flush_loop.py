"""The loop that flushes files: what each flush covers and who is told. The one in Python, which other tests use, does
as it does."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from takhin._os import FlushLoop
from takhin._segment import SegmentFile
from tests.reference.flush_loop import PythonFlushLoop

from .storage_tools import wait_until

Loop = Any
AGES_S = 1000.0


@pytest.fixture(params=[FlushLoop, PythonFlushLoop])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def file(tmp_path: Path) -> SegmentFile:
    return SegmentFile(str(tmp_path / "0.log"), create=True)


def asked(kind: Any, file: SegmentFile) -> Any:
    loop = kind()
    assert loop.ask("who", file, 1)
    return loop


def test_what_was_asked_for_is_flushed_and_told_of_once(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    assert (loop.has_news, loop.tell(), loop.is_done) == (False, {}, False)
    assert loop.run(0.0, AGES_S)
    assert (loop.has_news, loop.tell()) == (True, {"who": 1})
    assert (loop.has_news, loop.tell()) == (False, {})
    flushes, seconds = loop.take_times()
    assert (flushes, loop.take_times()) == (1, (0, 0.0))
    assert seconds > 0


def test_there_is_one_flush_for_all_that_was_asked_for_meanwhile(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    assert all(loop.ask("who", file, n) for n in range(2, 10))
    assert loop.run(0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 9}, 1)
    loop.ask("who", file, 10)
    assert loop.run(0.0, AGES_S)
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 10}, 1)


def test_files_are_flushed_side_by_side_and_each_once(kind: Any, tmp_path: Path) -> None:
    files = [SegmentFile(str(tmp_path / f"{n}.log"), create=True) for n in range(100)]
    loop: Loop = kind()
    for goal in range(3):
        assert all(loop.ask(n, file, goal) for n, file in enumerate(files))
    told: dict[int, int] = {}
    while len(told) < 100 or loop.take_times()[0]:
        loop.close()
        assert loop.run(0.0, AGES_S) or loop.is_done
        told |= loop.tell()
    assert told == dict.fromkeys(range(100), 2)
    assert loop.is_done


def test_no_more_wait_than_there_is_room_for(kind: Any, file: SegmentFile) -> None:
    loop: Loop = kind()
    assert all(loop.ask("who", file, n) for n in range(4096))
    assert not loop.ask("who", file, 4096)
    assert loop.run(0.0, AGES_S)
    assert not loop.ask("who", file, 4096), "what is not told of takes its place"
    assert (loop.tell(), loop.take_times()[0]) == ({"who": 4095}, 1)
    assert loop.ask("who", file, 4096)


def test_after_a_flush_of_several_the_next_waits_for_company(kind: Any) -> None:
    """In memory, where a flush itself takes no time."""
    waited = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        files = [SegmentFile(f"{directory}/{n}.log", create=True) for n in range(16)]
        for several in (1, 5, 16):
            took = []
            for _ in range(20):
                loop: Loop = kind()
                assert all(loop.ask(n, file, 0) for n, file in enumerate(files[:several]))
                assert loop.run(0.0, AGES_S)
                loop.tell()
                # Sixteen are company enough.
                assert all(loop.ask(n, file, 1) for n, file in enumerate(files[: 16 if several == 16 else 1]))
                began = time.monotonic()
                assert loop.run(0.0, AGES_S)
                took.append(time.monotonic() - began)
            waited[several] = sorted(took)[10]
    assert waited[5] >= 0.0002
    assert min(waited[1], waited[16]) < 0.0002


def test_it_waits_for_somebody_to_tell_before_it_comes_back_for_that(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    began = time.monotonic()
    assert loop.run(0.1, AGES_S)
    assert 0.1 <= time.monotonic() - began < 5
    # The next flush does not wait for that.
    loop.ask("who", file, 2)
    came_back = threading.Thread(target=loop.run, args=(0.3, 0.2), daemon=True)
    came_back.start()
    wait_until(lambda: loop.tell() == {"who": 2})
    came_back.join(20)
    assert not came_back.is_alive(), "told of, and idle"
    assert not loop.has_news


def test_it_goes_on_while_something_is_asked_for_and_comes_back_when_nothing_was(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(loop.run(1.0, 0.3)), daemon=True)
    thread.start()
    for n in range(2, 6):
        wait_until(lambda n=n: loop.tell() == {"who": n - 1})
        assert loop.ask("who", file, n)
    wait_until(lambda: loop.tell() == {"who": 5})
    assert not results
    thread.join(20)
    assert results == [False]
    assert not loop.is_done, "it may be asked for more until it is closed"


def test_closed_it_flushes_what_was_asked_for_and_takes_no_more(kind: Any, file: SegmentFile) -> None:
    loop: Loop = asked(kind, file)
    loop.close()
    assert not loop.ask("who", file, 2)
    assert loop.run(AGES_S, AGES_S), "nobody is waited for"
    assert not loop.is_done
    assert loop.tell() == {"who": 1}
    assert loop.is_done
    assert not loop.run(AGES_S, AGES_S)


@pytest.mark.parametrize("news", ["ask", "close", "idle"])
def test_a_thread_that_has_nothing_to_do_hears_of_news(kind: Any, file: SegmentFile, news: str) -> None:
    loop: Loop = asked(kind, file)
    assert loop.run(0.0, AGES_S)
    loop.tell()
    results: list[bool] = []
    idle_s = 0.05 if news == "idle" else AGES_S
    thread = threading.Thread(target=lambda: results.append(loop.run(0.0, idle_s)), daemon=True)
    thread.start()
    time.sleep(0.02)
    if news == "ask":
        loop.ask("who", file, 2)
    elif news == "close":
        loop.close()
    thread.join(20)
    assert results == [news == "ask"]


@pytest.mark.parametrize("others", [0, 3])
def test_a_flush_that_fails_is_an_error_and_nothing_is_told_of(tmp_path: Path, others: int) -> None:
    class Closed:
        fd = -1
        path = "gone"

    loop: FlushLoop[int, int] = FlushLoop()
    for n in range(others):
        loop.ask(n, SegmentFile(str(tmp_path / f"{n}.log"), create=True), 1)
    loop.ask(-1, Closed(), 1)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="gone"):
        loop.run(0.0, AGES_S)
    assert (loop.has_news, loop.tell()) == (False, {})
    with pytest.raises(TypeError):
        loop.ask(0, None, 1)  # type: ignore[arg-type]
