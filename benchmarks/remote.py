"""Processes that are asked questions within a time limit: their memory is their own, and so is their end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from tglo.bench.record import attempt

NO_TIME = "no time left"


class Problem(Exception):
    """There is no answer: the process raised an error or ended, or no time is left."""


class Deadline:
    """The time left of a run, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class Remote:
    """A process that has made kind(*arguments). Problem if it could not, or not in the time left.

    fork: fork it from this one, which must not have looked at CUDA nor used PyTorch's threads. preload:
    modules that a server imports before it forks the process. Without either it starts afresh, with
    `environment` added to its own. threads: of PyTorch, by default its own choice.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        deadline: Deadline,
        threads: int = 0,
        fork: bool = False,
        preload: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not deadline.left():
            raise Problem(NO_TIME)
        method = "fork" if fork else "forkserver" if preload else "spawn"
        context: Any = multiprocessing.get_context(method)
        added = dict(environment or {})
        if preload:
            context.set_forkserver_preload(list(preload))
            # Python 3.11 does not give the server sys.path, and says nothing of imports that fail there.
            added["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._deadline = deadline
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, kind, arguments, threads), daemon=True
        )
        with _added(added):
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
            value, problem = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise Problem(f"the process ended with status {self._process.exitcode}") from None
        if problem:
            raise Problem(problem)
        return value

    def close(self) -> None:
        """End the process, by force if it is busy."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(2)
        self._process.terminate()
        self._process.join()
        self._connection.close()


def serve(
    connection: Connection, kind: Callable[..., Any], arguments: tuple[Any, ...], threads: int
) -> None:
    """Make kind(*arguments), then answer (method, *arguments) until None comes.

    An answer is what `attempt` returns; the first is about the making.
    """
    if threads:
        torch.set_num_threads(threads)
    served, problem = attempt(partial(kind, *arguments))
    connection.send((None, problem))
    while not problem and (question := connection.recv()) is not None:
        method, *rest = question
        connection.send(attempt(partial(getattr(served, method), *rest)))


@contextlib.contextmanager
def _added(environment: Mapping[str, str]) -> Any:
    """Add to the environment of the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
