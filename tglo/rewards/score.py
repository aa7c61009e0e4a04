"""Scoring a manifest: batched, resumable, and nothing but finite numbers comes out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from tglo.data.errors import ImageError, ManifestError
from tglo.data.images import decode_image
from tglo.data.manifest import Manifest, Row
from tglo.data.prefetch import in_order
from tglo.files import read_json, write_json

FORMAT = "tglo.scores"
SAVE_SECONDS = 30.0  # between two savings of partial results


@dataclass(frozen=True)
class _Opened:
    row: Row
    image: Image.Image | None  # None: its score is known, or it cannot be read
    sha256: str
    problem: str | None = None


def score_manifest(
    manifest: Manifest,
    scorer: Callable[[list[Image.Image], list[str]], ArrayLike],
    batch_size: int = 32,
    *,
    partial: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Manifest:
    """The same manifest with every row's score set to scorer(images, prompts).

    Row order, sample ids and extra columns stay; `write_manifest` stores the result, `.scores()` is
    the (N,) float64 array. The same image for the same prompt is scored once.
    partial: a JSON file that keeps what has been scored so far, written atomically every half
        minute and at the end or a failure. A later call with the same scorer goes on from there;
        an image that changed meanwhile is scored again.

    Raises ManifestError for a score that is NaN or inf (naming the row) and, once all others are
    scored, for images that cannot be read (naming the rows); TypeError or ValueError for a scorer
    that returns something else than one number per image.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    known = _Known(partial, scorer)
    rows = list({row.sample_id: row for row in manifest.rows}.values())
    unreadable: list[str] = []
    batch: list[_Opened] = []
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _bar(progress, rows) as bar:
            opened = in_order(pool, lambda row: _open(manifest, row, known), rows, 2 * batch_size)
            for entry in opened:
                bar.update()
                if entry.problem is not None:
                    unreadable.append(f"line {entry.row.line}: {entry.row.image}: {entry.problem}")
                elif entry.image is not None:
                    batch.append(entry)
                if len(batch) == batch_size:
                    _score(batch, scorer, known)
                    batch = []
            if batch:
                _score(batch, scorer, known)
    finally:
        known.save()
    if unreadable:
        raise ManifestError(
            f"{len(unreadable)} of {len(rows)} images of {manifest.path} cannot be scored: "
            + "; ".join(unreadable[:10])
            + ". Repair their files or remove their rows; the others are scored"
            + ("" if partial is None else f", see {partial}")
        )
    scored = tuple(replace(row, score=known.scores[row.sample_id][0]) for row in manifest.rows)
    return manifest.with_rows(scored)


class _Known:
    """Scores so far, by sample id, each with the hash of the image it belongs to."""

    def __init__(self, path: str | os.PathLike[str] | None, scorer: Any) -> None:
        self.path = None if path is None else Path(path)
        module = getattr(scorer, "__module__", type(scorer).__module__)
        name = getattr(scorer, "__qualname__", type(scorer).__qualname__)
        self.scorer = f"{module}:{name}"
        self.scores: dict[int, tuple[float, str]] = {}
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            content = read_json(self.path)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"{self.path} holds no partial scores; give another file")
            if content["scorer"] != self.scorer:
                raise ValueError(
                    f"{self.path} holds scores of {content['scorer']!r}, not of {self.scorer!r}: "
                    "remove it or give another file"
                )
            self.scores = {int(i): (score, sha) for i, (score, sha) in content["scores"].items()}

    def add(self, entry: _Opened, score: float) -> None:
        self.scores[entry.row.sample_id] = (score, entry.sha256)

    def save(self, *, if_due: bool = False) -> None:
        if self.path is None or (if_due and time.monotonic() - self._saved < SAVE_SECONDS):
            return
        scores = {str(i): list(entry) for i, entry in self.scores.items()}
        write_json(self.path, {"format": FORMAT, "scorer": self.scorer, "scores": scores})
        self._saved = time.monotonic()


def _open(manifest: Manifest, row: Row, known: _Known) -> _Opened:
    sha256 = ""
    try:
        data = manifest.open_image(row)
        sha256 = hashlib.sha256(data).hexdigest()
        if known.scores.get(row.sample_id, (0.0, ""))[1] == sha256:
            return _Opened(row, None, sha256)
        return _Opened(row, decode_image(data), sha256)
    except ImageError as error:
        return _Opened(row, None, sha256, str(error))


def _score(batch: Sequence[_Opened], scorer: Any, known: _Known) -> None:
    images = [entry.image for entry in batch]
    result = scorer(images, [entry.row.prompt for entry in batch])
    try:
        scores = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the scorer {known.scorer} returned {type(result).__name__} ({error}); "
            f"it must return {len(batch)} numbers"
        ) from None
    if scores.shape != (len(batch),):
        raise ValueError(
            f"the scorer {known.scorer} returned shape {scores.shape} for {len(batch)} images; "
            f"it must be ({len(batch)},)"
        )
    for entry, score in zip(batch, scores.tolist(), strict=True):
        if np.isfinite(score):
            known.add(entry, score)
    bad = [entry.row for entry, fine in zip(batch, np.isfinite(scores), strict=True) if not fine]
    if bad:
        named = "; ".join(f"line {row.line}: {row.image}" for row in bad[:10])
        raise ManifestError(
            f"the scorer {known.scorer} gave NaN or inf for {len(bad)} of {len(batch)} images: "
            f"{named}. Remove those rows or mend the scorer"
        )
    known.save(if_due=True)


def _bar(progress: bool, rows: Sequence[Row]) -> Any:
    from tqdm import tqdm

    return tqdm(desc="score", unit="image", total=len(rows), disable=not progress)
