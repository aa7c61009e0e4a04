"""SIGTERM as an exception, so that what was begun is cleaned up before the process ends; and the status of a
process that would do well if it were started again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_ONE_SIGNAL_SECONDS = 10.0
RESTART = 138
"""The status where a machine or its network failed, not the run. Kubeflow's operator takes it for "start again";
so does whoever asks for the status of a process that SIGUSR1 has ended before it could save anything."""
RESTART_FILE = "TGLO_RESTART_FILE"


class Lost(RuntimeError):
    """Other processes of the run ended or cannot be reached; this one may be started again."""

    status = RESTART


def ask_for_restart() -> None:
    """Make the file that a launch file has named: launchers end with a status of their own."""
    if name := os.environ.get(RESTART_FILE):
        with suppress(OSError):
            Path(name).touch()


def write_at_once(text: bytes) -> None:
    """Write to standard error in one piece and past Python's buffers, as a process that is about to end must."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text)


class Stopped(SystemExit):
    """A scheduler asked the process to end; uncaught it ends with status 143, as the shell has it."""

    def __init__(self, by: str = "SIGTERM") -> None:
        self.by, self.status = by, 128 + signal.SIGTERM
        super().__init__(self.status)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise Stopped in the main thread when SIGTERM comes.

    Launcher and scheduler may both send one: a second one soon after the first does not interrupt
    the clean-up. A later one does, in case a library has swallowed the exception. An error that
    leaves the block after that is taken for the stop's own: Stopped is raised from it.
    """
    last = never = -float("inf")

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _ONE_SIGNAL_SECONDS:
            last = now
            raise Stopped

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller's own handling stays
        yield
        return
    try:
        yield
    except Stopped:
        before = signal.SIG_IGN  # the process is about to end by itself
        raise
    except BaseException as error:
        if last == never:
            raise
        before = signal.SIG_IGN
        raise Stopped from error
    finally:
        signal.signal(signal.SIGTERM, before)
