"""Rows of a manifest as the bytes of a file: CSV, tab-separated, JSON lines or Parquet, by suffix."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from tglo.data.errors import ManifestError
from tglo.data.row import Row
from tglo.data.row_columns import LazyRows

WRITTEN = (".csv", ".jsonl", ".parquet", ".tsv")

Cells = tuple[Any, ...]


Rows = Callable[[], Iterable[Cells]]
"""Gives the rows from the first on, each time that it is called: they need not all be in memory."""


def encoded(path: str | os.PathLike[str], rows: Iterable[Row]) -> bytes:
    """Return the content of a file `path` with the columns prompt, image, score and the rows' others. Raises what
    `encode_rows` raises, and ManifestError for another column that takes the name of one of these.
    """
    rows = rows if isinstance(rows, LazyRows) else list(rows)
    if isinstance(rows, LazyRows):
        extra = rows.extra_names()
    else:
        extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    clash = {"prompt", "image", "score"} & set(extra)
    if clash:
        raise ManifestError(
            f"extra columns {sorted(clash)} would overwrite the rows' own; rename them"
        )

    def cells() -> Iterator[Cells]:
        if isinstance(rows, LazyRows):
            return rows.cells(extra)
        return ((row.prompt, row.image, row.score, *map(row.extra.get, extra)) for row in rows)

    return encode_rows(Path(path), ["prompt", "image", "score", *extra], cells)


def encode_rows(path: Path, names: list[str], rows: Rows) -> bytes:
    """Return the content of a file `path` with these columns and rows.

    Dates and times are written as ISO 8601, except in Parquet, which has types for them. Raises
    ManifestError for another suffix, and for a value that the format cannot hold, with its column.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise ManifestError(f"{path}: a manifest is written as one of {', '.join(WRITTEN)}")
    if suffix == ".parquet":
        return _parquet(path, names, rows)
    text, cell = (_json_lines, _json) if suffix == ".jsonl" else (_separated(suffix), _cell)
    try:
        return text(names, rows).encode()
    except (TypeError, ValueError, RecursionError, csv.Error) as error:
        raise ManifestError(_why_not(path, names, rows, cell) or f"{path}: {error}") from error


def _separated(suffix: str) -> Callable[[list[str], Rows], str]:
    def encode(names: list[str], rows: Rows) -> str:
        text = io.StringIO(newline="")
        separator = "\t" if suffix == ".tsv" else ","
        writer = csv.writer(text, delimiter=separator, lineterminator="\n")
        writer.writerows(chain([names], (map(_cell, row) for row in rows())))
        return text.getvalue()

    return encode


def _json_lines(names: list[str], rows: Rows) -> str:
    cells = (dict(zip(names, row, strict=True)) for row in rows())
    return "".join(_json(row) + "\n" for row in cells)


def _parquet(path: Path, names: list[str], rows: Rows) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"prompt": pa.string(), "image": pa.string(), "score": pa.float64()}
    sink = pa.BufferOutputStream()
    name = ""
    try:
        table = {}
        for i, name in enumerate(names):
            table[name] = pa.array([row[i] for row in rows()], type=kinds.get(name))
        pq.write_table(pa.table(table), sink)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ManifestError(
            f"{path}: column {name!r} does not fit into Parquet ({error}); write .jsonl, or leave the "
            "column out of the manifest"
        ) from error
    return bytes(sink.getvalue())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)  # every bit
    if value is None or isinstance(value, (str, int)):
        return value
    return _json(value) if isinstance(value, (list, dict)) else _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, timedelta)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not text, a number or a time")


def _why_not(
    path: Path, names: Iterable[str], rows: Rows, encode: Callable[[Any], Any]
) -> str | None:
    """Name the first value that cannot be encoded, and its column."""
    for row in rows():
        for name, value in zip(names, row, strict=True):
            try:
                str(encode(value)).encode()
            except (TypeError, ValueError, RecursionError) as error:
                cause = "nested too deeply" if isinstance(error, RecursionError) else error
                return (
                    f"{path}: column {name!r} holds what {path.suffix} cannot ({cause}; in the row of "
                    f"image {row[1]!r}); write .parquet, or leave the column out of the manifest"
                )
    return None
