"""The formats of a manifest: the path tells which; each reader yields raw rows for manifest.py to check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

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
from tglo.data.roots import Root, root_of

Rows = tuple[Root, Iterator[RawRow]]


def read_rows(path: Path, columns: Columns, root: str | os.PathLike[str] | None) -> Rows:
    """Return where a manifest's images may lie, and its rows."""
    path = local_copy(path)
    root = None if root is None else local_copy(Path(root))
    tars = tar_files(path)
    if tars:
        found = root_of(tars[0].parent, root), read_tars(tars, columns)
    elif path.is_dir():
        return _read_folder(path, columns, root)
    elif shards := matching(path):
        found = root_of(path.parent, root, True), read_shards(path.parent, shards, columns)
    else:
        found = root_of(path.parent, root), _read_file(path, columns)
    _refuse_pattern(path, columns)
    return found


def _read_file(path: Path, columns: Columns) -> Iterator[RawRow]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{path} is not a manifest: known are {', '.join(sorted(_READERS))}, .tar, shards-{{000..009}}.tar, "
            "'shards-*.parquet', hf://datasets/OWNER/NAME, and folders: of images with captions or a "
            "metadata.csv, of Parquet files, of tars, of datasets.save_to_disk"
        )
    if not path.is_file():
        raise ManifestError(f"there is no manifest {path}")
    return reader(path, replace(columns, file_names=path.stem == METADATA))


def _read_folder(path: Path, columns: Columns, root: str | os.PathLike[str] | None) -> Rows:
    if is_dataset(path):
        _refuse_pattern(path, columns)
        return root_of(path, root), read_dataset(path, columns)
    place = root_of(path, root, True)
    files = list_folder(path, place)
    metadata = find_metadata(path, files)
    if metadata is not None:
        _refuse_pattern(path, columns)
        reader = _READERS[Path(metadata).suffix.lower()]
        return place, read_metadata(path, metadata, files, reader, columns)
    if not files.have_prompts and (shards := shards_in(path, files.others)):
        _refuse_pattern(path, columns)
        return place, read_shards(path, shards, columns)
    return place, read_captions(path, files, columns)


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
