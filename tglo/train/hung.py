"""The end of a step that hangs: each rank's stacks, one line, and a status that asks for a restart."""

from __future__ import annotations

import faulthandler
import os
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable

from tglo.stopping import RESTART, ask_for_restart, write_at_once
from tglo.train import processes
from tglo.train.config import EngineConfig

RECENT = 32
"""Steps whose median counts."""
KNOWN = 3
"""Steps before there is a limit: the first ones compile, and nothing says how long that takes."""


class HungStep:
    """A thread that watches the steps of this rank and ends the process when one takes too long.

    The limit is engine.hung_after times the median of recent steps, but not below engine.hung_seconds.
    Only steps are watched: validation, checkpoints and export take as long as they take. Time in which
    the process itself is stopped (Ctrl-Z, a scheduler that suspends jobs) does not count.
    """

    def __init__(self, config: EngineConfig, end: Callable[[int], None] = os._exit) -> None:
        self._factor, self._floor, self._end = config.hung_after, config.hung_seconds, end
        self._took: deque[float] = deque(maxlen=RECENT)
        self._step, self._start, self._spent, self._limit = 0, 0.0, 0.0, 0.0
        self._changed = threading.Condition()
        self._running = False
        self._tick = min(1.0, self._floor / 10)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> HungStep:
        if self._factor:
            self._running = True
            self._thread = threading.Thread(target=self._watch, name="hung steps", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            with self._changed:
                self._running = False
                self._changed.notify()
            self._thread.join()

    def begin(self, number: int) -> None:
        """Watch from now, the start of step `number` (from 1)."""
        self._start = time.monotonic()
        with self._changed:
            self._step, self._spent, self._limit = number, 0.0, self.limit()
            if self._limit:
                self._changed.notify()

    def finish(self) -> None:
        """Watch no more: the step is done."""
        with self._changed:
            self._limit = 0.0
        self._took.append(time.monotonic() - self._start)

    def limit(self) -> float:
        """Return the seconds that the next step may take; 0: any number."""
        if not self._factor or len(self._took) < KNOWN:
            return 0.0
        return max(self._floor, self._factor * statistics.median(self._took))

    def _watch(self) -> None:
        last = time.monotonic()
        with self._changed:
            while self._running:
                self._changed.wait(self._tick if self._limit else None)
                now = time.monotonic()
                if self._limit:
                    self._spent += min(now - last, 2 * self._tick)
                    if self._spent > self._limit:
                        break
                last = now
            else:
                return
        self._give_up()

    def _give_up(self) -> None:
        rank, count = processes.rank(), processes.world_size()
        _print_stacks(rank)
        # Meanwhile the others, whose limits are nearly the same, print theirs: when this one has ended, an error
        # of the transport ends them.
        until = time.monotonic() + (wait := min(30.0, self._limit / 5))
        lost, failed = processes.lost_peers("a step hangs", wait)
        time.sleep(max(0.0, until - time.monotonic()))
        status = 1 if failed else RESTART
        where = lost or (
            "its stacks are above: where all others wait in a collective (all_reduce, gather, barrier), the "
            "rank that does not is the one to look at"
        )
        line = (
            f"tglo: rank {rank} of {count}: step {self._step} has taken {self._spent:.3g} s, and the median "
            f"of recent steps is {statistics.median(self._took):.3g} s (engine.hung_after = {self._factor:g}, "
            f"engine.hung_seconds = {self._floor:g}); {where}. The process ends with status {status}; "
            "the same command resumes from the last checkpoint\n"
        )
        write_at_once(line.encode())
        if not failed:
            ask_for_restart()
        self._end(status)


def _print_stacks(rank: int) -> None:
    """Write the stacks of all threads to standard error in one piece, each line with its rank."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
    text = b"".join(b"[rank %d] %s" % (rank, line) for line in lines)
    write_at_once(text)
