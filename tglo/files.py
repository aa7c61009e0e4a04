"""Files and folders that are whole or absent: everything that a run trusts later is written here.

Each is written under a temporary name beside its own, flushed to the disk and renamed. A crash at
any moment leaves the old content or the new, never a part of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def writing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to: published as `path`, or removed if the body fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)  # the rename itself lives in the folder
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill: published as `path`, or removed if the body fails.

    FileExistsError when there is something at `path` and overwrite is not set.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another folder or allow overwriting it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        publish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Flush a finished folder with all it holds and give it its name.

    A folder of that name goes aside as `.NAME.old` and is removed at the end. A kill between the
    two renames leaves it there, whole, and the next publication under that name removes it.
    """
    for entry in temporary.rglob("*"):
        flush(entry)
    flush(temporary)
    aside = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    try:
        os.replace(temporary, path)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
    flush(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until the disk holds a file's bytes, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write data to path atomically and durably."""
    with writing_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write content as JSON, keys sorted: equal content, equal bytes. NaN and inf are refused."""
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; ValueError naming the file when it is torn or is not JSON at all."""
    try:
        return json.loads(Path(path).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); it may be torn: make it again"
        ) from None


def claim_folder(path: Path, settings: Mapping[str, Any], *, alone: bool = False) -> None:
    """Bind the folder of the file `path` to settings: write them there, or compare them with it.

    settings: JSON values by name. alone: refuse a folder that holds other files but no settings.
    Raises ValueError naming each setting that differs, with both values.
    """
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
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
        f"{name} is {found.get(name, 'nothing')!r} there and {value!r} here"
        for name, value in wanted.items()
        if found.get(name, "nothing") != value
    )


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 as a hex string; the file is read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
