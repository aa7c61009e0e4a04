"""Files of separated values as blocks of columns, for manifests of many rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tglo.data.manifest_rows import Columns, number
from tglo.data.manifest_text import separator_of
from tglo.data.row_blocks import Block, Unusual
from tglo.data.separated_lines import row_chunks

if TYPE_CHECKING:
    import pyarrow as pa


def separated_blocks(path: Path, columns: Columns) -> Iterator[Block]:
    """Yield the rows of a CSV file, or of one that semicolons or tabs separate."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with open(path, encoding="utf-8-sig", newline="") as handle:
        separator = separator_of(handle.readline(), path, columns)
        handle.seek(0)
        header = next(csv.reader(handle, delimiter=separator, strict=True), [])
    columns = columns.check(header, path)
    extra = columns.renamed([name for name in header if name not in columns.three])
    kinds = {name: pa.string() for name in header}
    skipped = 1  # the header
    for chunk in row_chunks(path, separator):
        table = arrow_csv.read_csv(
            pa.BufferReader(chunk.data),
            arrow_csv.ReadOptions(block_size=2 * len(chunk.data) + 1, column_names=header),
            arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=chunk.broken),
            arrow_csv.ConvertOptions(column_types=kinds, strings_can_be_null=False),
        )
        if table.num_rows != len(chunk.lines):
            raise Unusual("another number of rows")
        table, lines = table.slice(skipped), chunk.lines[skipped:]
        skipped = max(0, skipped - len(chunk.lines))
        if not len(lines):
            continue
        cells = {name: table.column(name).combine_chunks() for name in header}
        yield Block(
            prompts=cells[columns.prompt],
            images=cells[columns.image],
            scores=_scores(cells.get(columns.score), separator, len(lines)),
            lines=lines,
            extra={name: cells[there] for name, there in extra.items()},
        )


def _scores(cells: pa.Array | None, separator: str, count: int) -> NDArray[np.float64]:
    """Return scores as Python reads them; NaN for blank cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if cells is None:
        return np.full(count, np.nan)
    if separator == ";" and pc.any(pc.match_substring(cells, ",")).as_py():
        raise Unusual("decimal commas")
    try:
        given = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)
        found = given.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        found = np.full(count, np.nan)
    found = np.array(found, dtype=np.float64)
    for place in np.flatnonzero(~np.isfinite(found)).tolist():
        value = number(cells[place].as_py())
        if isinstance(value, str):
            raise Unusual("scores that are not numbers")
        found[place] = np.nan if value is None else value
    return found
