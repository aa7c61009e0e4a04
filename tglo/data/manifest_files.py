"""The file formats of a manifest: each reader yields raw rows, which manifest.py checks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tglo.data.errors import ManifestError
from tglo.data.manifest_folders import read_dataset, read_tars, tar_files
from tglo.data.manifest_rows import Columns, RawRow, arrow_rows, number
from tglo.files import write_bytes, writing_file

WRITTEN = (".csv", ".jsonl", ".parquet")


def read_rows(path: Path, columns: Columns) -> tuple[Path, Iterator[RawRow]]:
    """Return the folder that images are relative to, and the rows; the path tells the format."""
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


def _read_csv(path: Path, columns: Columns) -> Iterator[RawRow]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise ManifestError(f"{path} is empty: not even a header")
            columns.check(header, path)
            line = reader.line_num + 1
            for cells in reader:
                if not cells:
                    pass  # a blank line
                elif len(cells) != len(header):
                    problem = f"has {len(cells)} fields where the header has {len(header)}"
                    yield RawRow(line, problem=problem)
                else:
                    row = columns.row(line, dict(zip(header, cells, strict=True)))
                    row.score = number(row.score)
                    yield row
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{path}, near line {reader.line_num}: {error}; "
                "the file must be UTF-8 and its quotes closed (is it truncated?)"
            ) from None


def _read_jsonl(path: Path, columns: Columns) -> Iterator[RawRow]:
    checked = False
    with open(path, "rb") as handle:
        for line, text in enumerate(handle, 1):
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except ValueError as error:
                yield RawRow(line, problem=f"is not JSON ({error})")
                continue
            if not isinstance(cells, dict):
                yield RawRow(line, problem="is not a JSON object")
                continue
            if not checked:
                columns.check(list(cells), path)
                checked = True
            yield columns.row(line, cells)


def _read_parquet(path: Path, columns: Columns) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns.check(file.schema_arrow.names, path)
            kind = file.schema_arrow.field(columns.image).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ManifestError(
                    f"{path}: column {columns.image!r} holds {kind}, not paths. For images in the "
                    "file: datasets.load_dataset('parquet', data_files=...).save_to_disk(FOLDER)"
                )
            line = 1
            for batch in file.iter_batches(batch_size=65536):
                yield from arrow_rows(batch, columns, batch.column(columns.image).to_pylist(), line)
                line += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path} is torn or not Parquet ({error}); copy it again") from None


_READERS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def write_rows(path: Path, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Write rows of cells, with these names of the columns, as CSV, JSON lines or Parquet, atomically."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(chain([names], (map(_cell, row) for row in rows)))
        write_bytes(path, text.getvalue().encode())
    elif suffix == ".jsonl":
        cells = (dict(zip(names, row, strict=True)) for row in rows)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in cells)
        write_bytes(path, "".join(lines).encode())
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"prompt": pa.string(), "image": pa.string(), "score": pa.float64()}
        table = {
            name: pa.array([row[i] for row in rows], type=kinds.get(name))
            for i, name in enumerate(names)
        }
        with writing_file(path) as temporary:
            pq.write_table(pa.table(table), temporary)
    else:
        raise ManifestError(f"{path}: a manifest is written as one of {', '.join(WRITTEN)}")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)  # every bit
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
