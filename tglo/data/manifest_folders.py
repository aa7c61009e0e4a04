"""Manifests that contain their images: a folder of `datasets.save_to_disk`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tglo.data.containers import read_arrow
from tglo.data.errors import ManifestError, reading_manifest
from tglo.data.manifest_rows import Columns, RawRow, arrow_rows
from tglo.data.roots import is_within
from tglo.files import read_json

_SPLITS, _STATE = "dataset_dict.json", "state.json"


def is_dataset(folder: Path) -> bool:
    """Say whether a folder was saved by `datasets.save_to_disk`."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def read_dataset(folder: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a `datasets.save_to_disk` folder; images stay in their memory-mapped file."""
    if (folder / _SPLITS).is_file():
        splits = _splits(folder / _SPLITS)
        raise ManifestError(
            f"{folder} holds the splits {splits}: give one, as {folder / splits[0]}"
        )
    line = 1
    for name in _data_files(folder / _STATE):
        path = folder / name
        real = os.path.realpath(path)
        if name in ("", ".", "..") or "/" in name or not is_within(real, os.path.realpath(folder)):
            raise ManifestError(
                f"{folder / _STATE} names {name!r}, which is outside the folder; refused"
            )
        table = read_arrow(path)
        columns.check(table.column_names, folder)
        with reading_manifest(path, "data set", f"mend its column {columns.image!r}"):
            images = _arrow_images(table, columns.image, name)
        yield from arrow_rows(path, table, columns, images, line)
        line += table.num_rows


def _splits(path: Path) -> list[str]:
    described = "dataset_dict.json of datasets.save_to_disk", "save the data set again"
    with reading_manifest(path, *described):
        splits = read_json(path, *described)["splits"]
        if not splits or not all(isinstance(name, str) for name in splits):
            raise ValueError(f"its splits are {splits!r}")
        return list(splits)


def _data_files(path: Path) -> list[str]:
    """Return the names of the Arrow files that a state.json lists."""
    described = "state.json of datasets.save_to_disk", "save the data set again"
    with reading_manifest(path, *described):
        state = read_json(path, *described)
        names = [entry["filename"] for entry in state["_data_files"]]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"its file names are {names!r}")
        apart = state.get("_indices_data_files")
    if apart:
        raise ManifestError(
            f"{path.parent} stores indices apart: call flatten_indices() and save it again"
        )
    return names


def _arrow_images(table: Any, column: str, file: str) -> list[Any]:
    """Return paths where the column holds paths, and references into the file where it holds bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.column(column)
    if pa.types.is_struct(cells.type):
        embedded = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
    elif pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        embedded = pc.is_valid(cells).to_pylist()
        paths = [None] * len(embedded)
    else:
        return list(cells.to_pylist())
    return [
        f"{file}#{column}/{i}" if inside else path
        for i, (inside, path) in enumerate(zip(embedded, paths, strict=True))
    ]
