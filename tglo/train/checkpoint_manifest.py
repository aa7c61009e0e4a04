"""The manifest of a checkpoint: its state, the size and SHA-256 of each file, and a SHA-256 of itself.

The last one covers what the JSON says, so whatever byte of it is changed, the state that was written
comes back or none does. Checkpoints of earlier versions lack it; they are read with a warning.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from tglo import __version__
from tglo.files import DamagedFile, reading, sha256_file

FILE = "manifest.json"
KIND, REMEDY = "checkpoint", "resume from an older one"
OLDER = {"tglo", "world_size", "state", "files"}
"""The keys of a manifest without a checksum of its own."""


class Entry(TypedDict):
    """One file of a checkpoint."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """What is read of it."""

    state: dict[str, Any]
    files: dict[str, Entry]
    sealed: bool
    """Whether it has a checksum of its own."""


def write(folder: Path, files: dict[str, Entry], state: dict[str, Any], world_size: int) -> None:
    """Write the manifest of the checkpoint in `folder`."""
    content = {"tglo": __version__, "world_size": world_size, "state": state, "files": files}
    (folder / FILE).write_text(json.dumps({**content, "sha256": _digest(content)}, indent=1))


def read(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint. DamagedFile if it is not what was written; OSError."""
    path = folder / FILE
    with reading(path, KIND, REMEDY):
        content = json.loads(path.read_bytes())
        sealed = content.keys() != OLDER
        if sealed and content.pop("sha256", None) != _digest(content):
            raise ValueError("its manifest does not match its checksum")
        state, files = content["state"], content["files"]
        for entry in files.values():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                raise ValueError("a size is no number, or a checksum no text")
        if not isinstance(state, dict):
            raise ValueError("its state has another form")
    return Manifest(state, files, sealed)


def problem(folder: Path, *, contents: bool = True) -> str | None:
    """Say what is wrong with a checkpoint, or return None.

    contents: read every file and compare its SHA-256; else only look at presence and sizes.
    """
    try:
        for name, entry in read(folder).files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
            if contents and sha256_file(path) != entry["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, DamagedFile) as error:
        return str(error)
    return None


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
