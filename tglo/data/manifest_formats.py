"""The file formats of a manifest: each reader yields raw rows, which manifest.py judges."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tglo.data.errors import ManifestError
from tglo.files import publish, temporary_name, write_bytes

WRITTEN = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Columns:
    """What the columns are called."""

    prompt: str
    image: str
    score: str
    require_scores: bool

    def check(self, existing: Sequence[str], source: object) -> None:
        """ManifestError naming a missing column, what exists, and the nearest name."""
        wanted = {"prompt": self.prompt, "image": self.image}
        if self.require_scores:
            wanted["score"] = self.score
        for role, name in wanted.items():
            if name in existing:
                continue
            near = difflib.get_close_matches(name, existing, n=1, cutoff=0.4)
            hint = f", e.g. {role}_column={near[0]!r}" if near else ""
            raise ManifestError(
                f"{source} has no column {name!r} for the {role}; its columns are "
                f"{list(existing)}. Name the right one with {role}_column{hint}"
            )
        if len(set(existing)) != len(existing):
            raise ManifestError(f"{source} has two columns of one name: {list(existing)}")

    def own(self) -> tuple[str, str, str]:
        """The three columns that are not extra."""
        return (self.prompt, self.image, self.score)


@dataclass(slots=True)
class RawRow:
    """A row as read, of any type; problem: why it could not even be read."""

    line: int
    prompt: Any = None
    image: Any = None
    score: Any = None
    extra: dict[str, Any] | None = None
    problem: str | None = None


def read_rows(path: Path, columns: Columns) -> tuple[Path, Iterator[RawRow]]:
    """The folder that images are relative to, and the rows; the format follows from the path."""
    from tglo.data.manifest_folders import read_dataset, read_tars, tar_files

    tars = tar_files(path)
    if tars:
        return tars[0].parent, read_tars(tars, columns)
    if path.is_dir():
        return path, read_dataset(path, columns)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{path} is no manifest: known are {', '.join(sorted(_READERS))}, .tar, "
            "a folder of datasets.save_to_disk, a folder of tars, and shards-{000..009}.tar"
        )
    if not path.is_file():
        raise ManifestError(f"there is no manifest {path}")
    return path.parent, reader(path, columns)


def number(text: str | None) -> Any:
    """A score written as text: a float, None when empty, the text itself when it is no number."""
    if text is None or not text.strip():
        return None
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _read_csv(path: Path, columns: Columns) -> Iterator[RawRow]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise ManifestError(f"{path} is empty: not even a header")
            columns.check(header, path)
            prompt, image = header.index(columns.prompt), header.index(columns.image)
            score = header.index(columns.score) if columns.score in header else None
            others = [(i, name) for i, name in enumerate(header) if name not in columns.own()]
            line = reader.line_num + 1
            for cells in reader:
                if not cells:
                    pass  # a blank line
                elif len(cells) != len(header):
                    problem = f"has {len(cells)} fields where the header has {len(header)}"
                    yield RawRow(line, problem=problem)
                else:
                    extra = {name: cells[i] for i, name in others} if others else None
                    value = None if score is None else number(cells[score])
                    yield RawRow(line, cells[prompt], cells[image], value, extra)
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{path}, near line {reader.line_num}: {error}; "
                "the file must be UTF-8 and its quotes closed (is it truncated?)"
            ) from None


def _read_jsonl(path: Path, columns: Columns) -> Iterator[RawRow]:
    checked = False
    own = columns.own()
    with open(path, "rb") as handle:
        for line, text in enumerate(handle, 1):
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except ValueError as error:
                yield RawRow(line, problem=f"is no JSON ({error})")
                continue
            if not isinstance(cells, dict):
                yield RawRow(line, problem="is no JSON object")
                continue
            if not checked:
                columns.check(list(cells), path)
                checked = True
            extra = {k: v for k, v in cells.items() if k not in own} if len(cells) > 3 else None
            prompt, image, score = (cells.get(name) for name in own)
            yield RawRow(line, prompt, image, score, extra)


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
        raise ManifestError(f"{path} is torn or no Parquet ({error}); copy it again") from None


def arrow_rows(table: Any, columns: Columns, images: list[Any], line: int) -> Iterator[RawRow]:
    """Rows of an Arrow table or batch; images are given, being paths or references."""
    names = table.schema.names
    prompts = table.column(columns.prompt).to_pylist()
    scores = [None] * len(prompts)
    if columns.score in names:
        scores = [_plain(value) for value in table.column(columns.score).to_pylist()]
    others = [name for name in names if name not in columns.own()]
    cells = [table.column(name).to_pylist() for name in others]
    for i, (prompt, image, score) in enumerate(zip(prompts, images, scores, strict=True)):
        extra = {name: column[i] for name, column in zip(others, cells, strict=True)}
        yield RawRow(line + i, prompt, image, score, extra or None)


def _plain(value: Any) -> Any:
    from decimal import Decimal

    return float(value) if isinstance(value, Decimal) else value


_READERS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def write_rows(path: Path, names: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a table as CSV, JSON lines or Parquet, atomically."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(chain([names], ([_cell(row[name]) for name in names] for row in rows)))
        write_bytes(path, text.getvalue().encode())
    elif suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(path, "".join(lines).encode())
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"prompt": pa.string(), "image": pa.string(), "score": pa.float64()}
        arrays = [pa.array([row[name] for row in rows], type=kinds.get(name)) for name in names]
        temporary = temporary_name(path)
        try:
            pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), temporary)
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        raise ManifestError(f"{path}: a manifest is written as one of {', '.join(WRITTEN)}")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)  # every bit
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
