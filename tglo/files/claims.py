"""Claims on pieces of work in a folder that processes of several machines share.

A claim is a file, `.NAME.claim`, made by exclusive creation, which shared file systems keep atomic where their
locks may not reach other machines. It says who holds it, and its holder renews its time. One is taken over where
its holder is dead, which is known at once on the same machine, or has given no sign for LOST_AFTER seconds.
Clocks of machines differ, so an observer looks only at whether the file changes, by its own clock.

A claim saves work, it does not make it right: a holder that was only asleep may wake up beside another. What
is made under a claim is therefore the same whoever makes it, and takes its place by a rename.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tglo.files.leftovers import DEAD_AFTER, MACHINE
from tglo.files.writing import disk_space

BEAT_SECONDS = 10.0
LOST_AFTER = 120.0

log = logging.getLogger("tglo")


def _place() -> str:
    """Name what process ids belong to: the running kernel, and the container in it."""
    try:
        return f"{MACHINE}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return MACHINE


class _Look(NamedTuple):
    content: bytes
    changed: int  # in nanoseconds, of whatever clock


class _Watched(NamedTuple):
    look: _Look
    at: float
    quiet: float  # seconds without a change, while it was looked at


class Claims:
    """The claims of one process in a folder; all are given back at the end of its block.

    place: where this process runs, see `_place`.
    """

    def __init__(self, folder: Path, place: str | None = None) -> None:
        self.folder = folder
        self._place = place or _place()
        self._content = json.dumps(
            {
                "host": socket.gethostname(),
                "place": self._place,
                "process": os.getpid(),
                "born": _birth(os.getpid()),
                "token": secrets.token_hex(8),
            }
        ).encode()
        self._held: set[str] = set()
        self._watched: dict[str, _Watched] = {}
        self._end = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._heart is not None:
            self._heart.join()
        for name in [*self._held]:
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim a piece of work; False if another process has it."""
        path = self._path(name)
        for _ in range(2):
            if self._create(path):
                self._watched.pop(name, None)
                self._held.add(name)
                self._start_beating()
                return True
            if path.is_dir() and not path.is_symlink():
                raise FileExistsError(
                    f"{path} is a folder, where tglo would make a claim on its work: remove it"
                )
            look = _look(path)
            if look is not None and not self._is_lost(name, look):
                return False
            if look is not None and look == _look(path):
                path.unlink(missing_ok=True)
        return False

    def release(self, name: str) -> None:
        """Give a piece back, unless another process has taken it over."""
        self._held.discard(name)
        if self.has(name):
            self._path(name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Say whether the claim is still this process's."""
        look = _look(self._path(name))
        return look is not None and look.content == self._content

    @contextmanager
    def trying(self, name: str) -> Iterator[bool]:
        """Hold a piece inside the block, or yield False if another process has it."""
        free = self.take(name)
        try:
            yield free
        finally:
            if free:
                self.release(name)

    def holder(self, name: str) -> str:
        """Say who has a piece, for people."""
        said = _said(_look(self._path(name)))
        return f"process {said['process']} on {said['host']}" if said else "another process"

    def others(self, prefix: str) -> list[str]:
        """Return the claims whose names begin so, of other processes that are not known to be dead."""
        found = []
        for path in self.folder.glob(f".{prefix}*.claim"):
            look = _look(path)
            if look is not None and look.content != self._content:
                old = time.time() - look.changed / 1e9 > DEAD_AFTER
                if old or self._is_dead(look):
                    path.unlink(missing_ok=True)
                else:
                    found.append(path.name[1 : -len(".claim")])
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f".{name}.claim"

    def _create(self, path: Path) -> bool:
        with disk_space(path):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            except FileNotFoundError:  # or removed by the process that was here last
                self.folder.mkdir(parents=True, exist_ok=True)
                return False
            try:
                os.write(handle, self._content)
            except OSError:  # an empty claim would say of nobody that he is dead
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)
        return True

    def _is_lost(self, name: str, look: _Look) -> bool:
        if self._is_dead(look):
            log.info("%s is taken over: %s has ended", name, self.holder(name))
            return True
        now, before = time.monotonic(), self._watched.get(name)
        quiet = 0.0
        if before is not None and before.look == look:
            # An observer that was itself held up, as by a disk that was away, has seen nothing meanwhile.
            quiet = before.quiet + min(now - before.at, BEAT_SECONDS)
        self._watched[name] = _Watched(look, now, quiet)
        if quiet <= LOST_AFTER:
            return False
        log.warning(
            "%s is taken over: %s has given no sign for %.0f s", name, self.holder(name), quiet
        )
        return True

    def _is_dead(self, look: _Look) -> bool:
        said = _said(look)
        if said is None or said["place"] != self._place:
            return False
        return _birth(said["process"]) not in (said["born"], "")

    def _start_beating(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="tglo-claims", daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            for name in [*self._held]:
                with suppress(
                    OSError
                ):  # the disk is away for a moment, or the claim was taken over
                    if self.has(name):
                        os.utime(self._path(name))


def _look(path: Path) -> _Look | None:
    """Read a claim; None if there is none. One that cannot be read, as another user's, shows only its time."""
    try:
        with open(path, "rb") as file:  # opening asks a shared disk for the present state
            return _Look(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except IsADirectoryError:
        return None
    except OSError:
        with suppress(OSError):
            return _Look(b"", os.lstat(path).st_mtime_ns)
        return None


def _said(look: _Look | None) -> dict[str, Any] | None:
    """Return what a claim says of its holder; None for one that is just being written."""
    try:
        said = json.loads(look.content) if look else {}
        known = {"host", "place", "process", "born"} <= {*said}
        return said if known and isinstance(said["process"], int) else None
    except (ValueError, TypeError):
        return None


def _birth(process: int) -> str | None:
    """Say when a process began, in the system's units; "" where that cannot be told, None if it is dead."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        pass
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]  # Z: dead, and not yet asked about
