"""The output folder: one run holds it, and a stop signal leaves it whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tglo.files import locked
from tglo.train import processes


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run; ValueError on every rank if another run has it.

    The lock belongs to rank 0's process and ends with it, also after a kill.
    """
    with ExitStack() as stack:
        busy = (
            f"output folder {folder} is in use by another run; wait for it, stop it, "
            "or set output.folder to another folder"
        )
        processes.on_main(lambda: stack.enter_context(locked(folder / ".lock", busy)))
        yield


class StopSignal:
    """SIGTERM and SIGINT ask for a checkpoint after the step; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: the caller's own handling stays
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True
