"""Scores a manifest in batches: resumable, and every score that comes out is finite."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tqdm import tqdm

from tglo.data.errors import ImageError, ManifestError
from tglo.data.images import decode_image
from tglo.data.manifest import Manifest, Row
from tglo.data.prefetch import in_order
from tglo.files import read_sealed, reading, write_sealed

log = logging.getLogger("tglo")

Scorer = Callable[[list[Image.Image], list[str]], ArrayLike]
"""Scores B images (PIL, RGB, of any sizes) for their prompts: (B,) finite numbers."""

FORMAT = "tglo.scores.3"  # of the file of partial scores
UNSEALED = "tglo.scores.2"  # the same without a checksum
SAVE_SECONDS = 30.0  # the least time between two savings


@dataclass(frozen=True)
class _Opened:
    row: Row
    image: Image.Image | None  # None if its score is known or it cannot be read
    sha256: str
    problem: str | None = None


def score_manifest(
    manifest: Manifest,
    scorer: Scorer | Mapping[str, Scorer],
    batch_size: int = 32,
    *,
    partial: str | os.PathLike[str] | None = None,
    max_bad_fraction: float = 0.0,
    progress: bool = True,
) -> Manifest:
    """Return the manifest with every row's score set to scorer(images, prompts).

    scorer: one scorer, or several by name. Each of several gets an extra column of its name, which
        replaces an old one, and the first is the score. An image is decoded once for all of them.
    partial: a JSON file that keeps the scores so far, written atomically every half minute, at the
        end, and on a failure or an interruption. A later call with the same scorers continues from there; an image that
        has changed is scored again.
    max_bad_fraction: the share of images that may be unreadable. Their rows are left out, with a
        warning that lists them.

    Row order, sample ids and other columns stay; `write_manifest` stores the result, and `.scores()`
    is the (N,) float64 array. The same image for the same prompt is scored once.

    Raises ManifestError for a score that is NaN or inf (naming the row) and, once all others are
    scored, for more images that cannot be read (naming the rows); TypeError or ValueError for a scorer
    that returns anything but one number per image.
    """
    scorers = scorer if isinstance(scorer, Mapping) else {"score": scorer}
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction}")
    if not scorers:
        raise ValueError("no scorer was given; name at least one")
    known = PartialScores(partial, scorers)
    rows = list({row.sample_id: row for row in manifest.rows}.values())
    unreadable: dict[int, str] = {}
    batch: list[_Opened] = []
    try:
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            tqdm(desc="score", unit="image", total=len(rows), disable=not progress) as bar,
        ):
            opened = in_order(pool, lambda row: _open(manifest, row, known), rows, 2 * batch_size)
            for entry in opened:
                bar.update()
                if entry.problem is not None:
                    text = f"line {entry.row.line}: {entry.row.image}: {entry.problem}"
                    unreadable[entry.row.sample_id] = text
                elif entry.image is not None:
                    batch.append(entry)
                if len(batch) == batch_size:
                    _score(batch, scorers, known)
                    batch = []
            if batch:
                _score(batch, scorers, known)
    finally:
        known.save()
    if unreadable:
        _judge(list(unreadable.values()), len(rows), manifest, max_bad_fraction, partial)
    named = isinstance(scorer, Mapping)
    scored = []
    for row in manifest.rows:
        if row.sample_id in unreadable:
            continue
        values = known.scores[row.sample_id][0]
        columns = dict(zip(scorers, values, strict=True)) if named else {}
        scored.append(replace(row, score=values[0], extra={**row.extra, **columns}))
    return manifest.with_rows(scored)


def _judge(
    unreadable: list[str],
    count: int,
    manifest: Manifest,
    max_bad_fraction: float,
    partial: str | os.PathLike[str] | None,
) -> None:
    """Warn of images that cannot be read, or raise ManifestError when they are too many."""
    found = f"{len(unreadable)} of {count} images of {manifest.path} cannot be scored"
    if len(unreadable) > max_bad_fraction * count or len(unreadable) == count:
        raise ManifestError(
            f"{found}, more than max_bad_fraction = {max_bad_fraction:g} allows: "
            + "; ".join(unreadable[:10])
            + ". Repair their files, remove their rows, or allow more; the others are scored"
            + ("" if partial is None else f", see {partial}")
        )
    log.warning("%s; their rows are left out:\n%s", found, "\n".join(unreadable))


def _open(manifest: Manifest, row: Row, known: PartialScores) -> _Opened:
    try:
        data = manifest.open_image(row)
        sha256 = hashlib.sha256(data).hexdigest()
        scored = row.sample_id in known.scores and known.scores[row.sample_id][1] == sha256
        return _Opened(row, None if scored else decode_image(data), sha256)
    except ImageError as error:
        return _Opened(row, None, "", str(error))


def _score(batch: list[_Opened], scorers: Mapping[str, Scorer], known: PartialScores) -> None:
    columns = [_ask(scorer, batch) for scorer in scorers.values()]
    for entry, values in zip(batch, np.stack(columns, axis=1), strict=True):
        if np.isfinite(values).all():
            known.scores[entry.row.sample_id] = (values.tolist(), entry.sha256)
    for scorer, column in zip(scorers.values(), columns, strict=True):
        bad = [e.row for e, value in zip(batch, column, strict=True) if not np.isfinite(value)]
        if bad:
            named = "; ".join(f"line {row.line}: {row.image}" for row in bad[:10])
            raise ManifestError(
                f"the scorer {identity(scorer)} gave NaN or inf for {len(bad)} of {len(batch)} "
                f"images: {named}. Remove those rows or mend the scorer"
            )
    known.save(if_due=True)


def _ask(scorer: Scorer, batch: list[_Opened]) -> NDArray[np.float64]:
    images = [entry.image for entry in batch if entry.image is not None]
    result = scorer(images, [entry.row.prompt for entry in batch])
    try:
        scores = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the scorer {identity(scorer)} returned {type(result).__name__} ({error}); "
            f"it must return {len(batch)} numbers"
        ) from None
    if scores.shape != (len(batch),):
        raise ValueError(
            f"the scorer {identity(scorer)} returned shape {scores.shape} for {len(batch)} images; "
            f"it must be ({len(batch)},)"
        )
    return scores


def identity(scorer: Any) -> str:
    """Return what a scorer's numbers depend on, as far as it tells: its `identity`, else its name."""
    module = getattr(scorer, "__module__", type(scorer).__module__)
    name = getattr(scorer, "__qualname__", type(scorer).__qualname__)
    return str(getattr(scorer, "identity", f"{module}:{name}"))


