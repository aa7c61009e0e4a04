"""Folders of images or videos with their prompts beside them, as kohya's scripts and others keep them.

`cat.png` has its prompt in `cat.txt` or `cat.caption`, or with its score in `cat.json`; scores may also be in the
file's name or in a file of ratings (ratings.py). Sub-folders belong to it, hidden files do not. Rows are in the
order of their paths, so neither they nor sample ids depend on the disk's own order.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tglo.data.errors import ManifestError
from tglo.data.folder_files import Files, read_text
from tglo.data.manifest_rows import Columns, RawRow, parse_json
from tglo.data.ratings import RATINGS, Ratings, read_ratings
from tglo.data.score_pattern import ScorePattern

log = logging.getLogger("tglo")

_REPEATS = re.compile(r"\d+_.*")
_NO_CAPTIONS = ("readme", "license", "licence", "notice")  # texts that belong to no image
_OFFER = (".csv", ".jsonl", ".tsv", ".parquet")


def read_captions(folder: Path, files: Files, columns: Columns) -> Iterator[RawRow]:
    """Return the rows of a folder's images. ManifestError if there are none, or none has a prompt."""
    if not files.images:
        raise ManifestError(
            f"{folder} is not a manifest: it has no images with captions, no metadata.csv (.jsonl, .parquet) that "
            "names them, neither Parquet nor .tar files, and not the state.json of datasets.save_to_disk"
            f"{_offer(folder, files)}"
        )
    if not files.captions and not files.are_described:
        first = files.images[0]
        raise ManifestError(
            f"{folder} has {len(files.images)} images, and none has its prompt beside it: write that of {first} into "
            f"{os.path.splitext(first)[0]}.txt, or all of them into a metadata.csv with the columns file_name and "
            f"{columns.prompt}, where a folder of frames is named as one video{_offer(folder, files)}"
        )
    _tell_of_repeats(folder, files.images)
    found = sorted(name for name in files.others if name.lower() in RATINGS)
    if len(found) > 1:
        raise ManifestError(f"{folder} has {' and '.join(found)}: leave one")
    ratings = read_ratings(folder, found[0], files.images, columns) if found else Ratings()
    pattern = None if columns.pattern is None else ScorePattern(columns.pattern)
    return _rows(_Reader(str(folder), files, columns, ratings, pattern), files)


def _rows(reader: _Reader, files: Files) -> Iterator[RawRow]:
    by_stem: dict[str, list[str]] = {}
    for image in files.images:
        by_stem.setdefault(os.path.splitext(image)[0], []).append(image)
    line = 0
    for line, image in enumerate(files.images, 1):
        stem = os.path.splitext(image)[0]
        yield reader.row(line, image, stem, by_stem[stem])
    lost = {os.path.splitext(name)[0] for name in files.refused}
    for stem in sorted(files.captions.keys() - by_stem.keys() - lost):
        if os.path.basename(stem).lower() in _NO_CAPTIONS:
            continue
        for name in files.captions[stem]:
            yield RawRow(
                line,
                problem="is a caption without an image: put an image of that name beside it, or take it away",
                place=name,
            )
    for name, why in sorted(files.refused.items()):
        yield RawRow(line, problem=why, place=name)
    yield from reader.ratings.problems
    _tell_of_unused(sorted(files.jsons[stem] for stem in files.jsons.keys() - by_stem.keys()))


