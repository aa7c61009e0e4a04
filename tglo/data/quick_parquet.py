"""Parquet files as blocks of columns, for manifests of many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tglo.data.manifest_parquet import BATCH, choose_columns
from tglo.data.manifest_rows import Columns, holds_text
from tglo.data.row_blocks import Block, Unusual

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_blocks(folder: Path, names: Sequence[str], columns: Columns) -> Iterator[Block]:
    """Yield the rows of Parquet files of one data set; a row's line is that in its file."""
    for name in names:
        yield from _blocks(folder / name, name, columns)


def _blocks(path: Path, name: str, columns: Columns) -> Iterator[Block]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns, wanted, embedded = choose_columns(path, file, columns)
        inside = None if embedded is None else np.array(embedded, dtype=np.bool_)
        first = 0
        for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
            count = batch.num_rows
            here = None if inside is None else inside[first : first + count]
            images = _images(batch, columns.image, name, here, first)
            yield _block(batch, columns, images, first + 1)
            first += count


def _block(batch: pa.RecordBatch, columns: Columns, images: pa.Array, line: int) -> Block:
    names = batch.schema.names
    extra = columns.renamed([n for n in names if n not in columns.three])
    score = batch.column(columns.score) if columns.score in names else None
    return Block(
        prompts=_text(batch.column(columns.prompt)),
        images=images,
        scores=_scores(score, batch.num_rows),
        lines=np.arange(line, line + batch.num_rows),
        extra={name: _cells(batch.column(there)) for name, there in extra.items()},
    )


def _images(
    batch: pa.RecordBatch, image: str, name: str, inside: NDArray[np.bool_] | None, first: int
) -> pa.Array:
    """Return the names of the images: `FILE#COLUMN/ROW` of those in the file, else their paths."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if inside is None:
        return _text(batch.column(image))
    rows = pc.cast(pa.array(np.arange(first, first + batch.num_rows)), pa.string())
    there = pc.binary_join_element_wise(f"{name}#{image}", pc.utf8_lpad(rows, 9, "0"), "/")
    if inside.all():
        return there
    if image not in batch.schema.names:
        raise Unusual("rows without an image")
    return pc.if_else(pa.array(inside), there, _text(batch.column(image).field("path")))


def _text(cells: pa.Array) -> pa.Array:
    import pyarrow as pa

    if not holds_text(cells.type):
        raise Unusual("prompts or images that are not text")
    return cells if pa.types.is_string(cells.type) else cells.cast(pa.large_string())


def _scores(cells: pa.Array | None, count: int) -> NDArray[np.float64]:
    import pyarrow as pa

    if cells is None or pa.types.is_null(cells.type):
        return np.full(count, np.nan)
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        raise Unusual("scores that are not numbers")
    found = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.float64)


def _cells(cells: pa.Array) -> pa.Array:
    """Return another column, as `manifest_rows.arrow_rows` reads it; Unusual where that is not sure to succeed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _is_plain(cells.type):
        raise Unusual(f"a column of {cells.type}")
    cells.validate(full=True)
    if pa.types.is_date32(cells.type):
        try:
            pc.min_max(cells).as_py()
        except (OverflowError, ValueError):
            raise Unusual("dates beyond Python's") from None
    if not pa.types.is_timestamp(cells.type):
        return cells
    try:
        if cells.type.unit == "ns":
            cells = cells.cast(pa.timestamp("us", cells.type.tz))
        pc.min_max(cells).as_py()
    except (pa.ArrowInvalid, OverflowError, ValueError):
        return cells.cast(pa.string())
    except Exception as error:  # a time zone that is not known here
        raise Unusual(str(error)) from error
    return cells


def _is_plain(kind: Any) -> bool:
    """Say whether all values of an Arrow type become Python's, or are times."""
    import pyarrow as pa

    types = pa.types
    inner = types.is_dictionary(kind), types.is_list(kind), types.is_large_list(kind)
    if any(inner) or types.is_fixed_size_list(kind):
        inside = kind.value_type
        return _is_plain(inside) and not (types.is_timestamp(inside) or types.is_date32(inside))
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
        or types.is_date32(kind)
        or types.is_timestamp(kind)
        or types.is_decimal(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )
