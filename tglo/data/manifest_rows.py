"""The rows of a manifest as they are read, of any type, and the names of its columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tglo.data.errors import ManifestError


@dataclass(frozen=True)
class Columns:
    """The names of the columns, and whether scores are required."""

    prompt: str
    image: str
    score: str
    require_scores: bool

    def check(self, existing: Sequence[str], source: object) -> None:
        """Raise ManifestError naming a missing column, the existing ones, and the nearest name."""
        wanted = {"prompt": self.prompt, "image": self.image}
        if self.require_scores:
            wanted["score"] = self.score
        for role, name in wanted.items():
            if name in existing:
                continue
            near = difflib.get_close_matches(name, existing, n=1, cutoff=0.4)
            hint = f", e.g. {role}_column={near[0]!r}" if near else ""
            raise ManifestError(
                f"{source} has no column {name!r} for the {role}; its columns are "
                f"{list(existing)}. Name the right one with {role}_column{hint}"
            )
        if len(set(existing)) != len(existing):
            raise ManifestError(f"{source} has two columns of one name: {list(existing)}")

    def row(self, line: int, cells: dict[str, Any]) -> RawRow:
        """Take the three columns out of a row's cells; what remains is extra."""
        prompt, image = cells.pop(self.prompt, None), cells.pop(self.image, None)
        return RawRow(line, prompt, image, cells.pop(self.score, None), cells or None)


@dataclass(slots=True)
class RawRow:
    """A row as it was read, of any type; `problem` says why it could not be read."""

    line: int
    prompt: Any = None
    image: Any = None
    score: Any = None
    extra: dict[str, Any] | None = None
    problem: str | None = None


def number(text: str | None) -> Any:
    """Return a score written as text as a float, None if it is empty, or the text if not a number."""
    if text is None or not text.strip():
        return None
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def arrow_rows(table: Any, columns: Columns, images: list[Any], line: int) -> Iterator[RawRow]:
    """Yield the rows of an Arrow table or batch; `images` holds their paths or references."""
    names = table.schema.names
    values = [images if n == columns.image else table.column(n).to_pylist() for n in names]
    for i, cells in enumerate(zip(*values, strict=True)):
        row = columns.row(line + i, dict(zip(names, cells, strict=True)))
        if isinstance(row.score, Decimal):
            row.score = float(row.score)
        yield row
