"""From blocks of columns, as quick readers give them, to the checked columns of a manifest."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tglo.coded import Coded
from tglo.data.manifest_checks import problem_of
from tglo.data.manifest_rows import RawRow
from tglo.data.row import Row
from tglo.data.row_columns import Extras, LazyRows, RowColumns, Texts, text_bytes
from tglo.data.spilled import Spilled

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS, _BYTES = 2**20, 2**28
"""Prompts of so many rows or bytes are kept as they are before the different ones among them are found."""


class Unusual(Exception):
    """A file that the quick readers leave to the one that goes row by row: it alone words what is wrong."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows: N of each, not checked.

    prompts, images: Arrow text, which may have nulls. scores: NaN where there is none. extra: the other columns by
    the names that a `Row` gives them.
    """

    prompts: pa.Array
    images: pa.Array
    scores: NDArray[np.float64]
    lines: NDArray[np.int64]
    extra: Mapping[str, pa.Array]
    dicts: Sequence[Mapping[str, Any]] | None = None
    """The other columns of each row, where they are not columns of one type; then `extra` is empty."""


def read_blocks(blocks: Iterable[Block], root: str, require_scores: bool) -> LazyRows:
    """Return checked rows; Unusual if any is refused, or there are none, OSError for a full disk.

    The texts of many rows that are seldom looked at, names of images and other columns, are kept in a temporary
    file (TMPDIR), mapped.
    """
    gathered = Gathered(Spilled())
    for block in blocks:
        check_block(block, root, require_scores)
        gathered.add(block)
    if not gathered.count:
        raise Unusual("no rows")
    return gathered.rows()


def check_block(block: Block, root: str, require_scores: bool) -> None:
    """Raise Unusual if a row is refused. What columns alone do not clear is judged by `problem_of`."""
    import pyarrow as pa

    if block.prompts.null_count or block.images.null_count:
        raise Unusual("rows without a prompt or an image")
    try:
        for texts in (block.prompts, block.images):
            texts.validate(full=True)
    except pa.ArrowInvalid:
        raise Unusual("text that is not valid Unicode") from None
    scores = block.scores
    doubtful = _doubtful_paths(block.images, root) | ~(np.abs(scores) <= 1e300)
    for place in np.flatnonzero(doubtful).tolist():
        prompt, image = block.prompts[place].as_py(), block.images[place].as_py()
        row = RawRow(int(block.lines[place]), prompt, image, float(scores[place]))
        if problem_of(row, root, require_scores) is not None:
            raise Unusual("refused rows")


def _doubtful_paths(images: pa.Array, root: str) -> NDArray[np.bool_]:
    """Return which names `why_refused` has to look at: all that it would refuse, and few more."""
    import pyarrow.compute as pc

    data, places = text_bytes(images)
    doubtful = pc.starts_with(images, "/")
    if doubtful.true_count:
        inside = pc.starts_with(images, root.rstrip("/") + "/")
        doubtful = pc.and_(doubtful, pc.invert(inside))
    for part in ("..", "://", "\0"):
        if part.encode() in data:
            doubtful = pc.or_(doubtful, pc.match_substring(images, part))
    found: NDArray[np.bool_] = doubtful.to_numpy(zero_copy_only=False)
    return found | (np.diff(places) == 0)


class Gathered:
    """Blocks that become the columns of a manifest."""

    def __init__(self, spilled: Spilled | None = None) -> None:
        self.count = 0
        self._spilled = spilled
        self._texts: list[Mapping[str, pa.Array]] = []
        self._waiting: list[pa.Array] = []
        self._size = [0, 0]  # rows and bytes that wait
        self._prompts: list[pa.Array] = []
        self._arrays: list[tuple[NDArray[Any], ...]] = []
        self._extra: tuple[str, ...] = ()
        self._dicts: list[Mapping[str, Any]] | None = None

    def add(self, block: Block) -> None:
        """Take a checked block."""
        names = tuple(block.extra)
        if self.count and names != self._extra:
            raise Unusual("columns that change")
        self._extra = names
        self._add_dicts(block.dicts, len(block.lines))
        self._add(block)

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Take rows that were made one by one."""
        import pyarrow as pa

        extra = [row.extra for row in rows]
        self._add_dicts(extra if any(extra) else None, len(rows))
        block = Block(
            pa.array([row.prompt for row in rows], pa.large_string()),
            pa.array([row.image for row in rows], pa.large_string()),
            np.array([np.nan if row.score is None else row.score for row in rows]),
            np.array([row.line for row in rows], dtype=np.int64),
            {},
        )
        self._add(block)

    def rows(self) -> LazyRows:
        """Return all that was taken."""
        import pyarrow as pa

        self._find_different()
        coded = pa.chunked_array(self._prompts).unify_dictionaries()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])
        names = Texts(pa.chunked_array([coded.chunk(0).dictionary]))
        ids, scores, lines = (np.concatenate(parts) for parts in zip(*self._arrays, strict=True))
        images, *others = self._columns()
        extras: Sequence[Mapping[str, Any]] | None = self._dicts
        if others:
            extras = Extras(dict(zip(self._extra, others, strict=True)))
        self._prompts, self._arrays = [], []
        pa.default_memory_pool().release_unused()
        _trim()
        return LazyRows(RowColumns(Coded(names, codes), Texts(images), scores, ids, lines, extras))

    def _add_dicts(self, dicts: Sequence[Mapping[str, Any]] | None, count: int) -> None:
        if dicts is None and self._dicts is None:
            return
        if self._dicts is None:
            self._dicts = [{} for _ in range(self.count)]
        self._dicts += [{} for _ in range(count)] if dicts is None else dicts

    def _add(self, block: Block) -> None:
        self._arrays.append((sample_ids(block.prompts, block.images), block.scores, block.lines))
        self.count += len(block.lines)
        cells = [block.images, *block.extra.values()]
        self._texts.append({str(number): column for number, column in enumerate(cells)})
        self._waiting.append(block.prompts)
        self._size = [self._size[0] + len(block.lines), self._size[1] + block.prompts.nbytes]
        if self._size[0] >= _ROWS or self._size[1] >= _BYTES:
            self._find_different()
        if self._spilled is not None and self.count >= _ROWS:
            for columns in self._texts:
                self._spilled.write(columns)
            self._texts = []

    def _columns(self) -> list[pa.ChunkedArray]:
        """Return the names of images, and the other columns in their order."""
        import pyarrow as pa

        if self._spilled is not None and not self._texts:
            return list(self._spilled.read().values())
        return [pa.chunked_array([part[name] for part in self._texts]) for name in self._texts[0]]

    def _find_different(self) -> None:
        import pyarrow as pa

        if self._waiting:
            chunks = pa.chunked_array(self._waiting).cast(pa.large_string()).dictionary_encode()
            self._prompts.append(chunks.combine_chunks())
            self._waiting, self._size = [], [0, 0]


def _trim() -> None:
    """Give the system back what many small pieces took, where the C library does not by itself: a quarter of a GB
    of ten million rows.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def sample_ids(prompts: pa.Array, images: pa.Array) -> NDArray[np.int64]:
    """Return `sample_id` of each prompt and image, (N,) int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_string()
    joined = pc.binary_join_element_wise(
        prompts.cast(kind), images.cast(kind), pa.scalar("\0", kind)
    )
    data, places = text_bytes(joined)
    ends, sha256 = places.tolist(), hashlib.sha256
    digests = [sha256(data[a:b]).digest() for a, b in itertools.pairwise(ends)]
    first = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 4)[:, 0]
    return (first >> np.uint64(1)).astype(np.int64)
