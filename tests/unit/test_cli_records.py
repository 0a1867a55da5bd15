"""The formats of records, in and out, and the places to start at."""

from __future__ import annotations

import io
import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from takhin.cli.position import Position, parse
from takhin.cli.record_input import InputError, InputRecord, read_jsonl, read_length_prefixed, read_lines, read_records
from takhin.cli.record_output import FORMATS, formatter
from takhin.client import ConsumedRecord

QUICK = settings(max_examples=200, deadline=None, database=None)

blobs = st.none() | st.binary(max_size=20) | st.text(max_size=10).map(str.encode)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
records = st.builds(
    ConsumedRecord,
    topic=st.just("t"),
    partition=st.integers(0, 3),
    offset=st.integers(0, 2**62),
    timestamp=st.integers(0, 2**62),
    key=blobs,
    value=blobs,
    headers=st.lists(st.tuples(texts, st.binary(max_size=5)), max_size=4).map(tuple),
)


def values(source: bytes, separator: bytes | None = None) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for record in read_lines(io.BytesIO(source), separator)]


def test_lines_keep_their_bytes_and_the_last_one_counts() -> None:
    assert values(b"a\r\n\n\xff\x00\nlast") == [(None, b"a\r"), (None, b""), (None, b"\xff\x00"), (None, b"last")]
    assert values(b"") == []
    assert values(b"\n") == [(None, b"")]


def test_a_key_ends_at_the_first_separator_and_must_be_there() -> None:
    assert values(b"k\tv\tw\n\tv\n", b"\t") == [(b"k", b"v\tw"), (b"", b"v")]
    with pytest.raises(InputError, match="line 2"):
        values(b"k\tv\nv\n", b"\t")


def test_length_prefixed_records_hold_any_bytes() -> None:
    source = b"\x00\x00\x00\x02\n\xff" + b"\x00\x00\x00\x00" + b"\xff\xff\xff\xff"
    assert [r.value for r in read_length_prefixed(io.BytesIO(source))] == [b"\n\xff", b"", None]


@pytest.mark.parametrize("source", [b"\x00\x00", b"\x00\x00\x00\x05abc", b"\xff\x00\x00\x00"])
def test_length_prefixed_input_that_is_cut_or_absurd_is_said(source: bytes) -> None:
    with pytest.raises(InputError, match="record 1"):
        list(read_length_prefixed(io.BytesIO(source)))


def test_json_lines_take_text_base64_null_headers_and_time() -> None:
    lines = [
        {"value": "v"},
        {"key": "k", "value": None},
        {"key_base64": "/w==", "value_base64": ""},
        {"value": "", "headers": {"a": "b", "c": {"base64": "/w=="}}, "timestamp": 5, "offset": 9},
        {"value": "", "headers": [["a", "1"], ["a", "2"]]},
    ]
    source = b"\n\n".join(json.dumps(line).encode() for line in lines)
    assert list(read_jsonl(io.BytesIO(source))) == [
        InputRecord(None, b"v"),
        InputRecord(b"k", None),
        InputRecord(b"\xff", b""),
        InputRecord(None, b"", (("a", b"b"), ("c", b"\xff")), 5),
        InputRecord(None, b"", (("a", b"1"), ("a", b"2"))),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"value": 5}',
        '{"value": "a", "value_base64": "YQ=="}',
        '{"value_base64": "?"}',
        '{"value": "a", "timestamp": -1}',
        '{"value": "a", "timestamp": "now"}',
        '{"value": "a", "timestamp": true}',
        '{"value": "a", "headers": "x"}',
        '{"value": "a", "headers": {"a": 1}}',
        '{"value": "a", "headers": {"a": {}}}',
        '{"value": "\\ud800"}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_json_that_is_not_a_record_is_said_with_its_line(line: str) -> None:
    with pytest.raises(InputError, match="line 2: "):
        list(read_jsonl(io.BytesIO(b'{"value": "ok"}\n' + line.encode("latin-1"))))


@QUICK
@given(st.lists(records, max_size=5))
def test_what_is_written_as_json_is_read_back(given_records: list[ConsumedRecord]) -> None:
    written = formatter("json", b"")(given_records)
    assert written.count(b"\n") == len(given_records)
    assert [tuple(r) for r in read_jsonl(io.BytesIO(written))] == [
        (r.key, r.value, r.headers, r.timestamp) for r in given_records
    ]


@QUICK
@given(st.lists(records, max_size=5))
def test_what_is_written_length_prefixed_is_read_back(given_records: list[ConsumedRecord]) -> None:
    written = formatter("length-prefixed", b"")(given_records)
    found = [r.value for r in read_records(io.BytesIO(written), "length-prefixed", None)]
    assert found == [r.value for r in given_records]


def test_the_plain_formats() -> None:
    given_records = [
        ConsumedRecord("t", 0, 1, 2, b"k", b"v\xff", ()),
        ConsumedRecord("t", 0, 2, 2, None, None, ()),
    ]
    written = {form: formatter(form, b"=")(given_records) for form in FORMATS}
    assert written["value"] == b"v\xff\n\n"
    assert written["key-value"] == b"k=v\xff\n=\n"
    assert written["raw"] == b"v\xff"
    first, second = (json.loads(line) for line in written["json"].splitlines())
    assert first == {"topic": "t", "partition": 0, "offset": 1, "timestamp": 2, "key": "k", "value_base64": "dv8="}
    assert second["value"] is None


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", Position("earliest")),
        ("latest", Position("latest")),
        ("0", Position("offset", 0)),
        ("42", Position("offset", 42)),
        ("42ms", Position("time", 42)),
        ("-1h", Position("time", NOW - 3_600_000)),
        ("-90s", Position("time", NOW - 90_000)),
        ("-99999w", Position("time", 0)),
        ("2023-11-14T22:13:20Z", Position("time", NOW)),
        ("2023-11-14T23:13:20.5+01:00", Position("time", NOW + 500)),
        ("2023-11-14", Position("time", int(datetime(2023, 11, 14).timestamp() * 1000))),
    ],
)
def test_a_place_to_start_at_is_understood(text: str, expected: Position) -> None:
    assert parse(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "-1", "-1y", "1h", "yesterday", "1969-01-01T00:00:00Z", "9" * 30, "١"])
def test_a_place_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text, NOW)
