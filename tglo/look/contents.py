"""Images that are the same under several names: by their size first, then by what is in them, within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tglo.data.containers import split_reference
from tglo.data.errors import ImageError, ManifestError
from tglo.data.manifest import Manifest
from tglo.look.repeats import contradict
from tglo.look.sheet import Sheet, chosen

FILES = 100_000
"""Files of which the size is asked, at most."""
STARTS = 20_000
"""Files of one size with another whose first bytes are compared, at most."""
INSIDE = 2_000
"""Images inside tars, Parquet and Arrow files that are compared, at most: the first ones."""
BYTES = 2**30
"""Bytes that are read to compare whole files, at most."""
SHOWN = 10
_Found = tuple[list[int], NDArray[np.int64]]  # images of one content, and their rows
_START, _CHUNK = 2**16, 2**20


@dataclass(frozen=True)
class Twins:
    """One image under several names, with the scores of the rows that have it, of which `row` is the first."""

    row: int
    images: list[str]
    prompts: list[str]
    scores: list[float | None]


@dataclass(frozen=True)
class Contents:
    """What was compared, and what was the same.

    compared, of: images, out of those that are there. identical: groups of the same content. conflicts: those that a
    prompt has with several scores, the first of the shown ones.
    """

    compared: int
    of: int
    identical: int
    conflicts: int
    shown: list[Twins]


def contents(sheet: Sheet, present: NDArray[np.int64]) -> Contents:
    """Compare the images that are there (their numbers) by what is in them. Those that cannot be read, and folders of
    frames, are left out.
    """
    reader = _Reader(sheet)
    inside_of = ["#" in name and split_reference(name)[1] is not None for name in sheet.images]
    within = np.array(inside_of)[present]
    files, inside = present[~within], present[within][:INSIDE]
    groups, compared = reader.same_files(files[chosen(files.size, FILES)].tolist())
    more, read = reader.same_inside(inside.tolist())
    clashing: list[_Found] = []
    fine: list[_Found] = []
    for group in [*groups, *more]:
        rows = sheet.rows_of(group)
        (clashing if _clash(sheet, rows) else fine).append((group, rows))
    shown = [_twins(sheet, *found) for found in [*clashing, *fine][:SHOWN]]
    return Contents(
        compared + read, int(present.size), len(clashing) + len(fine), len(clashing), shown
    )


class _Reader:
    """Reads images by their numbers, within a budget of bytes."""

    def __init__(self, sheet: Sheet) -> None:
        self.manifest: Manifest = sheet.manifest
        self.images, self.first_of = sheet.images, sheet.first_of
        self.budget = BYTES

    def same_files(self, files: Sequence[int]) -> tuple[list[list[int]], int]:
        """Return the groups of equal files, and how many were compared."""
        sizes = {number: size for number in files if (size := self._size(number))}
        candidates = [number for group in _several(sizes.items()) for number in group]
        starts = {number: self._digest(number, _START) for number in candidates[:STARTS]}
        alike = _several((n, (sizes[n], start)) for n, start in starts.items() if start)
        found, unread = [], len(candidates) - sum(map(bool, starts.values()))
        for group in alike:
            if sizes[group[0]] <= _START:
                found.append(group)
                continue
            whole = [(number, self._digest(number, sizes[number])) for number in group]
            unread += sum(digest is None for _, digest in whole)
            found += _several((number, digest) for number, digest in whole if digest)
        return found, len(sizes) - unread

    def same_inside(self, images: Sequence[int]) -> tuple[list[list[int]], int]:
        """Return the groups of equal images that lie inside of files, and how many were compared."""
        digests = [(n, self._digest(n, None)) for n in images]
        known = [(n, digest) for n, digest in digests if digest]
        return _several(known), len(known)

    def _size(self, number: int) -> int | None:
        status = self.manifest.status(self.images[number])
        return None if status is None else status.st_size

    def _digest(self, number: int, size: int | None) -> bytes | None:
        """Return the digest of an image's first bytes, by default of all; None where it cannot be had."""
        row, digest = self.manifest.rows[self.first_of[number]], hashlib.sha256()
        left = self.budget if size is None else size
        if self.budget < left or not left:
            return None
        try:
            with self.manifest.open_file(row) as file:
                while data := file.read(min(left, _CHUNK)):
                    digest.update(data)
                    left -= len(data)
                    self.budget -= len(data)
        except (ImageError, ManifestError, OSError):
            return None
        return digest.digest()


def _several(items: Iterable[tuple[int, object]]) -> list[list[int]]:
    """Return the numbers of each key that several have."""
    groups: dict[object, list[int]] = {}
    for number, key in items:
        groups.setdefault(key, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _clash(sheet: Sheet, rows: NDArray[np.int64]) -> bool:
    """Say whether a prompt has several scores among rows of one image."""
    prompts = sheet.prompt_of[rows]
    return any(contradict(sheet.scores[rows[prompts == prompt]]) for prompt in np.unique(prompts))


def _twins(sheet: Sheet, group: list[int], rows: NDArray[np.int64]) -> Twins:
    found = [sheet.manifest.rows[row] for row in rows[:SHOWN].tolist()]
    return Twins(
        int(rows[0]),
        [sheet.images[number] for number in group[:SHOWN]],
        list(dict.fromkeys(row.prompt for row in found)),
        [row.score for row in found],
    )
