"""A file of ratings in a folder of images: ratings.csv, .tsv or .jsonl with a row for each, or a ratings.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tglo.data.errors import ManifestError, reading_manifest
from tglo.data.manifest_rows import Columns, RawRow
from tglo.data.manifest_text import read_json_lines, read_separated
from tglo.files import read_json

RATINGS = ("ratings.csv", "ratings.tsv", "ratings.jsonl", "ratings.json")


@dataclass
class Ratings:
    """Scores by the images' paths in the folder, and the rows that belong to no image."""

    name: str = ""
    scores: dict[str, Any] = field(default_factory=dict)
    problems: list[RawRow] = field(default_factory=list)


def read_ratings(folder: Path, name: str, images: Sequence[str], columns: Columns) -> Ratings:
    """Read a file of ratings. Images are named by their paths in the folder, or where that is clear by their names.

    Raises ManifestError for a missing column and a damaged file.
    """
    columns = replace(columns, require_scores=True, has_prompts=False, file_names=True)
    by_name: dict[str, list[str]] = {}
    for image in images:
        by_name.setdefault(os.path.basename(image), []).append(image)
    known, ratings, lines = {*images}, Ratings(name), dict[str, int]()
    for row in _READERS[Path(name).suffix](folder / name, columns):
        row.place = f"{name}, line {row.line}"
        row.problem = row.problem or _problem_of(row, known, by_name)
        if row.problem is None:
            image = row.image if row.image in known else by_name[row.image][0]
            if image in lines:
                row.problem = f"rates {image}, which line {lines[image]} does already: leave one"
            lines[image] = row.line
            ratings.scores[image] = row.score
        if row.problem is not None:
            ratings.problems.append(row)
    return ratings


def _problem_of(row: RawRow, known: set[str], by_name: dict[str, list[str]]) -> str | None:
    if not isinstance(row.image, str):
        return f"the image is {row.image!r}, not a path"
    if not isinstance(row.score, (int, float, type(None))) or isinstance(row.score, bool):
        return f"the score of {row.image} is {row.score!r}, not a number"
    if row.image in known:
        return None
    found = by_name.get(row.image, [])
    if len(found) == 1:
        return None
    if found:
        return f"rates {row.image}, which may be {' or '.join(found)}: write its path in the folder"
    return f"rates {row.image}, which is not in the folder: correct the name, or take the row out"


def _read_json(path: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the ratings of an object (name -> score, or name -> object), or of a list of objects."""
    described = "file of ratings", 'write {"cat.png": 7.5, ...}'
    with reading_manifest(path, *described):
        content = read_json(path, *described)
        if isinstance(content, dict):
            entries = [
                {
                    **(value if isinstance(value, dict) else {columns.score: value}),
                    columns.image: name,
                }
                for name, value in content.items()
            ]
        else:
            entries = [dict(entry) for entry in content]
    if not entries:
        raise ManifestError(f"{path} has no ratings")
    columns = columns.check(list(entries[0]), path)
    yield from (columns.row(line, entry) for line, entry in enumerate(entries, 1))


_READERS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    ".csv": read_separated,
    ".tsv": read_separated,
    ".jsonl": read_json_lines,
    ".json": _read_json,
}
