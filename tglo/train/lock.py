"""The output folder: one run holds it, and a stop signal leaves it whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tglo.files import locked, remove_leftovers
from tglo.stopping import Stopped
from tglo.train import processes
from tglo.train.checkpoint_draft import remove_unfinished
from tglo.train.earlier import CHECKPOINTS, SAMPLES
from tglo.train.same_ranks import refuse_unshared


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run; ValueError on every rank if another run has it, or a rank does not see it.

    The lock belongs to rank 0's process and ends with it, also after a kill. What earlier processes
    left half-written is removed.
    """
    with ExitStack() as stack:
        busy = (
            f"output folder {folder} is in use by another run; wait for it, stop it, "
            "or set output.folder to another folder"
        )
        processes.on_main(lambda: stack.enter_context(locked(folder / ".lock", busy)))
        processes.on_main(lambda: _tidy(folder))
        refuse_unshared(folder)
        yield


def _tidy(folder: Path) -> None:
    for place in (folder, folder / CHECKPOINTS, folder / SAMPLES):
        remove_leftovers(place)
    remove_unfinished(folder / CHECKPOINTS)


class StopSignal:
    """SIGTERM, SIGUSR1 and SIGINT ask for a checkpoint after the step; a second SIGINT interrupts.

    Until `defer` is called there is nothing to save: they end the run at once, as they would have
    without this, but SIGTERM and SIGUSR1 by an exception (tglo.stopping.Stopped).
    """

    def __init__(self) -> None:
        self.asked = False
        self.number: int | None = None
        """The signal that asked."""
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: the caller's own handling stays
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on let the step and its checkpoint come first."""
        self._deferring = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring:
            before = self._before.get(number)
            if callable(before):
                before(number, frame)
            elif before != signal.SIG_IGN:
                raise Stopped(signal.Signals(number).name)
        elif number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        else:
            self.asked, self.number = True, number
