"""``python -m bench.system.passes``: what the bytes of a consumer cost before any gRPC, by the passes made over them.

A log of half a GiB is read as the server reads it for a consumer, in responses of 1 MiB, which are copied once, as gRPC
does, and sent through a connection to another process, which takes them. No server, no gRPC, no client.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from takhin import _wire
from takhin._fastlog import BATCH_HEADER_BYTES, RecordSpans
from takhin._segment import SegmentFile
from takhin.server.consume import MAX_CHUNK_BYTES
from takhin.server.options import KEPT_BUFFER_BYTES
from takhin.server.pacing import unpace_loopback

from .processes import REPOSITORY
from .requests import STREAM_MESSAGES, value
from .rows import MIB

#: Records of a batch, bytes of a record.
SHAPES = ((256, 1024), (2000, 100))
PASSES = ("read and check", "write", "copy", "send")

_TAKE = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    taken = bytearray(32768)
    while peer.recv_into(taken):
        pass
"""


def fill(file: SegmentFile, records: int, size: int) -> tuple[int, int, int]:
    """What is there then: (bytes, offsets), and how many bytes are best read at once."""
    batch = RecordSpans.from_records([(None, value(size), [], 1)] * records).frame(1)
    position = offset = 0
    while position < STREAM_MESSAGES * MIB:
        file.append(batch, position, offset)
        position += batch.size
        offset += records
    file.flush()
    return position, offset, max(MAX_CHUNK_BYTES // batch.size, 1) * batch.size + BATCH_HEADER_BYTES


def measure(file: SegmentFile, end: int, end_offset: int, chunk_bytes: int, peer: socket.socket) -> dict[str, float]:
    """Microseconds a MiB of each pass."""
    spent = dict.fromkeys(PASSES, 0.0)
    copied = memoryview(bytearray(2 * MIB))
    position = offset = sent = 0
    clock = time.perf_counter
    chunk = None
    while position < end:
        began = clock()
        response = _wire.ConsumeResponse(b"topic", 0, end_offset, MIB, 0)
        spent["write"] += clock() - began
        more = True
        while more and (chunk is not None or position < end):
            began = clock()
            if chunk is None:
                chunk, _, position, _ = file.read(position, end, -1, offset, end_offset, chunk_bytes)
                assert chunk is not None
            read = clock()
            more = response.add(chunk)
            offset = chunk.next_offset
            if more:
                chunk = None
            spent["read and check"] += read - began
            spent["write"] += clock() - read
        began = clock()
        message = response.finish(end_offset, 0)
        finished = clock()
        copied[: len(message)] = message
        copy = clock()
        peer.sendall(copied[: len(message)])
        spent["write"] += finished - began
        spent["copy"] += copy - finished
        spent["send"] += clock() - copy
        sent += len(message)
    return {name: 1e6 * seconds * MIB / sent for name, seconds in spent.items()}


def main() -> None:
    _wire.keep_buffers(KEPT_BUFFER_BYTES)
    data = REPOSITORY / "build" / "bench"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data) as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        unpace_loopback(port)
        with subprocess.Popen([sys.executable, "-c", _TAKE, str(port)]) as taker:
            peer, _ = listener.accept()
            with peer:
                for records, size in SHAPES:
                    file = SegmentFile(str(Path(directory) / f"{size}.log"), create=True)
                    found = measure(file, *fill(file, records, size), peer)
                    parts = ", ".join(f"{name} {us:.0f}" for name, us in found.items())
                    print(f"records of {size} B, microseconds a MiB: {parts}; together {sum(found.values()):.0f}")
            taker.wait()


if __name__ == "__main__":
    main()
