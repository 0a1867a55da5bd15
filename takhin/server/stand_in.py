"""Work on gRPC's serving thread, and who serves while that is held up.

What is short is soonest done where it arrives. But an append may meet a disk that does not answer, and with the
serving thread everything else would wait for it, health checks too. So such work is watched: when one piece of it
takes longer than ``WATCH_SECONDS``, the watch serves in the thread's place until that is back, and for
some times as long such work goes to other threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ..observe.logging import incident
from .senders import Senders

log = logging.getLogger(__name__)

#: Seconds between two looks.
WATCH_SECONDS = 0.02
#: No such work for this many times as long as the last piece took, and no longer than that many seconds.
PAUSE_TIMES = 5
MAX_PAUSE_SECONDS = 5.0
#: Seconds after which the watch looks whether the serving thread is back, if nothing else happens.
_POLL_SECONDS = 0.1


class StandIn:
    """``enter`` and ``leave`` are for the threads that serve, everything else for any."""

    def __init__(self, held_up: Callable[[], None], senders: Senders) -> None:
        """``held_up`` is told each time that the serving thread is."""
        self._held_up = held_up
        self._senders = senders
        self._state: Any = None
        #: Pieces of work that were begun; and whether the last of them is still being done.
        self._begun = 0
        self._busy = False
        self._not_before = 0.0
        self._asleep = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        #: The server's last event was served here.
        self._served_last = False
        self._thread = threading.Thread(target=self._watch, name="takhin-stand-in", daemon=True)

    def start(self, server: grpc.Server) -> None:
        """Until then, and where grpcio is not as it is known here, nothing may be done on the serving thread."""
        state = getattr(server, "_state", None)
        if all(hasattr(state, name) for name in ("completion_queue", "lock", "rpc_states", "due")):
            self._state = state
            self._thread.start()

    def stop(self, wait_seconds: float) -> None:
        """After the server's stop."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(wait_seconds)

    def enter(self) -> bool:
        """Whether work may be done here and now that may be held up; then ``leave`` follows it."""
        # Of the threads that serve, one at most gets beyond: while another is at such work, or lately was for too long,
        # the answer is no.
        if self._busy or self._state is None or time.monotonic() < self._not_before:
            return False
        self._begun += 1
        self._busy = True
        if self._asleep:
            self._asleep = False
            self._wake.set()
        self._senders.keep()
        return True

    def leave(self) -> None:
        self._senders.run_kept()
        self._busy = False
        if self._served_last:
            # The server has ended meanwhile: this thread would poll for ever.
            raise SystemExit

    # -- the watch ---------------------------------------------------------------------------

    def _watch(self) -> None:
        seen = -1
        while not self._stopping.is_set():
            if self._begun == seen and not self._busy:
                self._sleep(seen)
            elif self._begun == seen:
                self._serve(seen)
            seen = self._begun
            self._stopping.wait(WATCH_SECONDS)

    def _sleep(self, seen: int) -> None:
        self._wake.clear()
        self._asleep = True
        # What began before it was said is seen here, what begins after it sets the event.
        if self._begun == seen and not self._stopping.is_set():
            self._wake.wait()
        self._asleep = False

    def _serve(self, held_up: int) -> None:
        """As grpcio's own loop, while that is within the same piece of work."""
        self._held_up()
        began = time.monotonic() - WATCH_SECONDS
        self._not_before = float("inf")
        try:
            while self._busy and self._begun == held_up and not self._stopping.is_set():
                event = self._state.completion_queue.poll(time.time() + _POLL_SECONDS)
                if event.completion_type == cygrpc.CompletionType.queue_timeout:
                    continue
                if not _server._process_event_and_continue(self._state, event):
                    self._served_last = True
                    return
                # As grpcio has it: an event must not keep its call while there is a wait for the next.
                event = None
        except Exception as exc:
            incident(log, exc, part="stand-in")
        finally:
            now = time.monotonic()
            self._not_before = now + min(PAUSE_TIMES * (now - began), MAX_PAUSE_SECONDS)
