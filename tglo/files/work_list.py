"""Work that any number of processes share: each takes what is free, until all of it is done.

Processes may join late, leave, and be killed at any moment: what a lost one held is taken over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tglo.files.claims import Claims

TOLD_AFTER = 10.0  # seconds of waiting
POLL_SECONDS = (0.1, 2.0)  # at first, and at most

log = logging.getLogger("tglo")
Item = TypeVar("Item")


class Waiting:
    """Waits in growing steps, and says once what for, when that takes long."""

    def __init__(self) -> None:
        self._since, self._told, self._step = time.monotonic(), False, POLL_SECONDS[0]

    def on(self, what: str) -> None:
        """Wait a little for `what`."""
        if not self._told and time.monotonic() - self._since > TOLD_AFTER:
            self._told = True
            log.warning("waiting for %s; if it hangs, stop it, and this one continues", what)
        time.sleep(self._step)
        self._step = min(2 * self._step, POLL_SECONDS[1])


def passes(
    claims: Claims,
    items: Sequence[Item],
    name: Callable[[Item], str],
    is_done: Callable[[Item], bool],
) -> Iterator[Iterator[Item]]:
    """Yield passes over what is left, until all is done: iterators over the items that this process holds from then on.

    The caller goes through each pass to its end and releases each item; one of which `is_done` then says no is
    given out again. What others hold is waited for.
    """
    left, waiting = [*items], Waiting()
    while left:
        taken: list[Item] = []
        busy: list[Item] = []
        yield _free(claims, left, name, is_done, taken, busy)
        if busy and not taken:
            holder = claims.holder(name(busy[0]))
            waiting.on(f"{holder}, which is making {name(busy[0])} in {claims.folder}")
        else:
            waiting = Waiting()
        left = [*taken, *busy]


def _free(
    claims: Claims,
    left: Sequence[Item],
    name: Callable[[Item], str],
    is_done: Callable[[Item], bool],
    taken: list[Item],
    busy: list[Item],
) -> Iterator[Item]:
    for item in left:
        if is_done(item):
            continue
        if not claims.take(name(item)):
            busy.append(item)
        elif is_done(item):  # since the first look
            claims.release(name(item))
        else:
            taken.append(item)
            yield item


@contextmanager
def waited_for(claims: Claims, name: str) -> Iterator[None]:
    """Wait until a piece is free, and hold it inside the block."""
    waiting = Waiting()
    while not claims.take(name):
        waiting.on(f"{claims.holder(name)}, which holds {name} in {claims.folder}")
    try:
        yield
    finally:
        claims.release(name)


def stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is written anew or touched; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
