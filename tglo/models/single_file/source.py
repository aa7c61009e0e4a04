"""Folders that stand for a model in one file: configurations, and links to what the file does not hold.

All of tglo works with diffusers folders. A model in one file gets one of these, a few kilobytes in tglo's own
cache folder, in which the parts that the file holds have no weights: they are read from the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tglo.files import read_json, reading

MARK = "single_file.json"


@dataclass(frozen=True)
class Source:
    """The file behind such a folder."""

    file: Path
    parts: Mapping[str, str]
    """The parts that it holds, each with the beginning of its tensors' names."""
    rest: Path
    """The diffusers folder that has what the file does not hold."""


def home() -> Path:
    """Return the folder of these folders: single_files/ in $XDG_CACHE_HOME/tglo, ~/.cache/tglo by default."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "tglo" / "single_files"


def source_of(folder: Path) -> Source | None:
    """Return the file behind a folder; None for a folder that is a model itself.

    Only what tglo has made itself counts: a folder from elsewhere may not name files outside of it.
    """
    mark = folder / MARK
    if folder.absolute().parent != home().absolute() or not mark.is_file():
        return None
    remedy = f"remove {folder}, it is made again"
    content = read_json(mark, "folder of a model in one file", remedy)
    with reading(mark, "folder of a model in one file", remedy):
        parts = {str(name): str(prefix) for name, prefix in content["parts"].items()}
        return Source(Path(content["file"]), parts, Path(content["rest"]))


def linked(file: Path) -> Path:
    """Return what a file in such a folder is a link to, by the name that people know; others as they are."""
    part = file.parent
    if part.absolute().parent.parent != home().absolute():
        return file
    if part.is_symlink():
        return part.readlink() / file.name
    return file.readlink() if file.is_symlink() else file


def held_by(folder: Path, part: str) -> Source | None:
    """Return the file that holds a part of this folder's model; None for a part with weights of its own."""
    source = source_of(folder)
    return source if source is not None and part in source.parts else None
