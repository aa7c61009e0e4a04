"""The rows of a manifest as they are read, of any type, and the names of its columns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tglo.data.errors import ManifestError, reading_manifest

if TYPE_CHECKING:
    import pyarrow as pa


IMAGE, FILE_NAME = "image", "file_name"
"""The column of images by default; the column of images in the metadata files of Hugging Face image folders."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns, and whether scores are required.

    pattern: how the names of an image folder's files tell their scores, None if they do not.
    has_prompts: False for a file of scores alone.
    file_names: images are in `FILE_NAME`, if there is one, unless another column was named.
    """

    prompt: str
    image: str
    score: str
    require_scores: bool
    pattern: str | None = None
    has_prompts: bool = True
    file_names: bool = False

    @property
    def wanted(self) -> dict[str, str]:
        """The columns that must be there, by what they hold."""
        wanted = {"image": self.image}
        if self.has_prompts:
            wanted = {"prompt": self.prompt, **wanted}
        return {**wanted, "score": self.score} if self.require_scores else wanted

    def among(self, existing: Sequence[str]) -> Columns:
        """Return the names as a file with these columns has them: images perhaps as file names."""
        if self.file_names and self.image == IMAGE and FILE_NAME in existing:
            return replace(self, image=FILE_NAME)
        return self

    def check(self, existing: Sequence[str], source: object) -> Columns:
        """Return the names `among` the existing ones. Raises ManifestError naming a missing column, the
        existing ones, and the nearest name.
        """
        columns = self.among(existing)
        for role, name in columns.wanted.items():
            if name in existing:
                continue
            near = difflib.get_close_matches(name, existing, n=1, cutoff=0.4)
            hint = f"={near[0]!r}?" if near else ""
            raise ManifestError(
                f"{source} has no column {name!r} for the {role}; its columns are "
                f"{list(existing)}. Name the right one with --{role}-column "
                f"({role}_column{hint})"
            )
        if len(set(existing)) != len(existing):
            raise ManifestError(f"{source} has two columns of one name: {list(existing)}")
        return columns

    @property
    def three(self) -> tuple[str, str, str]:
        """The columns of prompts, images and scores."""
        return self.prompt, self.image, self.score

    def renamed(self, others: Sequence[str]) -> dict[str, str]:
        """Return the names that `row` gives to the other columns, in its order, and what they are in the file."""
        return self.row(0, {name: name for name in others}).extra or {}

    def row(self, line: int, cells: dict[str, Any]) -> RawRow:
        """Take the three columns out of a row's cells; what remains is extra.

        What is named as one of the three and is another, as `prompt` beside the column that was chosen, is
        `other_prompt`: a manifest is written with the three under their plain names.
        """
        prompt, image = cells.pop(self.prompt, None), cells.pop(self.image, None)
        score = cells.pop(self.score, None)
        for name in ("prompt", IMAGE, "score"):
            if name in cells and f"other_{name}" not in cells:
                cells[f"other_{name}"] = cells.pop(name)
        return RawRow(line, prompt, image, score, cells or None)


@dataclass(slots=True)
class RawRow:
    """A row as it was read, of any type; `problem` says why it could not be read.

    place: what a message calls it, where a line number does not find it.
    """

    line: int
    prompt: Any = None
    image: Any = None
    score: Any = None
    extra: dict[str, Any] | None = None
    problem: str | None = None
    place: str | None = None

    @property
    def where(self) -> str:
        """The row's place for a message."""
        return self.place or f"line {self.line}"


def number(text: str | None) -> Any:
    """Return a score written as text as a float, None if it is empty, or the text if not a number."""
    if text is None or not text.strip():
        return None
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError for whatever it cannot be, also when it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def holds_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds text, in whatever way: plain, views, or a pandas categorical."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return holds_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def arrow_rows(
    path: Path, table: Any, columns: Columns, images: list[Any] | None, line: int
) -> Iterator[RawRow]:
    """Yield the rows of an Arrow table or batch of the file `path`.

    images: what stands for the cells of the image column, if not the cells themselves.
    """
    names = table.schema.names
    values = []
    for name in names:
        if name == columns.image and images is not None:
            values.append(images)
            continue
        with reading_manifest(path, "manifest", f"mend its column {name!r}, or leave it out"):
            values.append(_cells(table.column(name)))
    for i, cells in enumerate(zip(*values, strict=True)):
        row = columns.row(line + i, dict(zip(names, cells, strict=True)))
        if isinstance(row.score, Decimal):
            row.score = float(row.score)
        yield row


def _cells(column: Any) -> list[Any]:
    """Return an Arrow column as Python values; times that Python's cannot hold as text."""
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    try:
        if column.type.unit == "ns":
            column = column.cast(pa.timestamp("us", column.type.tz))
        return list(column.to_pylist())
    except (pa.ArrowInvalid, OverflowError, ValueError):
        return list(column.cast(pa.string()).to_pylist())
