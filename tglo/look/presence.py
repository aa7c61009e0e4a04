"""Which images are there, by listing each folder once, which a million files allow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tglo.data.containers import split_reference
from tglo.data.manifest import Manifest

SHOWN = 10
ASKED = 10_000
"""Files that no listing has and that are asked for one by one: a root may stand beside the manifest's folder."""


@dataclass(frozen=True)
class Presence:
    """Images that are not there: how many, and the names of some."""

    images: int
    missing: int
    missing_shown: list[str]


def presence(images: Sequence[str], missing: Sequence[int]) -> Presence:
    """Return what `missing_images` has found."""
    shown = [images[number] for number in missing[:SHOWN]]
    return Presence(len(images), len(missing), shown)


def missing_images(manifest: Manifest, images: Sequence[str]) -> list[int]:
    """Return the numbers of the images whose files are not there. What is inside a file, such as a tar, is there if
    the file is.
    """
    by_folder: dict[str, dict[str, list[int]]] = {}
    for number, image in enumerate(images):
        file = split_reference(image)[0] if "#" in image else image
        folder, _, name = file.rstrip("/").rpartition("/")
        by_folder.setdefault(folder, {}).setdefault(name, []).append(number)
    missing: list[int] = []
    asked = 0
    for folder, names in by_folder.items():
        listed = _listed(manifest, folder)
        for name, numbers in names.items():
            if name in listed:
                continue
            asked += 1
            if asked > ASKED or not _is_there(manifest, f"{folder}/{name}" if folder else name):
                missing += numbers
    return sorted(missing)


def _listed(manifest: Manifest, folder: str) -> set[str]:
    place = manifest.folder(folder)
    if place is None:
        return set()
    try:
        return set(os.listdir(place))
    except OSError:
        return set()


def _is_there(manifest: Manifest, file: str) -> bool:
    return manifest.status(file) is not None or manifest.folder(file) is not None
