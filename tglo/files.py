"""Files that are whole or absent: everything that a run trusts later is written through here."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def temporary_name(path: str | os.PathLike[str]) -> Path:
    """A hidden sibling of path for bytes that are not complete yet; no two calls give the same."""
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def publish(temporary: Path, path: str | os.PathLike[str]) -> None:
    """Make a finished temporary file durable and give it its name, in that order.

    A crash at any moment leaves the old file or the new one, never a part of either.
    """
    path = Path(path)
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself lives in the folder
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write data to path atomically and durably."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(data)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write content as JSON, keys sorted: equal content, equal bytes. NaN and inf are refused."""
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; ValueError naming the file when it is torn or no JSON at all."""
    try:
        return json.loads(Path(path).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); it may be torn: make it again"
        ) from None


def claim_folder(path: Path, settings: Mapping[str, str | int]) -> None:
    """Bind the folder of the file `path` to settings: written there, or compared with what is there.

    ValueError naming each setting that differs, with both values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_json(path, dict(settings))
        return
    held = read_json(path)
    if not isinstance(held, dict):
        raise ValueError(f"{path} is no file of settings; give another folder")
    names = dict.fromkeys([*settings, *held])
    differing = [
        f"{name} is {held.get(name)!r} there and {settings.get(name)!r} here"
        for name in names
        if held.get(name) != settings.get(name)
    ]
    if differing:
        raise ValueError(
            f"{path.parent} belongs to other settings: {'; '.join(differing)}. Give another folder, "
            "go back to those settings, or remove it"
        )


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
