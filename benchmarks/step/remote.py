"""Asking a process questions, with a time limit: its memory is its own, and so is its end."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from benchmarks.step.worker import serve

NO_TIME = "no time left"


class Problem(Exception):
    """Why there is no answer: what the process raised, its end, or no time left."""


class Deadline:
    """Seconds left of a run."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class Remote:
    """A process that has made kind(*arguments). Problem if it could not, or in the time left."""

    def __init__(
        self,
        kind: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        deadline: Deadline,
        threads: int,
        fork: bool,
    ) -> None:
        if not deadline.left():
            raise Problem(NO_TIME)
        context: Any = multiprocessing.get_context("forkserver" if fork else "spawn")
        if fork:
            context.set_forkserver_preload(["benchmarks.step.worker"])
        self._deadline = deadline
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, kind, arguments, threads), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except Problem:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method there. Problem if it raised, the process died, or the time is over."""
        return self._answer((method, *arguments))

    def _answer(self, question: tuple[Any, ...] = ()) -> Any:
        try:
            if question:
                self._connection.send(question)
            if not self._connection.poll(self._deadline.left()):
                raise Problem(NO_TIME)
            answered, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise Problem(f"the process ended with status {self._process.exitcode}") from None
        if not answered:
            raise Problem(value)
        return value

    def close(self) -> None:
        """End the process, by force if it is busy."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(2)
        self._process.terminate()
        self._process.join()
        self._connection.close()
