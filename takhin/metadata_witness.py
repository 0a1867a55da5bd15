"""The witness: a small file beside the database that remembers how many commits were acknowledged.

SQLite ends its write-ahead log at the first frame whose checksum is wrong, as it must after a
power cut. One flipped bit would thus silently take back every later commit. The witness is
written after each commit, so a database that has seen fewer commits than it has lost some.

It is evidence when it can be read and nothing when it cannot: it is not flushed (a power cut
may leave an older number, which is only a weaker witness), and one that is missing, garbled or
about another database is ignored.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path

log = logging.getLogger(__name__)

_MAGIC = b"TKHWITN1"
#: magic, server_id (16 bytes), commits; then the CRC-32 of these.
_BODY = struct.Struct("<8s16sQ")
_CRC = struct.Struct("<I")


class Witness:
    """Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server_id = bytes(16)
        self._fd = -1
        self._silent = False

    def read(self, server_id: bytes) -> int:
        """How many commits it has seen of the database with this id; 0 when it does not know."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(_BODY.size + _CRC.size + 1)
        except OSError:
            return 0
        if len(data) != _BODY.size + _CRC.size:
            return 0
        (crc,) = _CRC.unpack_from(data, _BODY.size)
        magic, owner, commits = _BODY.unpack_from(data)
        if crc != zlib.crc32(data[: _BODY.size]) or magic != _MAGIC or owner != server_id:
            return 0
        return int(commits)

    def open(self, server_id: bytes, commits: int) -> None:
        """Begin to witness. Trouble with the file is logged, and no reason to stop."""
        self._server_id = server_id
        self._silent = False
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._fd, _BODY.size + _CRC.size)
        except OSError as error:
            self._complain(error)
        self.note(commits)

    def note(self, commits: int) -> None:
        """So many commits have been acknowledged. One small write, no flush."""
        if self._fd < 0:
            return
        body = _BODY.pack(_MAGIC, self._server_id, commits)
        try:
            os.pwrite(self._fd, body + _CRC.pack(zlib.crc32(body)), 0)
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """Idempotent."""
        if self._fd < 0:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._complain(error)
        os.close(self._fd)
        self._fd = -1

    def _complain(self, error: OSError) -> None:
        if not self._silent:
            self._silent = True
            log.warning("commit witness not written", extra={"fields": {"path": str(self.path), "cause": str(error)}})
