"""The formats of a manifest: the path tells which; each reader yields raw rows for manifest.py to check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tglo.data.errors import ManifestError
from tglo.data.folder_files import list_folder
from tglo.data.hub import local_copy
from tglo.data.image_folders import read_captions
from tglo.data.manifest_folders import is_dataset, read_dataset
from tglo.data.manifest_parquet import matching, read_parquet, read_shards, shards_in
from tglo.data.manifest_rows import Columns, RawRow
from tglo.data.manifest_tars import read_tars, tar_files
from tglo.data.manifest_text import read_json_lines, read_separated
from tglo.data.metadata_folders import METADATA, find_metadata, read_metadata
from tglo.data.quick_json import json_blocks
from tglo.data.quick_parquet import parquet_blocks
from tglo.data.quick_text import separated_blocks
from tglo.data.roots import Root, root_of
from tglo.data.row_blocks import Block

_Read = tuple[Iterator[RawRow], Iterator[Block] | None]

QUICK_FROM = 2**21
"""Bytes from which a file is read by columns, where that gives the same."""


class Rows(NamedTuple):
    """What a manifest has: the folder of its images, its rows, and perhaps the same rows in blocks of columns."""

    place: Root
    raw: Iterator[RawRow]
    blocks: Iterator[Block] | None = None


def read_rows(path: Path, columns: Columns, root: str | os.PathLike[str] | None) -> Rows:
    """Return where a manifest's images may lie, and its rows."""
    path = local_copy(path)
    root = None if root is None else local_copy(Path(root))
    tars = tar_files(path)
    if tars:
        found = Rows(root_of(tars[0].parent, root), read_tars(tars, columns))
    elif path.is_dir():
        return _read_folder(path, columns, root)
    elif shards := matching(path):
        place = root_of(path.parent, root, True)
        found = Rows(place, *_read_shards(path.parent, shards, columns))
    else:
        found = Rows(root_of(path.parent, root), *_read_file(path, columns))
    _refuse_pattern(path, columns)
    return found


def _read_file(path: Path, columns: Columns) -> _Read:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{path} is not a manifest: known are {', '.join(sorted(_READERS))}, .tar, shards-{{000..009}}.tar, "
            "'shards-*.parquet', hf://datasets/OWNER/NAME, and folders: of images with captions or a "
            "metadata.csv, of Parquet files, of tars, of datasets.save_to_disk"
        )
    if not path.is_file():
        raise ManifestError(f"there is no manifest {path}")
    columns = replace(columns, file_names=path.stem == METADATA)
    blocks = None
    if _is_quick(columns, path):
        if path.suffix.lower() in (".csv", ".tsv"):
            blocks = separated_blocks(path, columns)
        elif path.suffix.lower() == ".jsonl":
            blocks = json_blocks(path, columns)
        elif path.suffix.lower() == ".parquet":
            blocks = parquet_blocks(path.parent, [path.name], columns)
    return reader(path, columns), blocks


def _read_shards(folder: Path, names: Sequence[str], columns: Columns) -> _Read:
    quick = _is_quick(columns, *(folder / name for name in names))
    blocks = parquet_blocks(folder, names, columns) if quick else None
    return read_shards(folder, names, columns), blocks


def _is_quick(columns: Columns, *files: Path) -> bool:
    """Say whether files are worth reading by columns, and it can be done."""
    return (
        len(set(columns.three)) == 3
        and sum(file.stat().st_size for file in files) >= QUICK_FROM
        and find_spec("pyarrow") is not None
    )


def _read_folder(path: Path, columns: Columns, root: str | os.PathLike[str] | None) -> Rows:
    if is_dataset(path):
        _refuse_pattern(path, columns)
        return Rows(root_of(path, root), read_dataset(path, columns))
    place = root_of(path, root, True)
    files = list_folder(path, place)
    metadata = find_metadata(path, files)
    if metadata is not None:
        _refuse_pattern(path, columns)
        reader = _READERS[Path(metadata).suffix.lower()]
        return Rows(place, read_metadata(path, metadata, files, reader, columns))
    if not files.have_prompts and (shards := shards_in(path, files.others)):
        _refuse_pattern(path, columns)
        return Rows(place, *_read_shards(path, shards, columns))
    return Rows(place, read_captions(path, files, columns))


def _refuse_pattern(path: Path, columns: Columns) -> None:
    if columns.pattern is not None:
        raise ManifestError(
            f"--score-pattern (data.score_pattern) reads scores from the file names of a folder of images with "
            f"captions, and {path} is none: leave it out, and name the column of scores with --score-column"
        )


_READERS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    ".csv": read_separated,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
    ".tsv": read_separated,
}
