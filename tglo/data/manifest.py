"""The manifest: one row per scored image. Reading it refuses whatever training could not use.

Formats: CSV, JSON lines, Parquet (image: a path), a folder of `datasets.save_to_disk` (image: a
path or an Image column), webdataset tars (`dir/shard-{000..003}.tar`, or a folder of tars).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.data.containers import MAX_BYTES, ImageStore, why_refused
from tglo.data.errors import ManifestError
from tglo.data.manifest_files import WRITTEN, read_rows, write_rows
from tglo.data.manifest_rows import Columns, RawRow

SHOWN = 10  # refused rows that an error lists


@dataclass(frozen=True, slots=True)
class Row:
    """One scored image.

    sample_id: the first 63 bits of sha256(prompt, null byte, image as written), so it survives
        reordering and rescoring.
    image: relative to the manifest's root (see containers.py).
    score: None if it is not known yet.
    line: the line where the row starts in its file, from 1; in a Parquet or Arrow file the number of
        the row, in tars that of the sample.
    extra: the other columns.
    """

    sample_id: int
    prompt: str
    image: str
    score: float | None
    line: int
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def sample_id(prompt: str, image: str) -> int:
    """Return the identity of a row in [0, 2^63): see `Row`."""
    digest = hashlib.sha256(f"{prompt}\0{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
        missing = [row.line for row in self.rows if row.score is None]
        if missing:
            raise ManifestError(
                f"{len(missing)} of {len(self)} rows of {self.path} have no score (lines "
                f"{missing[:SHOWN]}); score them first (`tglo score`)"
            )
        return np.array([row.score for row in self.rows], dtype=np.float64)

    def prompts(self) -> list[str]:
        """Return the prompt of each row."""
        return [row.prompt for row in self.rows]

    def sample_ids(self) -> NDArray[np.int64]:
        """Return the sample ids (N,) int64."""
        return np.array([row.sample_id for row in self.rows], dtype=np.int64)

    def open_image(self, row: Row, max_bytes: int = MAX_BYTES) -> bytes:
        """Return an image's encoded bytes.

        Raises ImageError if it is unusable, ManifestError if it is outside the data folder.
        """
        return self._store.read(row.image, max_bytes)

    def status(self, file: str) -> os.stat_result | None:
        """Return what the system says of a file that holds images, None if it is not there.

        file: as `tglo.data.containers.split_reference` returns it.
        """
        return self._store.status(file)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def select(self, indices: Iterable[int]) -> Manifest:
        """Return a manifest of the rows at these indices, in the order of the indices."""
        return self.with_rows(self.rows[i] for i in indices)

    def with_rows(self, rows: Iterable[Row]) -> Manifest:
        """Return a manifest of other rows over the same images."""
        return Manifest(tuple(rows), self.root, self.path, self._store)

    def check_output(self, path: str | os.PathLike[str]) -> None:
        """Raise ManifestError unless this manifest can be written to path. Call it before a long scoring."""
        path = Path(path)
        if path.suffix.lower() not in WRITTEN:
            raise ManifestError(f"{path}: a manifest is written as one of {', '.join(WRITTEN)}")
        if os.path.realpath(path.parent) != self.root:
            raise ManifestError(
                f"{path} is not in {self.root}, which its images are relative to; write it there"
            )

    @cached_property
    def sha256(self) -> str:
        """The digest of prompts, images and scores in their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row.sample_id}\t{row.score!r}\n".encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """The digest of the set of sample ids: the same after reordering and rescoring."""
        return hashlib.sha256(np.unique(self.sample_ids()).astype("<i8").tobytes()).hexdigest()


def read_manifest(
    path: str | os.PathLike[str],
    *,
    prompt_column: str = "prompt",
    image_column: str = "image",
    score_column: str = "score",
    require_scores: bool = True,
    root: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Read a manifest of any format.

    root: the folder that image paths start from and must stay in; the manifest's own by default.
    require_scores=False: a missing or NaN score becomes None.

    Raises ManifestError (a ValueError) for a missing file or column (naming what exists), no rows,
    and rows with a bad score, prompt or image path (naming their lines). Images are not opened.
    """
    columns = Columns(prompt_column, image_column, score_column, require_scores)
    folder, raw_rows = read_rows(Path(path), columns)
    real_root = os.path.realpath(folder if root is None else root)
    rows: list[Row] = []
    refused: list[str] = []
    count = 0
    for raw in raw_rows:
        reason = _why_refused(raw, real_root, require_scores)
        if reason is None:
            known = raw.score is not None and not math.isnan(raw.score)
            score = float(raw.score) if known else None
            identity = sample_id(raw.prompt, raw.image)
            rows.append(Row(identity, raw.prompt, raw.image, score, raw.line, raw.extra or {}))
        else:
            count += 1
            if len(refused) < SHOWN:
                refused.append(f"line {raw.line}: {reason}")
    if count:
        more = f" (the first {SHOWN})" if count > SHOWN else ""
        raise ManifestError(
            f"{count} of {count + len(rows)} rows of {path} are refused{more}: "
            + "; ".join(refused)
            + ". Correct or remove them"
        )
    if not rows:
        raise ManifestError(f"{path} has no rows: there is nothing to train on")
    _check_collisions(rows, path)
    return Manifest(tuple(rows), real_root, str(path), ImageStore(real_root))


def write_manifest(path: str | os.PathLike[str], rows: Manifest | Iterable[Row]) -> None:
    """Write rows as .csv, .jsonl or .parquet (by suffix), atomically.

    Columns: prompt, image, score, then the rows' extra columns. Images stay as written, relative
    to their root: a Manifest is written there or refused, and bare rows that go elsewhere are read
    back with `root`. Raises ManifestError for another suffix too.
    """
    if isinstance(rows, Manifest):
        rows.check_output(path)
    rows = list(rows)
    extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    clash = {"prompt", "image", "score"} & set(extra)
    if clash:
        raise ManifestError(
            f"extra columns {sorted(clash)} would overwrite the rows' own; rename them"
        )
    cells = [(row.prompt, row.image, row.score, *map(row.extra.get, extra)) for row in rows]
    write_rows(Path(path), ["prompt", "image", "score", *extra], cells)


def _why_refused(raw: RawRow, root: str, require_scores: bool) -> str | None:
    if raw.problem:
        return raw.problem
    if not isinstance(raw.prompt, str):
        return f"the prompt is {_shown(raw.prompt)}, not text"
    if not isinstance(raw.image, str):
        return f"the image is {_shown(raw.image)}, not a path"
    if not (raw.prompt.isascii() and raw.image.isascii()):
        try:
            (raw.prompt + raw.image).encode()
        except UnicodeEncodeError:
            return "the prompt or the image path is not valid Unicode"
    path = why_refused(raw.image, root)
    if path is not None:
        return f"the image path {raw.image!r} {path}"
    score = raw.score
    if score is None:
        return "the score is missing" if require_scores else None
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return f"the score is {_shown(score)}, not a number"
    if abs(score) > 1e300:
        return "the score is infinite" if abs(score) == math.inf else "the score is beyond 1e300"
    if math.isnan(score):
        return "the score is NaN" if require_scores else None
    return None


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check_collisions(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    if len({row.sample_id for row in rows}) == len(rows):
        return
    seen: dict[int, Row] = {}  # the same image may be scored twice; two images never share an id
    for row in rows:
        first = seen.setdefault(row.sample_id, row)
        if (first.prompt, first.image) != (row.prompt, row.image):
            raise ManifestError(
                f"{path}: lines {first.line} and {row.line} differ but have the same sample id "
                f"{row.sample_id}; rename one of the images"
            )
