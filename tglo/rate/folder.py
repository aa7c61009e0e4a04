"""Where the ratings of a manifest lie, and whether they are its own."""

from __future__ import annotations

import logging
from pathlib import Path

from tglo.data.errors import ManifestError
from tglo.data.hub import is_on_hub
from tglo.data.manifest import Manifest, Row
from tglo.rate.book import Book
from tglo.rate.log import FILE

log = logging.getLogger("tglo")


def folder_of(manifest: Path) -> Path:
    """Return the folder of a manifest's ratings by default: beside it, its name with -ratings."""
    if is_on_hub(manifest):
        raise ManifestError("ratings of a data set on the hub need a place: give --output FOLDER")
    name = manifest.resolve().name if manifest.is_dir() else manifest.stem
    if set("*{") & set(name):  # a pattern of files
        name = "images"
    return manifest.resolve().parent / f"{name}-ratings"


def distinct_rows(manifest: Manifest) -> Manifest:
    """Return the manifest with each image of each prompt once."""
    first: dict[int, Row] = {}
    for row in manifest:
        first.setdefault(row.sample_id, row)
    return manifest.with_rows(first.values())


def aside(count: int) -> str:
    """Say that so many ratings do not count, since their images were replaced."""
    return f"{count} ratings are set aside, whose images were replaced since"


def check_book(book: Book, folder: Path) -> None:
    """Refuse ratings of which none is of the manifest's images, and warn of those that are not."""
    if not book.strangers:
        return
    if not (book.set_aside or any(rater.steps for rater in book.raters.values())):
        raise ValueError(
            f"{folder} has ratings of another manifest: none of its {book.strangers} is of an image here. Give "
            "another --output, or the manifest that it belongs to"
        )
    log.warning(
        "%s has %d ratings of images that the manifest does not have, or has with other prompts: they stay in %s "
        "and are left out",
        folder,
        book.strangers,
        FILE,
    )
