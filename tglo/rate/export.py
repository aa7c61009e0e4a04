"""Ratings as a manifest that the other commands read: the mean of an image's stars is its score."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tglo.data.errors import ManifestError
from tglo.data.manifest import Manifest, check_rows, write_manifest
from tglo.rate.agreement import alpha
from tglo.rate.book import Book
from tglo.rate.folder import aside, check_book
from tglo.rate.log import FILE, read_log
from tglo.rate.versions import Versions

log = logging.getLogger("tglo")

COUNT, SPREAD = "ratings", "spread"
"""Columns: how many raters gave an image stars, and the standard deviation of these."""


@dataclass(frozen=True)
class Summary:
    """What an export says of the ratings. set_aside: how many are of images that were replaced.

    alpha: see `tglo.rate.agreement.alpha`; why_no_alpha: "" where it is one.
    """

    images: int
    rated: int
    ratings: int
    by_several: int
    set_aside: int
    alpha: float | None
    why_no_alpha: str
    raters: list[dict[str, Any]]

    def __str__(self) -> str:
        agreement = f"undefined: {self.why_no_alpha}" if self.alpha is None else f"{self.alpha:.3f}"
        lines = [
            f"{self.ratings} ratings of {self.rated} of {self.images} images, {self.by_several} by several raters",
            f"Krippendorff's alpha (ordinal): {agreement}",
        ]
        if self.set_aside:
            lines.insert(1, aside(self.set_aside))
        width = max(len(rater["name"]) for rater in self.raters)
        for rater in self.raters:
            stars = f", mean {rater['mean']:.2f}, std {rater['std']:.2f}" if rater["rated"] else ""
            lines.append(
                f"  {rater['name']:<{width}}  {rater['rated']} rated, {rater['skipped']} skipped{stars}"
            )
        return "\n".join(lines)


def export(manifest: Manifest, source: Path, folder: Path, output: Path) -> Summary:
    """Write the rated images of a manifest to output, with their mean stars as scores.

    manifest: its rows are all different. source: its path. folder: of the ratings; they may be added to meanwhile.
    Other columns of the manifest are kept, an earlier score is not. Raises ManifestError where output cannot
    hold it or would replace scores, and FileNotFoundError where there are no ratings.
    """
    manifest.check_output(output, elsewhere=True)
    if os.path.realpath(output) == os.path.realpath(source):
        raise ManifestError(f"{output} is the manifest itself; give another file")
    if os.path.realpath(output) == os.path.realpath(folder / FILE):
        raise ManifestError(f"{output} has the ratings themselves; give another file")
    contents = read_log(folder / FILE) if (folder / FILE).is_file() else None
    book = Book(
        [row.sample_id for row in manifest],
        contents.events if contents else (),
        Versions(manifest).is_current,
    )
    check_book(book, folder)
    if not book.counts.any():
        why = f" ({aside(book.set_aside)})" if book.set_aside else ""
        raise FileNotFoundError(
            f"{folder} has no ratings of {source} yet{why}: `tglo rate {source}` opens the page that takes them"
        )
    scored = _scored(manifest, book)
    check_rows(output, scored)
    summary = _summary(book)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(output, scored.rows)
    if os.path.realpath(output.parent) != manifest.root:
        log.info("the images of %s are found with --root %s", output, manifest.root)
    return summary


def _scored(manifest: Manifest, book: Book) -> Manifest:
    """Return the rows that have ratings, with their scores."""
    stars = np.stack([rater.stars for rater in book.raters.values()])
    given = stars > 0
    total = np.where(given, stars, 0).sum(axis=0, dtype=np.float64)
    mean = total / np.maximum(1, book.counts)
    squares = (np.where(given, stars - mean, 0.0) ** 2).sum(axis=0)
    spread = np.sqrt(squares / np.maximum(1, book.counts - 1))
    rows = []
    for image in np.flatnonzero(book.counts).tolist():
        row, count = manifest.rows[image], int(book.counts[image])
        # An earlier export's columns are replaced, and come last again.
        kept = {name: cell for name, cell in row.extra.items() if name not in (COUNT, SPREAD)}
        own = {COUNT: count, SPREAD: float(spread[image]) if count > 1 else None}
        rows.append(replace(row, score=float(mean[image]), extra={**kept, **own}))
    return manifest.with_rows(rows)


def _summary(book: Book) -> Summary:
    raters = list(book.raters.values())
    agreement, why = alpha(np.stack([rater.stars for rater in raters]))
    return Summary(
        images=len(book.samples),
        rated=int(np.count_nonzero(book.counts)),
        ratings=int(book.counts.sum()),
        set_aside=book.set_aside,
        by_several=int(np.count_nonzero(book.counts > 1)),
        alpha=agreement,
        why_no_alpha=why,
        raters=[
            {
                "name": rater.name,
                "rated": rater.rated,
                "skipped": rater.skipped,
                "mean": float(given.mean()) if given.size else float("nan"),
                "std": float(given.std()) if given.size else float("nan"),
            }
            for rater in raters
            for given in [rater.stars[rater.stars > 0].astype(np.float64)]
        ],
    )
