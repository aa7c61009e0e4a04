"""Temporary files and folders beside their final place, and what a kill leaves of them.

Each is named `.NAME.MACHINE-TOKEN.tmp` and locked by the process that fills it; the lock ends with
that process. Whoever fills a folder for the same name next, or claims the folder that it lies in,
removes what dead processes left. On a shared disk the lock of another machine may not be seen, so what
another machine made (or this one before it was started again) goes only when nothing in it has changed
for a day, by the disk's clock.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tglo.files.disk_clock import disk_time

DEAD_AFTER = 24 * 3600.0  # seconds without a change, where locks cannot be asked
_NAME = re.compile(r"\.(?:([0-9a-f]{8})-)?[0-9a-f]{16}\.tmp$")  # earlier ones name no machine


def _machine() -> str:
    """Name the running kernel: within it, locks are seen by all processes, those in containers too."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        identity = socket.gethostname()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


MACHINE = _machine()


@contextmanager
def temporary_folder(path: Path, new: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `path`, removed at the end unless it was renamed; leftovers of earlier
    ones for that name are removed first, unless the name is new.
    """
    if not new:
        remove_leftovers(path.parent, path.name)
    folder, handle = _make(path, Path.mkdir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield a new file beside `path`, removed at the end unless it was renamed."""
    file, handle = _make(path, lambda new: new.touch(exist_ok=False))
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders in `folder` (those for `name` alone, if given) of dead
    processes.
    """
    pattern = "*" if name is None else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*.tmp"):
        if _NAME.search(leftover.name) and not leftover.is_symlink():
            with suppress(OSError):  # another process is removing it
                _remove_if_dead(leftover)


def _make(path: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        made = path.with_name(f".{path.name}.{MACHINE}-{secrets.token_hex(8)}.tmp")
        try:
            create(made)
            # Between these lines another process may take it for a leftover, lock it and remove it.
            with suppress(FileNotFoundError):
                handle = os.open(made, os.O_RDONLY)
                if lock(handle) is not False and made.exists():
                    return made, handle
                os.close(handle)
        except BaseException as error:  # a signal, too
            _remove(made)
            if isinstance(error, OSError) and error.filename == os.fspath(made):
                error.filename = os.fspath(path)  # what the caller was asked to write
            raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def lock(handle: int) -> bool | None:
    """Return whether the lock is ours now; None where the disk has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_if_dead(leftover: Path) -> None:
    handle = os.open(leftover, os.O_RDONLY)
    try:
        told = _NAME.search(leftover.name)
        ours = told is not None and told[1] == MACHINE
        free = lock(handle)
        if (ours and free) or (free is not False and _age(leftover) > DEAD_AFTER):
            _remove(leftover)
    finally:
        os.close(handle)


def _age(path: Path) -> float:
    """Return the seconds since the last change of a file, or of anything in a folder."""
    return disk_time(path.parent) - max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
