"""Compressed batches: written by a topic's codec, read back plain, bombs and garbage refused."""

from __future__ import annotations

import gzip

import pytest
from kafka.record import MemoryRecords

from takhin._fastlog import Batches, RecordSpans, batch_info
from takhin.storage import compression
from takhin.storage.compression import CODECS, DecompressionFailed, compress, decompress

RECORDS = [(b"key %d" % n, b"value " * 50, [("h", b"x")], 1_000 + n) for n in range(200)]


def framed(codec: str) -> bytes:
    return compress(RecordSpans.from_records(RECORDS).frame(1), codec).tobytes(700)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_records_come_back_from_a_compressed_batch(codec: str) -> None:
    raw = framed(codec)
    info = batch_info(raw)
    assert info is not None
    assert info.crc_ok
    assert info.attributes & 7 == CODECS[codec]
    assert len(raw) < 10_000
    records = decompress(Batches(raw, 750)).records()
    assert [record[0] for record in records] == list(range(750, 900))
    assert [(key, value) for _, _, key, value, _ in records] == [record[:2] for record in RECORDS[50:]]


def test_other_values_of_the_config_leave_the_batch_as_it_is() -> None:
    batch = RecordSpans.from_records(RECORDS).frame(1)
    assert compress(batch, "producer") is batch
    assert compress(batch, "uncompressed") is batch


def test_an_independent_reader_reads_what_was_compressed() -> None:
    batch = MemoryRecords(framed("gzip")).next_batch()
    assert batch.validate_crc()
    assert [record.value for record in batch] == [record[1] for record in RECORDS]


def test_plain_and_compressed_batches_in_one_read_keep_their_order() -> None:
    plain = RecordSpans.from_records(RECORDS[:3]).frame(1).tobytes(0)
    packed = compress(RecordSpans.from_records(RECORDS[3:6]).frame(1), "zstd").tobytes(3)
    records = decompress(Batches(plain + packed + plain.replace(plain[:8], (6).to_bytes(8, "big"), 1))).records()
    assert [record[0] for record in records] == list(range(9))


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_bomb_is_refused_within_the_limit(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED_BYTES", 1 << 20)
    bomb = compress(RecordSpans.from_records([(None, bytes(2 << 20), [], 1)]).frame(1), codec)
    with pytest.raises(DecompressionFailed, match="more than 1048576 bytes"):
        decompress(Batches(bomb.tobytes()))


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize(
    "block", [b"", b"garbage" * 20, b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x7f\xff\xff\xff"]
)
def test_garbage_is_refused_not_returned(codec: str, block: bytes) -> None:
    batch = RecordSpans.from_records(RECORDS).frame(1).compressed(CODECS[codec], block)
    try:
        records = decompress(Batches(batch.tobytes()))
    except DecompressionFailed:
        return
    assert records.size_bytes == 61  # an empty block may expand to nothing, never to records


def test_gzip_of_another_library_is_read() -> None:
    batch = RecordSpans.from_records(RECORDS).frame(1)
    packed = batch.compressed(CODECS["gzip"], gzip.compress(batch.records_bytes()))
    assert len(decompress(Batches(packed.tobytes())).records()) == len(RECORDS)