@dataclass
class _Reader:
    """Makes the row of an image. folder: as a text, which is faster to join."""

    folder: str
    files: Files
    columns: Columns
    ratings: Ratings
    pattern: ScorePattern | None

    def row(self, line: int, image: str, stem: str, images: list[str]) -> RawRow:
        """Return the row of an image; stem: its path without the ending; images: all that have it."""
        columns = self.columns
        try:
            if len(images) > 1:
                raise ValueError(
                    f"{' and '.join(images)} have one name and so one caption: leave one, or rename them"
                )
            cells = self._described(stem) if stem in self.files.jsons else {}
            prompt = self._prompt(stem, cells)
            score = self._score(image, stem, cells)
        except ValueError as error:
            return RawRow(line, problem=str(error), place=image)
        own = {columns.prompt: prompt, columns.score: score, columns.image: image}
        row = columns.row(line, {**cells, **own})
        row.place = image
        return row

    def _described(self, stem: str) -> dict[str, Any]:
        name = self.files.jsons[stem]
        try:
            cells = parse_json(read_text(self.folder, name))
        except ValueError as error:
            raise ValueError(f"{name} cannot be read as JSON ({error}): mend it") from None
        if not isinstance(cells, dict):
            raise ValueError(f"{name} is no JSON object, but {str(cells)[:40]!r}")
        return cells

    def _prompt(self, stem: str, cells: dict[str, Any]) -> Any:
        """Return what stands in the caption, else what stands in the JSON file."""
        names = self.files.captions.get(stem, ())
        if len(names) > 1:
            raise ValueError(f"has the captions {' and '.join(sorted(names))}: leave one")
        if names:
            text = read_text(self.folder, names[0]).strip()
            if not text:
                raise ValueError(
                    f"its caption {names[0]} is empty: write one, or take the image away"
                )
            return text
        if self.columns.prompt in cells:
            return cells[self.columns.prompt]
        if stem in self.files.jsons:
            raise ValueError(self._lacks(stem, cells, "prompt", self.columns.prompt))
        raise ValueError(f"has no caption: write {stem}.txt, or take the image away")

    def _score(self, image: str, stem: str, cells: dict[str, Any]) -> Any:
        """Return the image's score, None for none; ValueError for two that differ, and for none that is needed."""
        scores: dict[str, Any] = {}  # by where they stand
        if self.columns.score in cells:
            scores[self.files.jsons[stem]] = cells[self.columns.score]
        if image in self.ratings.scores:
            scores[self.ratings.name] = self.ratings.scores[image]
        if self.pattern is not None:
            told = self.pattern.score_of(os.path.basename(stem))
            if told is not None:
                scores["its name"] = told
        scores = {where: score for where, score in scores.items() if score is not None}
        if len({repr(score) for score in scores.values()}) > 1:
            apart = " and ".join(f"{score!r} in {where}" for where, score in scores.items())
            raise ValueError(f"has two scores, {apart}: leave one")
        if scores:
            return next(iter(scores.values()))
        if self.columns.require_scores:
            raise ValueError(self._lacks_score(stem, cells))
        return None

    def _lacks_score(self, stem: str, cells: dict[str, Any]) -> str:
        if self.pattern is not None:
            return (
                f"its name does not fit the score pattern {self.pattern.text!r} (--score-pattern)"
            )
        if self.ratings.name:
            return f"{self.ratings.name} has no score of it: add one, or take the image away"
        if stem in self.files.jsons:
            return self._lacks(stem, cells, "score", self.columns.score)
        return (
            "has no score. Scores are read from a ratings.csv (file_name, score), from a .json beside each image, and "
            "from file names with --score-pattern; `tglo score` makes them"
            f"{_offer(Path(self.folder), self.files)}"
        )

    def _lacks(self, stem: str, cells: dict[str, Any], role: str, name: str) -> str:
        return (
            f"its JSON file has no {name!r} for the {role}; it has {sorted(cells)}: name the right one with "
            f"--{role}-column"
        )


def _offer(folder: Path, files: Files) -> str:
    """Name the manifests that lie in a folder which is none itself."""
    found = [name for name in sorted(files.others) if name.lower().endswith(_OFFER)]
    return f". If {folder / found[0]} is the manifest, give that" if found else ""


def _tell_of_repeats(folder: Path, images: Iterable[str]) -> None:
    for image in images:
        parent = os.path.basename(os.path.dirname(image)) or folder.name
        if _REPEATS.fullmatch(parent):
            log.info(
                "%s: repeats in the names of folders, as in %s, are not taken: each image counts once in an epoch",
                folder,
                parent,
            )
            return


def _tell_of_unused(names: list[str]) -> None:
    if names:
        log.warning(
            "JSON files that belong to no image and are not used: %d, %s for one",
            len(names),
            names[0],
        )
