"""Folders that belong to someone: to a process by a lock, to settings by a file that holds them."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tglo.files.damaged import read_json
from tglo.files.leftovers import lock, remove_leftovers
from tglo.files.writing import write_json

log = logging.getLogger("tglo")


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` inside the block; ValueError(busy) if another process has it.

    The lock ends with its process, also after a kill; the file stays. On a disk without locks the
    block runs unguarded, and a warning says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        ours = lock(handle)
        if ours is False:
            raise ValueError(busy)
        if ours is None:
            log.warning(
                "the disk of %s has no locks: nothing keeps a second command out of that folder",
                path.parent,
            )
        yield
    finally:
        with suppress(OSError):  # closing is not enough: children forked meanwhile have it open
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def claim_folder(path: Path, settings: Mapping[str, Any], *, alone: bool = False) -> None:
    """Bind the folder of the file `path` to settings: write them there, or compare them with it.

    What killed processes left there half-written is removed.

    settings: JSON values by name. alone: refuse a folder that holds other files but no settings.
    Raises ValueError naming each setting that differs, with both values.
    """
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    foreign = alone and any(not entry.name.startswith(".") for entry in folder.iterdir())
    if not path.is_file():  # asked after the listing: another rank may be claiming it right now
        if foreign:
            raise ValueError(
                f"{folder} holds files but no {path.name}; give an empty or a new folder"
            )
        write_json(path, dict(settings))
        return
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold settings; give another folder")
    # What only the folder has differs too: a cache with markers is not one without.
    extra = {name: "nothing" for name in found if name not in settings}
    differing = differences(found, {**settings, **extra})
    if differing:
        raise ValueError(
            f"{folder} belongs to other settings: {differing}. Give another folder, "
            "go back to those settings, or remove that folder"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name each wanted setting that was found otherwise, with both values; "" if there is none."""
    return "; ".join(
        _difference(name, found.get(name, "nothing"), value)
        for name, value in wanted.items()
        if found.get(name, "nothing") != value
    )


def _difference(name: str, there: Any, here: Any) -> str:
    if name == "prompt_chunks":  # which folders keep for two keys of a configuration
        name = "model.long_prompts (--long-prompts)"
        there, here = (
            "cut" if chunks in ("1", "nothing") else f"chunks (model.prompt_chunks {chunks})"
            for chunks in (there, here)
        )
    return f"{name} is {there!r} there and {here!r} here"
