"""What the manifest itself names twice: rows, images, and scores that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tglo.look.sheet import Sheet

SHOWN = 10


@dataclass(frozen=True)
class Repeat:
    """One image in several rows, of which `row` is the first; `scores` has None for a row without."""

    row: int
    image: str
    prompts: list[str]
    lines: list[int]
    scores: list[float | None]


@dataclass(frozen=True)
class Repeats:
    """Counts, and some of each.

    again: groups of rows with the same prompt and image and no contradiction. conflicts: groups of which the scores
    differ. images: images that stand in rows of several prompts.
    """

    again: int
    again_shown: list[Repeat]
    conflicts: int
    conflicts_shown: list[Repeat]
    images: int
    images_shown: list[Repeat]


def repeats(sheet: Sheet) -> Repeats:
    """Find the rows that name one image."""
    again: list[NDArray[np.int64]] = []
    conflicts: list[NDArray[np.int64]] = []
    for group in groups_of(sheet.ids):
        (conflicts if contradict(sheet.scores[group]) else again).append(group)
    shared = _shared(sheet)
    return Repeats(
        again=len(again),
        again_shown=[repeat(sheet, group) for group in again[:SHOWN]],
        conflicts=len(conflicts),
        conflicts_shown=[repeat(sheet, group) for group in _worst(sheet, conflicts)],
        images=len(shared),
        images_shown=[repeat(sheet, group) for group in shared[:SHOWN]],
    )


def repeat(sheet: Sheet, rows: NDArray[np.int64]) -> Repeat:
    """Return the rows of one image, a bounded number of them."""
    found = [sheet.manifest.rows[row] for row in rows[:SHOWN].tolist()]
    return Repeat(
        int(rows[0]),
        found[0].image,
        list(dict.fromkeys(row.prompt for row in found)),
        [row.line for row in found],
        [row.score for row in found],
    )


def contradict(scores: NDArray[np.float64]) -> bool:
    """Say whether scores differ, those that are there."""
    known = scores[~np.isnan(scores)]
    return bool(known.size and known.min() < known.max())


def groups_of(keys: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of each key that comes several times."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(keys[order]) != 0))
    sizes = np.diff(np.append(starts, keys.size))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _shared(sheet: Sheet) -> list[NDArray[np.int64]]:
    if len(sheet.images) == len(sheet):
        return []
    prompts = sheet.prompt_of
    return [
        group for group in groups_of(sheet.image_of) if prompts[group].min() < prompts[group].max()
    ]


def _worst(sheet: Sheet, groups: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return the groups whose scores are furthest apart."""

    def apart(group: NDArray[np.int64]) -> float:
        return float(np.nanmax(sheet.scores[group]) - np.nanmin(sheet.scores[group]))

    return sorted(groups, key=apart, reverse=True)[:SHOWN]
