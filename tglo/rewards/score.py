"""Scores a manifest in batches: resumable, and every score that comes out is finite."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tqdm import tqdm

from tglo.batch_size import BatchSize
from tglo.console.verbosity import bar_hidden
from tglo.data.errors import ImageError, ManifestError
from tglo.data.frames import FrameFolder
from tglo.data.images import decode_image
from tglo.data.manifest import Manifest, Row
from tglo.data.prefetch import in_order
from tglo.data.video import Video
from tglo.rewards.frames import FRAMES, for_videos
from tglo.rewards.partial import PartialScores, identity
from tglo.rewards.video import Inputs, VideoBytes, check_rates, check_video_scorers, takes_videos

log = logging.getLogger("tglo")

Scorer = Callable[[list[Image.Image], list[str]], ArrayLike]
"""Scores B images (PIL, RGB, of any sizes) for their prompts: (B,) finite numbers."""


@dataclass(frozen=True)
class _Opened:
    row: Row
    samples: Sequence[Image.Image | Video | VideoBytes]
    """For each scorer what it is given; empty if the score is known or the image cannot be read."""
    sha256: str
    problem: str | None = None


def score_manifest(
    manifest: Manifest,
    scorer: Scorer | Mapping[str, Scorer],
    batch_size: int = 32,
    *,
    partial: str | os.PathLike[str] | None = None,
    max_bad_fraction: float = 0.0,
    frames: int = FRAMES,
    source_rate: float | None = None,
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
    frames: how many of a video a scorer of images is given, evenly from the first to the last; a video's
        score is their mean, unless the scorer is an `OfFrames` already.
    source_rate: frames per second of folders of frames for which the manifest has no frame_rate; needed by scorers
        of videos.

    Row order, sample ids and other columns stay; `write_manifest` stores the result, and `.scores()`
    is the (N,) float64 array. The same image for the same prompt is scored once. A batch is always the
    same run of rows, less those whose score is known or which cannot be read.

    Raises ManifestError for a score that is NaN or inf (naming the row) and, once all others are
    scored, for more images that cannot be read (naming the rows); TypeError or ValueError for a scorer
    that returns anything but one number per image.
    """
    scorers = scorer if isinstance(scorer, Mapping) else {"score": scorer}
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if any(map(manifest.names_video, manifest.images())):
        scorers = for_videos(scorers, frames)
    check_scoring(scorers, max_bad_fraction, manifest, source_rate)
    known = PartialScores(partial, [identity(given) for given in scorers.values()])
    sizes = BatchSize(batch_size, grows=False, first=batch_size, largest=batch_size)
    once = manifest.distinct()
    inputs = Inputs(list(scorers.values()), frames, source_rate)
    with scoring_bar(len(once), progress) as bar:
        score_rows(
            manifest, [Work(once.rows, known)], scorers, sizes, inputs, bar.update, Work.save
        )
    nothing = [math.nan] * len(scorers)
    values = np.array([known.scores.get(i, (nothing,))[0] for i in once.sample_ids().tolist()])
    names = list(scorers) if isinstance(scorer, Mapping) else []
    return with_scores(
        manifest, names, once, values, known.unreadable, max_bad_fraction, known.path
    )


def check_scoring(
    scorers: Mapping[str, Scorer],
    max_bad_fraction: float,
    manifest: Manifest,
    source_rate: float | None = None,
) -> None:
    """Raise ValueError for no scorer, scorers of videos where there are images or folders of an unknown rate, or a
    share of unreadable ones out of its limits.
    """
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction}")
    if not scorers:
        raise ValueError("no scorer was given; name at least one")
    asked = any(map(takes_videos, scorers.values()))
    images = (
        [image for image in manifest.images() if not manifest.names_video(image)] if asked else []
    )
    check_video_scorers(scorers, images)
    check_rates(scorers, manifest, source_rate)


@dataclass(frozen=True, eq=False)
class Work:
    """Rows to score, and what is known of them, which is filled in."""

    rows: Sequence[Row]
    known: PartialScores
    part: Any = None

    def save(self) -> None:
        """Keep what is known."""
        self.known.save()


def scoring_bar(total: int, progress: bool) -> tqdm[Any]:
    """Return the bar of a scoring of so many samples."""
    return tqdm(desc="score", unit="sample", total=total, disable=bar_hidden(progress))


