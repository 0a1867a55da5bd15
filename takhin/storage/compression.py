"""Kafka's codecs: the records of a batch as one compressed block.

The header of a batch is never compressed, so offsets, times, sequences and the CRC (which sums the
compressed bytes) need no codec. Formats: gzip; snappy in the framing of the Java library that
Kafka uses (xerial); lz4 frames with independent blocks; zstd frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import cramjam

from .._fastlog import BATCH_HEADER_BYTES, Batches, RecordBatch, batch_info, batch_with_records

#: By the number in a batch's attributes.
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

#: What the records of one batch may take when they are decompressed: more is taken for a bomb.
MAX_DECOMPRESSED_BYTES = 128 << 20

_MASK = 7
_XERIAL_HEADER = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 << 10


class DecompressionFailed(Exception):
    """The block is not what its codec says, or larger than ``MAX_DECOMPRESSED_BYTES``."""


def compress(batch: RecordBatch, compression_type: str) -> RecordBatch:
    """The batch in the codec that a topic's ``compression.type`` names; as it is for other values."""
    codec = CODECS.get(compression_type)
    if codec is None:
        return batch
    return batch.compressed(codec, _COMPRESS[codec](batch.records_bytes()))


def decompress(batches: Batches) -> Batches:
    """The same records at the same place, in batches that are not compressed. CRCs are not made anew.

    Ends before a batch that cannot be decompressed. Raises ``DecompressionFailed`` when that is the first.
    """
    data, position = batches.tobytes(), 0
    out: list[bytes] = []
    while (info := batch_info(data, position)) is not None:
        batch = data[position : position + info.size]
        codec = info.attributes & _MASK
        if codec:
            try:
                batch = batch_with_records(batch, _expand(codec, batch[BATCH_HEADER_BYTES:]))
            except DecompressionFailed:
                if not out:
                    raise
                break
        out.append(batch)
        position += info.size
    return Batches(b"".join(out), batches.next_offset, batches.end_offset)


def _expand(codec: int, block: bytes) -> bytes:
    if codec == CODECS["snappy"]:
        return _expand_snappy(block)
    into = {1: cramjam.gzip.decompress_into, 3: cramjam.lz4.decompress_into, 4: cramjam.zstd.decompress_into}.get(codec)
    if into is None:
        raise DecompressionFailed(f"codec {codec} is not known")
    # The sizes that the formats themselves give cannot be believed: try, and double.
    size = max(4 * len(block), 1 << 16)
    while True:
        size = min(size, MAX_DECOMPRESSED_BYTES)
        out = bytearray(size)
        try:
            return bytes(memoryview(out)[: into(block, out)])
        except cramjam.DecompressionError as problem:
            if "write whole buffer" not in str(problem):
                raise DecompressionFailed(str(problem)) from None
            if size == MAX_DECOMPRESSED_BYTES:
                raise DecompressionFailed(f"it takes more than {MAX_DECOMPRESSED_BYTES} bytes") from None
        size *= 2


def _expand_snappy(block: bytes) -> bytes:
    """Xerial's framing, or one plain block, as some clients write it."""
    if not block.startswith(_XERIAL_HEADER[:8]):
        return _expand_snappy_block(block, MAX_DECOMPRESSED_BYTES)
    out, position, left = [], len(_XERIAL_HEADER), MAX_DECOMPRESSED_BYTES
    while position < len(block):
        if position + 4 > len(block):
            raise DecompressionFailed("it is cut")
        (size,) = struct.unpack_from(">i", block, position)
        position += 4
        if size < 0 or position + size > len(block):
            raise DecompressionFailed("it is cut")
        out.append(_expand_snappy_block(block[position : position + size], left))
        left -= len(out[-1])
        position += size
    return b"".join(out)


def _expand_snappy_block(block: bytes, limit: int) -> bytes:
    try:
        if cramjam.snappy.decompress_raw_len(block) > limit:
            raise DecompressionFailed(f"it takes more than {MAX_DECOMPRESSED_BYTES} bytes")
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as problem:
        raise DecompressionFailed(str(problem)) from None


def _compress_snappy(records: bytes) -> bytes:
    parts = [_XERIAL_HEADER]
    for start in range(0, len(records), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(records[start : start + _XERIAL_BLOCK_BYTES]))
        parts += [struct.pack(">i", len(block)), block]
    return b"".join(parts)


def _compress_lz4(records: bytes) -> bytes:
    compressor = cramjam.lz4.Compressor(block_linked=False)
    compressor.compress(records)
    return bytes(compressor.finish())


_COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    1: lambda records: bytes(cramjam.gzip.compress(records)),
    2: _compress_snappy,
    3: _compress_lz4,
    4: lambda records: bytes(cramjam.zstd.compress(records)),
}
