"""Columns of a large manifest as sequences of what a row has: text, and the other columns as dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 4096  # rows that are made at once where all are gone through
Places = NDArray[np.int64]


class Texts(Sequence[str]):
    """Arrow text as a sequence of Python strings; a slice is a list."""

    def __init__(self, chunks: pa.ChunkedArray) -> None:
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            assert step == 1
            return list(self._chunks.slice(start, max(0, stop - start)).to_pylist())
        text: str = self._chunks[place].as_py()
        return text

    def at(self, places: Places) -> list[str]:
        """Return the texts at these places."""
        import pyarrow as pa

        return list(self._chunks.take(pa.array(places)).to_pylist())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks.chunks:
            for start in range(0, len(chunk), BLOCK):
                yield from chunk.slice(start, BLOCK).to_pylist()


class Extras(Sequence[Mapping[str, Any]]):
    """The other columns of rows, as dicts; a slice is a list of them."""

    def __init__(self, columns: Mapping[str, pa.ChunkedArray]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [*self._columns]

    @property
    def is_plain(self) -> bool:
        """Whether all cells are text, numbers or missing, which every format of a manifest can hold."""
        import pyarrow.types as kinds

        plain = (kinds.is_string, kinds.is_large_string, kinds.is_integer, kinds.is_floating)
        kind_of = [cells.type for cells in self._columns.values()]
        return all(any(is_plain(kind) for is_plain in plain) for kind in kind_of)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(place, int):
            return {name: cells[place].as_py() for name, cells in self._columns.items()}
        start, stop, step = place.indices(len(self))
        assert step == 1
        cells = [c.slice(start, max(0, stop - start)).to_pylist() for c in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*cells, strict=True)]


class Joined(Sequence[Mapping[str, Any]]):
    """The other columns of rows, and numbers (N,) that are further ones or take the place of some of them."""

    def __init__(
        self, others: Sequence[Mapping[str, Any]] | None, numbers: Mapping[str, NDArray[Any]]
    ) -> None:
        self.others, self.numbers = others, numbers

    def __len__(self) -> int:
        return len(next(iter(self.numbers.values())))

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(place, int):
            known = {} if self.others is None else self.others[place]
            return {**known, **{name: cells[place].item() for name, cells in self.numbers.items()}}
        rows = zip(*(cells[place].tolist() for cells in self.numbers.values()), strict=True)
        new = [dict(zip(self.numbers, row, strict=True)) for row in rows]
        if self.others is None:
            return list(new)
        return [{**known, **row} for known, row in zip(self.others[place], new, strict=True)]