class PartialScores:
    """The scores so far, kept in a JSON file so that an interrupted scoring can be continued.

    scores: by sample id, one number per scorer and the hash of the image that they belong to.
    """

    def __init__(self, path: str | os.PathLike[str] | None, scorers: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.scorers = [identity(scorer) for scorer in scorers.values()]
        self.scores: dict[int, tuple[list[float], str]] = {}
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self._load(self.path)

    def _load(self, path: Path) -> None:
        described = "file of partial scores", "remove it, and its images are scored again"
        content = read_sealed(path, *described, lambda found: found.get("format") != FORMAT)
        known = content.get("format") in (FORMAT, UNSEALED)
        if not known or content.get("scorers") != self.scorers:
            other = "no partial scores of this version"
            if known:
                other = f"scores of {content.get('scorers')}, not of {self.scorers}"
            raise ValueError(f"{path} holds {other}: remove it or give another file")
        with reading(path, *described):
            for sample, (numbers, sha256) in content["scores"].items():
                scores = [float(number) for number in numbers]
                if len(scores) != len(self.scorers) or not np.isfinite(scores).all():
                    raise ValueError(f"the scores of sample {sample} are {numbers}")
                self.scores[int(sample)] = (scores, sha256)

    def save(self, *, if_due: bool = False) -> None:
        """Write the scores atomically; with if_due only if the last saving is SAVE_SECONDS ago."""
        if self.path is None or (if_due and time.monotonic() - self._saved < SAVE_SECONDS):
            return
        scores = {str(i): list(entry) for i, entry in self.scores.items()}
        write_sealed(self.path, {"format": FORMAT, "scorers": self.scorers, "scores": scores})
        self._saved = time.monotonic()
