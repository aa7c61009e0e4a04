"""The formats of a manifest: the path tells which; each reader yields raw rows for manifest.py to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tglo.data.errors import ManifestError, reading_manifest
from tglo.data.manifest_folders import read_dataset
from tglo.data.manifest_rows import Columns, RawRow, arrow_rows, holds_text
from tglo.data.manifest_tars import read_tars, tar_files
from tglo.data.manifest_text import read_json_lines, read_separated


def read_rows(path: Path, columns: Columns) -> tuple[Path, Iterator[RawRow]]:
    """Return the manifest's folder and its rows."""
    tars = tar_files(path)
    if tars:
        return tars[0].parent, read_tars(tars, columns)
    if path.is_dir():
        return path, read_dataset(path, columns)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{path} is not a manifest: known are {', '.join(sorted(_READERS))}, .tar, "
            "a folder of datasets.save_to_disk, a folder of tars, and shards-{000..009}.tar"
        )
    if not path.is_file():
        raise ManifestError(f"there is no manifest {path}")
    return path.parent, reader(path, columns)


def _read_parquet(path: Path, columns: Columns) -> Iterator[RawRow]:
    import pyarrow.parquet as pq

    with reading_manifest(path, "Parquet file"):
        file = pq.ParquetFile(path)
    with file:
        columns.check(file.schema_arrow.names, path)
        kind = file.schema_arrow.field(columns.image).type
        if not holds_text(kind):
            raise ManifestError(
                f"{path}: column {columns.image!r} holds {kind}, not paths. For images in the "
                "file: datasets.load_dataset('parquet', data_files=...).save_to_disk(FOLDER)"
            )
        line = 1
        batches = file.iter_batches(batch_size=65536)
        while True:
            with reading_manifest(path, "Parquet file"):
                batch = next(batches, None)
            if batch is None:
                return
            yield from arrow_rows(path, batch, columns, None, line)
            line += batch.num_rows


_READERS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    ".csv": read_separated,
    ".jsonl": read_json_lines,
    ".parquet": _read_parquet,
    ".tsv": read_separated,
}
