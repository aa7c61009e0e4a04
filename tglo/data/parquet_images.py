"""Reads images out of a Parquet file, a few rows at a time: a group of rows may be larger than memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tglo.data.errors import ImageError, reading_manifest

_ROWS = 16  # read together
_KEPT_BYTES = 64 * 2**20  # of what was read last, for threads that are a little behind


class ParquetImages:
    """The images of a Parquet file. May be used from several threads; rows in order are read once.

    name: as messages have it. Raises ManifestError if it is no Parquet file.
    """

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow.parquet as pq

        self._name, self._lock = name, threading.Lock()
        with reading_manifest(path, "Parquet file"):
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**16)
        meta = self._file.metadata
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._stream: tuple[str, int, int, Iterator[Any]] | None = None
        self._kept: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def read(self, column: str, row: int) -> bytes | None:
        """Return the bytes of a row, None if it has none. ImageError where there is no such row, or it is damaged."""
        import pyarrow as pa

        group = int(np.searchsorted(self._ends, row, side="right"))
        if column not in self._file.schema_arrow.names or group == len(self._ends):
            raise ImageError(f"{self._name} has no image {column}/{row}")
        place = row - (int(self._ends[group - 1]) if group else 0)
        with self._lock:
            try:
                value = self._batch(column, group, place // _ROWS)[place % _ROWS].as_py()
            except (pa.ArrowException, OSError, StopIteration, IndexError) as error:
                self._stream = None
                cause = " ".join(str(error).split())
                raise ImageError(
                    f"row {row + 1} of {self._name} is damaged ({cause}): copy the file again"
                ) from None
        data = value.get("bytes") if isinstance(value, dict) else value
        return data if isinstance(data, bytes) else None

    def _batch(self, column: str, group: int, number: int) -> Any:
        key = (column, group, number)
        if key not in self._kept:
            self._kept[key] = self._next(column, group, number)
            while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    @property
    def _kept_bytes(self) -> int:
        return sum(cells.nbytes for cells in self._kept.values())

    def _next(self, column: str, group: int, number: int) -> Any:
        """Read on to a batch of rows of a group; from the group's start if it lies behind."""
        import pyarrow as pa

        if self._stream is None or self._stream[:2] != (column, group) or self._stream[2] > number:
            nested = pa.types.is_struct(self._file.schema_arrow.field(column).type)
            leaf = f"{column}.bytes" if nested else column
            batches = self._file.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=[leaf], use_threads=False
            )
            self._stream = (column, group, 0, batches)
        *_, at, batches = self._stream
        for _ in range(at, number):
            next(batches)
        cells = next(batches).column(0)
        self._stream = (column, group, number + 1, batches)
        return cells
