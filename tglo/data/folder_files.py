"""What lies in a folder of images: images and videos, captions, JSON files, and the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tglo.data import frames, kinds
from tglo.data.errors import ManifestError
from tglo.data.roots import Root

IMAGES = {*frames.SUFFIXES, *kinds.SUFFIXES}
CAPTIONS = (".txt", ".caption")
_MATTER = {*IMAGES, *CAPTIONS, ".json"}
MAX_TEXT_BYTES = 2**20  # the most that a caption may have


@dataclass
class Files:
    """The files below a folder, by their paths there.

    images: sorted. captions, jsons: by their paths without the ending. refused: links that lead out of where images
    may lie, and why they are not followed.
    """

    images: list[str] = field(default_factory=list)
    captions: dict[str, list[str]] = field(default_factory=dict)
    jsons: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def are_described(self) -> bool:
        """Whether an image has a JSON file beside it."""
        return any(os.path.splitext(image)[0] in self.jsons for image in self.images)

    @property
    def have_prompts(self) -> bool:
        """Whether an image has a caption or a JSON file beside it."""
        return self.are_described or any(
            os.path.splitext(image)[0] in self.captions for image in self.images
        )

    def add(self, name: str) -> None:
        """Take in a file."""
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        if suffix in IMAGES:
            self.images.append(name)
        elif suffix in CAPTIONS:
            self.captions.setdefault(stem, []).append(name)
        else:
            self.others.append(name)
            if suffix == ".json":
                self.jsons[stem] = name


def list_folder(folder: Path, root: Root) -> Files:
    """Return the files of a folder and its sub-folders. Hidden ones do not count.

    A link to a folder is followed, after all that is no link, unless its files are there already. What leads out of
    the root is refused.
    """
    files, seen = Files(), {os.path.realpath(folder)}
    todo, links = [""], list[str]()
    while todo or links:
        if not todo:
            links.sort(reverse=True)
            todo.append(links.pop())
            real = os.path.realpath(folder / todo[-1])
            if real in seen:
                todo.pop()
                continue
            seen.add(real)
        for name, is_folder, is_link in _entries(folder, todo.pop()):
            matters = is_folder or os.path.splitext(name)[1].lower() in _MATTER
            if is_link and matters and (why := _why_refused(root, name)):
                files.refused[name] = why
            elif not is_folder:
                files.add(name)
            elif is_link:
                links.append(name)
            else:
                seen.add(os.path.realpath(folder / name))
                todo.append(name)
    files.images.sort()
    return files


def _entries(folder: Path, below: str) -> list[tuple[str, bool, bool]]:
    """Return (path, is a folder, is a link) of what is in a sub-folder and is not hidden."""
    prefix = f"{below}/" if below else ""
    try:
        with os.scandir(folder / below) as entries:
            return [
                (prefix + entry.name, entry.is_dir(), entry.is_symlink())
                for entry in entries
                if not entry.name.startswith((".", "__MACOSX"))
            ]
    except OSError as error:
        raise ManifestError(
            f"{folder / below} cannot be listed: {error.strerror or error}"
        ) from None


def _why_refused(root: Root, name: str) -> str | None:
    try:
        root.find(name)
    except ManifestError as error:
        return str(error)
    return None


def read_text(folder: str, name: str) -> str:
    """Return the text of a small UTF-8 file, with or without a byte order mark. ValueError, naming it, for another."""
    try:
        with open(f"{folder}/{name}", "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"{name} has more than {MAX_TEXT_BYTES} bytes, which is no caption")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}): save it as UTF-8"
        ) from None