def score_rows(
    manifest: Manifest,
    work: Iterable[Work],
    scorers: Mapping[str, Scorer],
    sizes: BatchSize,
    inputs: Inputs,
    seen: Callable[[int], Any],
    finish: Callable[[Work], Any],
) -> int:
    """Score work as it comes, images opened ahead in threads, also those of the next one.

    Returns how many rows were scored.
    No batch has rows of two works. inputs: what scorers are given of a video. seen: told how many rows are
    done with. finish: called with each work that is done.
    """
    scored = 0
    large = any(map(takes_videos, scorers.values()))
    ahead = sizes.value * (1 if large else 2)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        items = ((one, row) for one in work for row in one.rows)
        opened = in_order(
            pool,
            lambda item: (item[0], _open(manifest, item[1], item[0].known, inputs)),
            items,
            ahead,
        )
        for one, entries in groupby(opened, key=itemgetter(0)):
            try:
                for run in _runs((entry for _, entry in entries), sizes):
                    for entry in run:
                        if entry.problem is not None:
                            text = f"line {entry.row.line}: {entry.row.image}: {entry.problem}"
                            one.known.unreadable[entry.row.sample_id] = text
                    batch = [entry for entry in run if entry.samples]
                    if batch:
                        _score_all(batch, scorers, one.known, sizes)
                        one.known.save(if_due=True)
                    scored += len(batch)
                    seen(len(run))
            except BaseException:
                one.save()
                raise
            finish(one)
    return scored


def _runs(opened: Iterator[_Opened], sizes: BatchSize) -> Iterator[list[_Opened]]:
    run: list[_Opened] = []
    for entry in opened:
        run.append(entry)
        if len(run) >= sizes.value:
            yield run
            run = []
    if run:
        yield run


def _score_all(
    batch: list[_Opened], scorers: Mapping[str, Scorer], known: PartialScores, sizes: BatchSize
) -> None:
    """Score a batch: at once, or in smaller ones where memory is short."""
    while batch:
        part = batch[: sizes.value]
        try:
            _score(part, scorers, known)
        except torch.OutOfMemoryError as error:
            sizes.shrink(error)
            continue
        if len(part) == sizes.value:
            sizes.grow()
        batch = batch[len(part) :]


def with_scores(
    manifest: Manifest,
    names: Sequence[str],
    once: Manifest,
    values: NDArray[np.float64],
    unreadable: Mapping[int, str],
    max_bad_fraction: float = 0.0,
    partial: Path | None = None,
) -> Manifest:
    """Return the manifest with these scores. names: of the scorers that get a column, in order.

    once: the manifest with each sample once. values: its rows' scores (rows, scorers).
    Rows of unreadable images are left out. ManifestError when they are too many.
    """
    ids = once.sample_ids()
    if unreadable:
        lost = [unreadable[i] for i in ids.tolist() if i in unreadable]
        if lost:
            _judge(lost, len(ids), manifest, max_bad_fraction, partial)
    order = np.argsort(ids)
    place = order[np.searchsorted(ids, manifest.sample_ids(), sorter=order)]
    readable = ~np.isin(ids, np.fromiter(unreadable, dtype=np.int64, count=len(unreadable)))[place]
    if not readable.all():
        manifest, place = manifest.select(np.flatnonzero(readable)), place[readable]
    columns = {name: values[place, number] for number, name in enumerate(names)}
    return manifest.with_scores(values[place, 0], columns)


def _judge(
    unreadable: list[str],
    count: int,
    manifest: Manifest,
    max_bad_fraction: float,
    partial: Path | None,
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


def _open(manifest: Manifest, row: Row, known: PartialScores, inputs: Inputs) -> _Opened:
    try:
        with manifest.open_file(row) as file:
            if isinstance(file, FrameFolder) and file.rate is None:
                file.rate = inputs.source_rate
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if row.sample_id in known.scores and known.scores[row.sample_id][1] == sha256:
                return _Opened(row, (), sha256)
            file.seek(0)
            if manifest.is_video(row):
                return _Opened(row, inputs(file, row.image), sha256)
        image = decode_image(manifest.open_image(row))
        return _Opened(row, [image] * len(known.scorers), sha256)
    except ImageError as error:
        return _Opened(row, (), "", str(error))


def _score(batch: list[_Opened], scorers: Mapping[str, Scorer], known: PartialScores) -> None:
    columns = [_ask(scorer, batch, number) for number, scorer in enumerate(scorers.values())]
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


def _ask(scorer: Scorer, batch: list[_Opened], number: int) -> NDArray[np.float64]:
    samples: Any = [entry.samples[number] for entry in batch]
    result = scorer(samples, [entry.row.prompt for entry in batch])
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
