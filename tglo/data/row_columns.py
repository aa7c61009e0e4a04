"""The rows of a large manifest by column: arrays and Arrow text, and a `Row` only for what is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from tglo.coded import Coded
from tglo.data.row import Row
from tglo.data.row_cells import BLOCK, Extras, Joined, Places, Texts

if TYPE_CHECKING:
    import pyarrow as pa


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
        columns = self._columns
        for block, images in self._blocks():
            cells = zip(
                columns.ids[block].tolist(),
                columns.prompts.take(block),
                images,
                columns.scores[block].tolist(),
                columns.lines[block].tolist(),
                self._extras(block),
                strict=True,
            )
            for number, prompt, image, score, line, extra in cells:
                yield Row(number, prompt, image, score if score == score else None, line, extra)

    def cells(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield prompt, image, score and these other columns of each row, without making rows."""
        columns = self._columns
        for block, images in self._blocks():
            scores = [score if score == score else None for score in columns.scores[block].tolist()]
            extras = self._extras(block)
            others = [[extra.get(name) for extra in extras] for name in names]
            yield from zip(columns.prompts.take(block), images, scores, *others, strict=True)

    def images(self) -> Iterator[str]:
        """Yield the image of each row."""
        for _, images in self._blocks():
            yield from images

    def extra_names(self) -> list[str]:
        """Return the names of the other columns, in their order."""
        extras, names = self._columns.extras, dict[str, None]()
        joined = extras if isinstance(extras, Joined) else None
        others = extras if joined is None else joined.others
        if isinstance(others, Extras):
            names = dict.fromkeys(others.names)
        elif others is not None:
            for block, _ in self._blocks():
                names |= dict.fromkeys(name for extra in self._extras(block) for name in extra)
        return [*names, *(name for name in (joined.numbers if joined else ()) if name not in names)]

    @property
    def is_plain(self) -> bool:
        """Whether every format can hold what the other columns have, as is known without a look at each."""
        extras = self._columns.extras
        others = extras.others if isinstance(extras, Joined) else extras
        return others is None or (isinstance(others, Extras) and others.is_plain)

    def with_scores(
        self, scores: NDArray[np.float64], numbers: Mapping[str, NDArray[np.float64]]
    ) -> LazyRows:
        """Return the rows with these scores and further columns, (N,) each."""
        columns = self._columns
        if self._places is not None:
            scores, numbers = self._spread(scores), {n: self._spread(c) for n, c in numbers.items()}
        extras = columns.extras
        if numbers and isinstance(extras, Joined):
            extras = Joined(extras.others, {**extras.numbers, **numbers})
        elif numbers:
            extras = Joined(extras, numbers)
        return LazyRows(replace(columns, scores=scores, extras=extras), self._places)

    def _spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.full(len(self._columns.ids), np.nan)
        whole[self._places] = values
        return whole

    def _blocks(self) -> Iterator[tuple[slice | Places, list[str]]]:
        """Yield the places of some rows after another, and their images."""
        images = self._columns.images
        for start in range(0, len(self), BLOCK):
            run = slice(start, min(start + BLOCK, len(self)))
            if self._places is None:
                yield run, list(images[run])
                continue
            places = self._places[run]
            yield (
                places,
                images.at(places) if isinstance(images, Texts) else [images[i] for i in places],
            )

    def _extras(self, block: slice | Places) -> Sequence[Mapping[str, Any]]:
        extras = self._columns.extras
        if isinstance(block, slice):
            count = block.stop - block.start
            return [{} for _ in range(count)] if extras is None else extras[block]
        return [{} if extras is None else extras[i] for i in block.tolist()]

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
