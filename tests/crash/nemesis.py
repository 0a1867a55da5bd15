"""What is done to the server: killed, stopped and continued, terminated, killed while it recovers."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .victim import Victim
from .worker import Run

#: Left alone for so long now and then, so that progress can be asked for; seconds.
QUIET_S = 5.6


@dataclass(slots=True)
class Tally:
    #: By what was done.
    faults: Counter[str] = field(default_factory=Counter)
    #: Seconds from the start of the process to the first answer that it serves, after a kill.
    recoveries: list[float] = field(default_factory=list)
    #: Seconds that a stop took.
    stops: list[float] = field(default_factory=list)


class Nemesis(threading.Thread):
    """Leaves the server running when it ends."""

    def __init__(self, run: Run, victim: Victim, end: float) -> None:
        """``end`` is a ``time.monotonic``."""
        super().__init__(name="nemesis", daemon=True)
        self.tally = Tally()
        self.problem: BaseException | None = None
        self._run, self._victim, self._end = run, victim, end
        self._history = run.history
        self._random = run.random("nemesis")
        self._plan: list[Callable[[], None]] = []

    def run(self) -> None:
        try:
            n = 0
            while (left := self._end - time.monotonic()) > 0:
                n += 1
                gap = QUIET_S if n % 6 == 0 else self._random.uniform(0.2, 2.5)
                time.sleep(min(gap, left))
                if not self._victim.alive:
                    code = self._victim.process.returncode if self._victim.process else None
                    self._history.note("unexpected", text=f"the server ended by itself, with code {code}")
                    self._start_again("unexpected")
                if gap < left:
                    self._choose()()
        except BaseException as problem:
            self.problem = problem
            self._history.note("unexpected", text=f"the server did not come back: {problem}")

    def _choose(self) -> Callable[[], None]:
        """Everything in turn, in an order that changes: so that no run goes without a kill."""
        if not self._plan:
            more = [self.kill, self.kill_in_recovery, self.pause, self.pause, self.terminate, self.kill_paused]
            self._random.shuffle(more)
            self._plan = [self.kill, self.kill_in_recovery, *more]
        return self._plan.pop(0)

    def kill(self) -> None:
        self._begin("kill")
        self._end_process()
        self._start_again("kill")

    def kill_in_recovery(self) -> None:
        """Some times in a row: within the first 200 ms of the start, or at any time until it serves."""
        self._begin("kill")
        self._end_process()
        for _ in range(self._random.randrange(1, 4)):
            limit = 0.2 if self._random.random() < 0.4 else max(self.tally.recoveries[-5:], default=1.0)
            self._victim.launch()
            time.sleep(self._random.uniform(0, limit))
            self._begin("kill in recovery")
            self._end_process()
        self._start_again("kill in recovery")

    def pause(self) -> None:
        self._begin("pause")
        self._victim.signal(signal.SIGSTOP)
        time.sleep(self._random.choice((0.1, 0.5, 1.5, 3.0)))
        self._victim.signal(signal.SIGCONT)
        self._history.note("healed", what="pause")

    def kill_paused(self) -> None:
        self._begin("kill")
        self._victim.signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.05, 1.0))
        self._end_process()
        self._start_again("kill")

    def terminate(self) -> None:
        self._begin("terminate")
        code, seconds = self._victim.terminate()
        self._history.note("down")
        self._history.note("exit", code=code, seconds=round(seconds, 3))
        self.tally.stops.append(seconds)
        self._start_again("terminate")

    def _begin(self, what: str) -> None:
        self.tally.faults[what] += 1
        self._history.note("fault", what=what)

    def _end_process(self) -> None:
        self._victim.kill()
        self._history.note("down")

    def _start_again(self, what: str) -> None:
        seconds = self._victim.start()
        if what != "terminate":
            self.tally.recoveries.append(seconds)
        self._run.answered.clear()
        self._history.note("healed", what=what, seconds=round(seconds, 3))
