"""Image folders as Hugging Face has them: a metadata file names the images in its column file_name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tglo.data.errors import ManifestError
from tglo.data.folder_files import Files
from tglo.data.manifest_rows import Columns, RawRow

log = logging.getLogger("tglo")

METADATA = "metadata"
_NAMES = tuple(f"{METADATA}{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))


def find_metadata(folder: Path, files: Files) -> str | None:
    """Return the path of the folder's metadata file, perhaps in its only split, or None.

    ManifestError for two in one folder, and for several splits.
    """
    found = sorted(name for name in files.others if os.path.basename(name) in _NAMES)
    here = [name for name in found if name in _NAMES]
    if len(here) > 1:
        raise ManifestError(f"{folder} has {' and '.join(here)}: leave one")
    if here or len(found) < 2:
        return next(iter(here or found), None)
    splits = [os.path.dirname(name) for name in found]
    raise ManifestError(
        f"{folder} holds several parts, each with its own metadata: {', '.join(found[:10])}. Give one, as "
        f"{folder / splits[0]}"
    )


def read_metadata(
    folder: Path,
    name: str,
    files: Files,
    reader: Callable[[Path, Columns], Iterator[RawRow]],
    columns: Columns,
) -> Iterator[RawRow]:
    """Yield the rows of a metadata file, with a problem where the image is not there. Warns of images not named."""
    below, known, named = os.path.dirname(name), {*files.images}, set[str]()
    for row in reader(folder / name, replace(columns, file_names=True)):
        row.place = f"{name}, line {row.line}"
        if row.problem is None and isinstance(row.image, str) and row.image:
            image = os.path.normpath(os.path.join(below, row.image))
            if image in files.refused:
                row.problem = files.refused[image]
            elif image not in known and not os.path.lexists(folder / image):
                row.problem = f"names {row.image}, which is not in {folder / below}: correct it, or take the row out"
            row.image = os.path.join(below, row.image)
            named.add(image)
        yield row
    unused = sorted(known - named)
    if unused:
        log.warning(
            "%s: %d images are not in %s and are not used, %s for one", folder, len(unused), name, unused[0]
        )  # fmt: skip
