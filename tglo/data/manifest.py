"""The manifest: one row per scored image. Reading it refuses whatever training could not use.

Formats: CSV (also with semicolons or tabs), JSON lines, Parquet (image: a path, or the image), a folder of
`datasets.save_to_disk` (image: a path or an Image column), webdataset tars (`dir/shard-{000..003}.tar`,
or a folder of tars), a folder of images with captions or a metadata file, of Parquet files, and
`hf://datasets/OWNER/NAME`, which has any of these.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.coded import Coded, numbered
from tglo.data.containers import MAX_BYTES, ImageStore, split_reference
from tglo.data.errors import ManifestError
from tglo.data.frames import FrameFolder, is_frame
from tglo.data.kinds import is_video
from tglo.data.manifest_checks import problem_of
from tglo.data.manifest_files import read_rows
from tglo.data.manifest_rows import Columns, RawRow
from tglo.data.manifest_writing import WRITTEN, encoded
from tglo.data.row import Row as Row
from tglo.data.row import sample_id as sample_id
from tglo.data.row_blocks import Block, Gathered, Unusual, read_blocks
from tglo.data.row_columns import LazyRows
from tglo.files import write_bytes

log = logging.getLogger("tglo")

SHOWN = 10  # refused rows that an error lists
MANY = 65536  # rows from which a manifest keeps columns
SEED, FAMILY = "seed", "family"
"""Columns of images that tglo made: the seed of the image's generator, and the model's family."""


@dataclass(frozen=True)
class Manifest:
    """Rows, and the folder that holds their images; `read_manifest` makes one."""

    rows: Sequence[Row]
    root: str
    path: str
    _store: ImageStore = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def scores(self) -> NDArray[np.float64]:
        """Return the scores (N,) float64; ManifestError when a row has none."""
        rows = self.rows
        if isinstance(rows, LazyRows):
            scores, lines = rows.scores, rows.lines
        else:
            scores = np.array([np.nan if r.score is None else r.score for r in rows])
            lines = np.array([row.line for row in rows], dtype=np.int64)
        missing = lines[np.isnan(scores)].tolist()
        if missing:
            raise ManifestError(
                f"{len(missing)} of {len(self)} rows of {self.path} have no score (lines "
                f"{missing[:SHOWN]}); score them first (`tglo score`)"
            )
        return scores

    def prompts(self) -> list[str]:
        """Return the prompt of each row."""
        return list(self.prompt_codes())

    def prompt_codes(self) -> Coded[str]:
        """Return the prompt of each row, as the different ones and a code for each row: for many rows."""
        if isinstance(self.rows, LazyRows):
            return self.rows.prompts
        return Coded(*numbered([row.prompt for row in self.rows]))

    def different_prompts(self) -> set[str]:
        """Return the prompts that rows have."""
        coded = self.prompt_codes()
        return {coded.names[code] for code in np.unique(coded.codes).tolist()}

    def images(self) -> Iterator[str]:
        """Yield the image of each row."""
        if isinstance(self.rows, LazyRows):
            return self.rows.images()
        return (row.image for row in self.rows)

    def sample_ids(self) -> NDArray[np.int64]:
        """Return the sample ids (N,) int64."""
        if isinstance(self.rows, LazyRows):
            return self.rows.ids
        return np.array([row.sample_id for row in self.rows], dtype=np.int64)

    def lines(self) -> NDArray[np.int64]:
        """Return the line of each row (N,) int64."""
        if isinstance(self.rows, LazyRows):
            return self.rows.lines
        return np.array([row.line for row in self.rows], dtype=np.int64)

    def open_image(self, row: Row, max_bytes: int = MAX_BYTES) -> bytes:
        """Return an image's encoded bytes.

        Raises ImageError if it is unusable, ManifestError if it is outside the data folder.
        """
        return self._store.read(row.image, max_bytes)

    def open_file(self, row: Row) -> AbstractContextManager[BufferedIOBase | FrameFolder]:
        """Open a row's image or video, of any size, seekable. Errors are those of `open_image`."""
        return self._store.open(row.image, row.extra)

    def is_video(self, row: Row) -> bool:
        """Say whether a row is taken for a video: by its ending, or because it is a folder, of frames."""
        return self.names_video(row.image)

    def names_video(self, image: str) -> bool:
        """Say `is_video` of a row's image."""
        return is_video(image) or self.folder(image) is not None

    def folder(self, image: str) -> Path | None:
        """Return the folder that is named as an image, None if there is none of that name."""
        return None if is_frame(image) else self._store.folder(image)

    def status(self, file: str) -> os.stat_result | None:
        """Return what the system says of a file that holds images, None if it is not there.

        file: as `tglo.data.containers.split_reference` returns it.
        """
        return self._store.status(file)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def select(self, indices: Iterable[int] | NDArray[np.int64]) -> Manifest:
        """Return a manifest of the rows at these indices, in the order of the indices."""
        if isinstance(self.rows, LazyRows):
            if not isinstance(indices, np.ndarray):
                indices = np.array([*indices], dtype=np.int64)
            return replace(self, rows=self.rows.take(indices))
        return self.with_rows(self.rows[i] for i in indices)

    def distinct(self) -> Manifest:
        """Return a manifest with each sample once: the last row that has it, at the place of the first."""
        ids = self.sample_ids()
        _, first = np.unique(ids, return_index=True)
        _, last = np.unique(ids[::-1], return_index=True)
        return self.select((len(ids) - 1 - last)[np.argsort(first)])

    def with_scores(
        self, scores: NDArray[np.float64], columns: Mapping[str, NDArray[np.float64]]
    ) -> Manifest:
        """Return the manifest with these scores, none of them NaN, and further columns, (N,) each."""
        if isinstance(self.rows, LazyRows):
            return replace(self, rows=self.rows.with_scores(scores, columns))
        cells = [column.tolist() for column in columns.values()]
        return self.with_rows(
            replace(row, score=score, extra={**row.extra, **dict(zip(columns, more, strict=True))})
            for row, score, *more in zip(self.rows, scores.tolist(), *cells, strict=True)
        )

    def column(self, name: str) -> NDArray[np.float64]:
        """Return another column of numbers (N,) float64."""
        if isinstance(self.rows, LazyRows):
            cells: Iterable[Any] = (cell for *_, cell in self.rows.cells([name]))
            return np.fromiter(cells, dtype=np.float64, count=len(self))
        return np.array([row.extra[name] for row in self.rows], dtype=np.float64)

    def with_rows(self, rows: Iterable[Row]) -> Manifest:
        """Return a manifest of other rows over the same images."""
        return Manifest(tuple(rows), self.root, self.path, self._store)

    def check_output(self, path: str | os.PathLike[str], *, elsewhere: bool = False) -> None:
        """Raise ManifestError unless this manifest can be written to path. Call it before a long scoring.

        elsewhere: allow any folder, if all images are found from there with `root`.
        """
        path, root = Path(path), self._store.root
        if path.is_dir():
            raise ManifestError(
                f"{path} is a folder; give a file in it, such as {path / 'scored.csv'}"
            )
        if path.suffix.lower() not in WRITTEN:
            raise ManifestError(f"{path}: a manifest is written as one of {', '.join(WRITTEN)}")
        folder = os.path.realpath(path.parent)
        if not elsewhere and folder not in (root.folder, root.beside):
            raise ManifestError(
                f"{path} is not in {self.root}, which its images are relative to; write it there"
            )
        if folder == root.beside or root.beside == root.folder:
            return
        for image in self.images():
            if root.is_beside(split_reference(image)[0]):
                raise ManifestError(
                    f"image {image!r} is relative to {root.beside} and not to the root "
                    f"{root.folder}, and would not be found from {path}; write into {root.beside}, or "
                    "name images by their absolute paths"
                )

    @cached_property
    def sha256(self) -> str:
        """The digest of prompts, images and scores in their order."""
        if isinstance(self.rows, LazyRows):
            return self.rows.sha256()
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row.sample_id}\t{row.score!r}\n".encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """The digest of the set of sample ids: the same after reordering and rescoring."""
        ids = np.sort(self.sample_ids())  # np.unique takes several times as long
        new, digest = np.append(True, ids[1:] != ids[:-1]), hashlib.sha256()
        for start in range(0, len(ids), 2**17):
            block = slice(start, start + 2**17)
            digest.update(ids[block][new[block]].astype("<i8", copy=False).data)
        return digest.hexdigest()


def read_manifest(
    path: str | os.PathLike[str],
    *,
    prompt_column: str = "prompt",
    image_column: str = "image",
    score_column: str = "score",
    require_scores: bool = True,
    root: str | os.PathLike[str] | None = None,
    score_pattern: str | None = None,
) -> Manifest:
    """Read a manifest of any format.

    root: the folder that images must lie in, links followed; the manifest's own by default. Relative
        paths start there, or in the manifest's folder where the root has no such file.
    require_scores=False: a missing or NaN score becomes None.
    score_pattern: where the names of an image folder's files have their scores, as `*_{score}`.

    Raises ManifestError (a ValueError) for a missing file or column (naming what exists), no rows,
    and rows with a bad score, prompt or image path (naming their lines). Images are not opened.
    """
    columns = Columns(prompt_column, image_column, score_column, require_scores, score_pattern)
    place, raw, blocks = read_rows(Path(path), columns, root)
    quick = None if blocks is None else _read_quickly(path, blocks, place.folder, require_scores)
    rows = quick or _read_rows(path, raw, place.folder, require_scores)
    _check_collisions(rows, path)
    return Manifest(rows, place.folder, str(path), ImageStore(place))


def _read_quickly(
    path: object, blocks: Iterator[Block], root: str, require_scores: bool
) -> LazyRows | None:
    """Read a large file by columns; None for one that has to be read row by row."""
    import pyarrow as pa

    try:
        return read_blocks(blocks, root, require_scores)
    except (Unusual, ValueError, OSError, csv.Error, pa.ArrowException) as error:
        log.debug("%s is read row by row: %s", path, error)
        return None


def _read_rows(
    path: object, raw_rows: Iterator[RawRow], root: str, require_scores: bool
) -> Sequence[Row]:
    rows: list[Row] = []
    large: Gathered | None = None
    refused: dict[str, list[str]] = {}  # by the reason, the first places
    count = kept = 0
    for raw in raw_rows:
        reason = problem_of(raw, root, require_scores)
        if reason is None:
            known = raw.score is not None and not math.isnan(raw.score)
            score = float(raw.score) if known else None
            identity = sample_id(raw.prompt, raw.image)
            rows.append(Row(identity, raw.prompt, raw.image, score, raw.line, raw.extra or {}))
            kept += 1
            if kept % MANY == 0 and (large is not None or find_spec("pyarrow") is not None):
                large = large or Gathered()
                large.add_rows(rows)
                rows = []
        else:
            if count < SHOWN:
                refused.setdefault(reason, []).append(raw.where)
            count += 1
    if count:
        more = f" (the first {SHOWN})" if count > SHOWN else ""
        outside = any("outside the data folder" in reason for reason in refused)
        hint = ", or give the folder of images that lie elsewhere as --root (data.root)"
        raise ManifestError(
            f"{count} of {count + kept} rows of {path} are refused{more}: "
            + "; ".join(f"{', '.join(where)}: {reason}" for reason, where in refused.items())
            + f". Correct or remove them{hint if outside else ''}"
        )
    if not kept:
        raise ManifestError(f"{path} has no rows: there is nothing to train on")
    if large is None:
        return tuple(rows)
    if rows:
        large.add_rows(rows)
    return large.rows()


def write_manifest(path: str | os.PathLike[str], rows: Manifest | Iterable[Row]) -> None:
    """Write rows as .csv, .tsv, .jsonl or .parquet (by suffix), atomically.

    Columns: prompt, image, score, then the rows' extra columns. Images stay as written, relative
    to their root: a Manifest is written there or refused, and bare rows that go elsewhere are read
    back with `root`. Raises ManifestError for another suffix too, and what `check_rows` raises.
    """
    if isinstance(rows, Manifest):
        rows.check_output(path)
        rows = rows.rows
    write_bytes(path, encoded(path, rows))


def check_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Raise ManifestError for an extra column that takes a name of the rows' own, or that holds what
    the format of path cannot. Call it before a long scoring.
    """
    rows = rows.rows if isinstance(rows, Manifest) else rows
    encoded(path, rows[:1] if isinstance(rows, LazyRows) and rows.is_plain else rows)


def _check_collisions(rows: Sequence[Row], path: object) -> None:
    if isinstance(rows, LazyRows):
        ids = rows.ids
    else:
        ids = np.array([row.sample_id for row in rows], dtype=np.int64)
    ordered = np.sort(ids)
    if (ordered[1:] != ordered[:-1]).all():
        return
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    # The same image may be scored twice; two images never share an id.
    for place in np.flatnonzero(first[group] != np.arange(len(ids))).tolist():
        one, row = rows[int(first[group[place]])], rows[place]
        if (one.prompt, one.image) != (row.prompt, row.image):
            raise ManifestError(
                f"{path}: lines {one.line} and {row.line} differ but have the same sample id "
                f"{row.sample_id}; rename one of the images"
            )
