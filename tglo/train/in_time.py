"""Calls into torch that may never return, as where another machine is cut off: waited for so long, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTimeError(Exception):
    """The call has not returned; its thread goes on waiting and ends with the process."""


def in_time(work: Callable[[], T], limit: float) -> T:
    """Return what `work` returns, or raise what it raises; NotInTimeError after `limit` seconds."""
    returned: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, name="in time", daemon=True)
    thread.start()
    thread.join(limit)
    if raised:
        raise raised[0]
    if not returned:
        raise NotInTimeError
    return returned[0]
