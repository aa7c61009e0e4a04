"""A manifest's rows as they are read, of any type, and what its columns are called."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tglo.data.errors import ManifestError


@dataclass(frozen=True)
class Columns:
    """What the columns are called."""

    prompt: str
    image: str
    score: str
    require_scores: bool

    def check(self, existing: Sequence[str], source: object) -> None:
        """ManifestError naming a missing column, what exists, and the nearest name."""
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

    def own(self) -> tuple[str, str, str]:
        """The three columns that are not extra."""
        return (self.prompt, self.image, self.score)


@dataclass(slots=True)
class RawRow:
    """A row as read, of any type; problem: why it could not even be read."""

    line: int
    prompt: Any = None
    image: Any = None
    score: Any = None
    extra: dict[str, Any] | None = None
    problem: str | None = None


def number(text: str | None) -> Any:
    """A score written as text: a float, None when empty, the text itself when it is no number."""
    if text is None or not text.strip():
        return None
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def arrow_rows(table: Any, columns: Columns, images: list[Any], line: int) -> Iterator[RawRow]:
    """Rows of an Arrow table or batch; images are given, being paths or references."""
    names = table.schema.names
    prompts = table.column(columns.prompt).to_pylist()
    scores = [None] * len(prompts)
    if columns.score in names:
        scores = [_plain(value) for value in table.column(columns.score).to_pylist()]
    others = [name for name in names if name not in columns.own()]
    cells = [table.column(name).to_pylist() for name in others]
    for i, (prompt, image, score) in enumerate(zip(prompts, images, scores, strict=True)):
        extra = {name: column[i] for name, column in zip(others, cells, strict=True)}
        yield RawRow(line + i, prompt, image, score, extra or None)


def _plain(value: Any) -> Any:
    from decimal import Decimal

    return float(value) if isinstance(value, Decimal) else value
