"""Locks on the shards of a folder, so that several commands share the work on it.

They are ranges of one empty file, .lock: the system frees them when a process ends, also by a kill.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tglo.files import disk_space

_KINDS = ("text", "latents", "errors")
_STRIDE = 10**8  # more than the shards of a kind
TOLD_AFTER = 10.0  # seconds of waiting
_POLL_SECONDS = 0.1
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


log = logging.getLogger("tglo")


class Waiting:
    """Says once what is waited for, when that takes long."""

    def __init__(self) -> None:
        self._since, self._told = time.monotonic(), False

    def on(self, what: str) -> None:
        """Note that `what` is still waited for."""
        if not self._told and time.monotonic() - self._since > TOLD_AFTER:
            self._told = True
            log.warning("waiting for %s; if it hangs, stop it, and this one goes on", what)


class Locks:
    """The locks of one process on a folder; on a disk without locks every one is free."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        with disk_space(self._path):
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    @contextmanager
    def trying(self, kind: str, number: int) -> Iterator[bool]:
        """Hold a shard's lock inside the block, or yield False if another process has it."""
        place = 1 + _KINDS.index(kind) * _STRIDE + number
        if not self._take(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield False
            return
        try:
            yield True
        finally:
            self._take(place, fcntl.LOCK_UN)

    @contextmanager
    def folder(self) -> Iterator[None]:
        """Wait for the lock of what belongs to the whole folder, and hold it inside the block."""
        waiting = Waiting()
        while not self._take(0, fcntl.LOCK_EX | fcntl.LOCK_NB):
            waiting.on(f"another command, which holds {self._path}")
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self._take(0, fcntl.LOCK_UN)

    def _take(self, place: int, how: int) -> bool:
        try:
            fcntl.lockf(self._handle, how, 1, place)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _UNSUPPORTED:
                raise
        return True
