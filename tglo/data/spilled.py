"""Columns of text of many rows in a temporary file that is mapped: they take memory only where they are looked at."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class Spilled:
    """Blocks of columns of one schema, written one after another. The file has no name: the disk is free again as
    soon as nobody reads it, however the process ends.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._writer: Any = None

    def write(self, columns: Mapping[str, pa.Array]) -> None:
        """Append a block. OSError for a full disk, ArrowInvalid for columns of other kinds than those before."""
        import pyarrow as pa

        batch = pa.record_batch(list(columns.values()), names=list(columns))
        if self._writer is None:
            self._file = tempfile.TemporaryFile(prefix="tglo-")
            self._writer = pa.ipc.new_stream(self._file, batch.schema)
        self._writer.write_batch(batch)

    def read(self) -> dict[str, pa.ChunkedArray]:
        """Return all columns, mapped; after it nothing can be written."""
        import pyarrow as pa

        self._writer.close()
        with self._file as file:
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapped))).read_all()
        return dict(zip(table.column_names, table.columns, strict=True))
