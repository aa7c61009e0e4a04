"""The rows of a large manifest by column: arrays and Arrow text, and a `Row` only for what is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from tglo.coded import Coded
from tglo.data.row import Row

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


@dataclass(frozen=True, eq=False)
class RowColumns:
    """All rows of a file: N of each.

    images: text that can be sliced. scores: NaN where there is none. lines, ids: (N,) int64.
    extras: the other columns of each row, None if there are none.
    """

    prompts: Coded[str]
    images: Sequence[str]
    scores: NDArray[np.float64]
    ids: NDArray[np.int64]
    lines: NDArray[np.int64]
    extras: Sequence[Mapping[str, Any]] | None


class LazyRows(Sequence[Row]):
    """Rows of a file, all or those at some places, as a sequence of `Row`; it equals any sequence of the same rows.

    A selection keeps its places alone. `scores` and others are arrays of all its rows.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, columns: RowColumns, places: Places | None = None) -> None:
        self._columns, self._places = columns, places

    def __len__(self) -> int:
        return len(self._columns.ids if self._places is None else self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> LazyRows: ...
    def __getitem__(self, place: int | slice) -> Row | LazyRows:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        count = len(self)
        if not -count <= place < count:
            raise IndexError(f"there is no row {place} among {count}")
        place = int(place) % count
        at = place if self._places is None else int(self._places[place])
        columns = self._columns
        score = float(columns.scores[at])
        return Row(
            sample_id=int(columns.ids[at]),
            prompt=columns.prompts[at],
            image=columns.images[at],
            score=None if score != score else score,
            line=int(columns.lines[at]),
            extra={} if columns.extras is None else columns.extras[at],
        )

    def __iter__(self) -> Iterator[Row]:
        if self._places is not None:
            yield from map(self.__getitem__, range(len(self)))
            return
        columns = self._columns
        for start in range(0, len(self), BLOCK):
            block = slice(start, min(start + BLOCK, len(self)))
            extras = columns.extras
            cells = zip(
                columns.ids[block].tolist(),
                columns.prompts[block],
                columns.images[block],
                columns.scores[block].tolist(),
                columns.lines[block].tolist(),
                [{} for _ in columns.ids[block]] if extras is None else extras[block],
                strict=True,
            )
            for number, prompt, image, score, line, extra in cells:
                yield Row(number, prompt, image, score if score == score else None, line, extra)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def take(self, places: Places) -> LazyRows:
        """Return the rows at these places, in their order; negative ones count from the end."""
        count = len(self)
        outside = places[(places < -count) | (places >= count)]
        if outside.size:
            raise IndexError(f"there is no row {outside[0]} among {count}")
        places = np.where(places < 0, places + count, places)
        if len(places) == count and np.array_equal(places, np.arange(count)):
            return self
        return LazyRows(self._columns, places if self._places is None else self._places[places])

    @property
    def scores(self) -> NDArray[np.float64]:
        """(N,), NaN where there is none; a copy."""
        scores = self._columns.scores
        return scores.copy() if self._places is None else scores[self._places]

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,), the sample ids; not to be written to."""
        return self._of(self._columns.ids)

    @property
    def lines(self) -> NDArray[np.int64]:
        """(N,), not to be written to."""
        return self._of(self._columns.lines)

    @property
    def prompts(self) -> Coded[str]:
        """The prompt of each row."""
        prompts = self._columns.prompts
        return prompts if self._places is None else prompts.take(self._places)

    def sha256(self) -> str:
        """Return the digest of ids and scores in their order: of lines of both, the score as Python writes it."""
        digest, ids, scores = hashlib.sha256(), self.ids, self._of(self._columns.scores)
        for start in range(0, len(self), 2**17):
            block = slice(start, start + 2**17)
            digest.update(_lines_of(ids[block], scores[block]))
        return digest.hexdigest()

    def _of(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._places is not None:
            return values[self._places]
        view = values.view()
        view.flags.writeable = False  # all selections share it
        return view


def _lines_of(ids: NDArray[np.int64], scores: NDArray[np.float64]) -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.cast(pa.array(scores), pa.string())
    size = np.abs(scores)
    # Of the others Arrow and Python write the same digits in the same form.
    odd = ~((size >= 1e-3) & (size < 1e9)) | (scores == np.floor(scores))
    if odd.any():
        python = [repr(None if score != score else score) for score in scores[odd].tolist()]
        texts = pc.replace_with_mask(texts, pa.array(odd), pa.array(python, pa.string()))
    ended = pc.binary_join_element_wise(texts, "", "\n")
    lines = pc.binary_join_element_wise(pc.cast(pa.array(ids), pa.string()), ended, "\t")
    return text_bytes(lines)[0]


def text_bytes(texts: pa.Array) -> tuple[bytes, NDArray[np.int64]]:
    """Return the bytes of Arrow text without gaps, and where each begins and the last ends, (N + 1,)."""
    import pyarrow as pa

    if not pa.types.is_large_string(texts.type):
        texts = texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if data is None:
        return b"", places
    return data.slice(int(places[0]), int(places[-1] - places[0])).to_pybytes(), places - places[0]
