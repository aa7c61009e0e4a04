"""Manifests as Parquet files: with the paths of images, or with the images in them, as `datasets` writes them.

One file, a folder of shards (`data/train-00000-of-00003.parquet`), or a pattern (`data/train-*.parquet`). Images that
are in the files are named `FILE#COLUMN/ROW` and stay there until they are read (parquet_images.py).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tglo.data.errors import ManifestError, reading_manifest
from tglo.data.manifest_rows import Columns, RawRow, arrow_rows, holds_text

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger("tglo")

KIND = "Parquet file"
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.parquet")
BATCH = 65536


def matching(path: Path) -> list[str]:
    """Return the names of the Parquet files that a pattern with * names, sorted; [] for what is none."""
    if "*" not in path.name or not path.name.endswith(".parquet"):
        return []
    names = sorted(found.name for found in path.parent.glob(path.name))
    if not names:
        raise ManifestError(f"there is no file like {path}")
    _check_whole(path.parent, names)
    return names


def shards_in(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the Parquet files among a folder's, sorted. ManifestError where they are several data sets."""
    found = sorted(name for name in names if name.lower().endswith(".parquet"))
    parts: dict[str, str] = {}  # a folder and a split -> how it is named alone
    for name in found:
        below, base = os.path.split(name)
        shard = _SHARD.fullmatch(base)
        split = shard["split"] if shard else ""
        parts[f"{below}/{split}"] = os.path.join(
            below, f"{split}-*.parquet" if split else "*.parquet"
        )
    if len(parts) > 1:
        raise ManifestError(
            f"{folder} holds several data sets or splits, {', '.join(list(parts.values())[:10])}: give one of them, "
            f"as '{folder / next(iter(parts.values()))}'"
        )
    _check_whole(folder, found)
    return found


def _check_whole(folder: Path, names: Sequence[str]) -> None:
    shards = [
        (name, found) for name in names if (found := _SHARD.fullmatch(os.path.basename(name)))
    ]
    counts = {(found["split"], found["count"]) for _, found in shards}
    for split, count in sorted(counts):
        have = {int(s["number"]) for _, s in shards if (s["split"], s["count"]) == (split, count)}
        missing = sorted({*range(int(count))} - have)
        if missing:
            first = f"{split}-{missing[0]:0{len(count)}d}-of-{count}.parquet"
            raise ManifestError(
                f"{len(missing)} of the {int(count)} Parquet files of {split!r} are not in {folder}, {first} for one: "
                "download them too"
            )


def read_parquet(path: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of one Parquet file."""
    return _rows(path, path.name, columns)


def read_shards(folder: Path, names: Sequence[str], columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of Parquet files of one data set; a row's line is that in its file."""
    for name in names:
        for row in _rows(folder / name, name, columns):
            row.place = f"{name}, row {row.line}"
            yield row


def _rows(path: Path, name: str, columns: Columns) -> Iterator[RawRow]:
    import pyarrow.parquet as pq

    with reading_manifest(path, KIND):
        file = pq.ParquetFile(path)
    with file:
        columns, wanted, embedded = choose_columns(path, file, columns)
        line = 1
        batches = file.iter_batches(batch_size=BATCH, columns=wanted)
        while True:
            with reading_manifest(path, KIND):
                batch = next(batches, None)
            if batch is None:
                return
            if embedded is not None:
                batch, images = _with_images(batch, columns.image, name, embedded, line - 1)
            else:
                images = None
            yield from arrow_rows(path, batch, columns, images, line)
            line += batch.num_rows


def choose_columns(
    path: Path, file: pq.ParquetFile, columns: Columns
) -> tuple[Columns, list[str], list[bool] | None]:
    """Return the columns as the file has them, which of its columns are read, and which rows have the bytes of an
    image; None where images are paths.
    """
    schema = file.schema_arrow
    columns = columns.check(schema.names, path)
    if _is_bytes(schema.field(columns.prompt).type):
        raise ManifestError(
            f"{path}: column {columns.prompt!r} holds bytes, not text; write it as strings, or name another with "
            "--prompt-column"
        )
    kind = schema.field(columns.image).type
    if holds_text(kind):
        return columns, list(schema.names), None
    leaf = _bytes_column(path, columns.image, kind)
    wanted = _without_bytes(schema, columns.image)
    with reading_manifest(path, KIND):
        return columns, wanted, _embedded(file, leaf)


def _bytes_column(path: Path, image: str, kind: pa.DataType) -> str:
    """Return the path of the column of bytes in an image column. ManifestError for one of neither images nor paths."""
    import pyarrow as pa

    if _is_bytes(kind):
        return image
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in fields and _is_bytes(fields["bytes"]):
            return f"{image}.bytes"
    raise ManifestError(
        f"{path}: column {image!r} holds {kind}, neither paths nor images (binary, or a struct of bytes and path, as "
        "datasets writes them). Name another with --image-column"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _without_bytes(schema: pa.Schema, image: str) -> list[str]:
    """Return the columns to read as rows: of the images their paths, and no other column of images."""
    import pyarrow as pa

    wanted, left = [], []
    for field in schema:
        if field.name == image:
            nested = pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0
            wanted += [f"{image}.path"] if nested else []
        elif "binary" in str(field.type):
            left.append(field.name)
        else:
            wanted.append(field.name)
    if left:
        log.info("columns of images or bytes that are not read: %s", ", ".join(left))
    return wanted


def _embedded(file: pq.ParquetFile, leaf: str) -> list[bool]:
    """Return which rows have the bytes of an image, by the counts that the file keeps of each group of rows."""
    import pyarrow.compute as pc

    meta = file.metadata
    number = next(i for i in range(meta.num_columns) if meta.schema.column(i).path == leaf)
    found: list[bool] = []
    for group in range(meta.num_row_groups):
        rows, stats = (
            meta.row_group(group).num_rows,
            meta.row_group(group).column(number).statistics,
        )
        nulls = stats.null_count if stats is not None and stats.has_null_count else None
        if nulls in (0, rows):
            found += [nulls == 0] * rows
            continue
        for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[leaf]):
            cells = batch.column(0)
            found += pc.is_valid(cells.field("bytes") if "." in leaf else cells).to_pylist()
    return found


def _with_images(
    batch: Any, image: str, name: str, embedded: Sequence[bool], first: int
) -> tuple[Any, list[str | None]]:
    """Return a batch that has the image column, and what stands for its cells."""
    import pyarrow as pa

    paths: list[str | None] = [None] * batch.num_rows
    if image in batch.schema.names:
        paths = batch.column(image).field("path").to_pylist()
    else:
        batch = batch.append_column(image, pa.nulls(batch.num_rows))
    images = [
        # With as many digits for each, so that the order of names is that of rows.
        f"{name}#{image}/{row:09d}" if embedded[row] else path
        for row, path in enumerate(paths, first)
    ]
    return batch, images
