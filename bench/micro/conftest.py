"""The memory settings of a server."""

from __future__ import annotations

from takhin import _wire
from takhin.server.options import KEPT_BUFFER_BYTES

_wire.keep_buffers(KEPT_BUFFER_BYTES)
