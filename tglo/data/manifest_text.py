"""Manifests of text: values separated by commas, semicolons or tabs, and JSON lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tglo.data.errors import ManifestError
from tglo.data.manifest_rows import Columns, RawRow, number, parse_json

DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


def read_separated(path: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a CSV file, or of one that semicolons or tabs separate, as its header tells.

    Between semicolons a score may have a decimal comma.
    """
    with open(path, encoding="utf-8-sig", newline="") as handle:
        line = 1
        try:
            separator = separator_of(handle.readline(), path, columns)
            handle.seek(0)
            reader = csv.reader(handle, delimiter=separator, strict=True)
            header = next(reader, None)
            if header is None:
                raise ManifestError(f"{path} is empty: not even a header")
            columns = columns.check(header, path)
            decimals = _Decimals() if separator == ";" else None
            line = reader.line_num + 1
            for cells in reader:
                if not cells:
                    pass  # a blank line
                elif len(cells) != len(header):
                    problem = f"has {len(cells)} fields where the header has {len(header)}"
                    yield RawRow(line, problem=problem)
                else:
                    row = columns.row(line, dict(zip(header, cells, strict=True)))
                    if decimals is not None:
                        decimals.mend(row)
                    row.score = number(row.score)
                    yield row
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{path}, near line {line}: {error}; "
                "the file must be UTF-8 and its quotes closed (is it truncated?)"
            ) from None


def separator_of(header: str, path: Path, columns: Columns) -> str:
    """Return the separator that finds the columns of prompts and images, else most columns."""

    def found(separator: str) -> tuple[bool, int]:
        names = next(csv.reader([header], delimiter=separator), [])
        wanted = columns.among(names).wanted
        return all(wanted[role] in names for role in wanted if role != "score"), len(names)

    return max("\t,;" if path.suffix.lower() == ".tsv" else ",;\t", key=found)


@dataclass
class _Decimals:
    """The decimal mark of a file's scores: a comma or a point, but not both."""

    mark: str = ""

    def mend(self, row: RawRow) -> None:
        """Give the score's text a point; a problem to a row whose mark is not that of earlier rows."""
        text = row.score or ""
        mark = "," if DECIMAL_COMMA.fullmatch(text) else "." if "." in text else ""
        if mark and self.mark and mark != self.mark:
            row.problem = f"the score {text!r} has another decimal mark than the rows before it"
        self.mark = self.mark or mark
        if mark == ",":
            row.score = text.replace(",", ".")


def read_json_lines(path: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a file with a JSON object in each line."""
    checked = False
    with open(path, "rb") as handle:
        for line, text in enumerate(handle, 1):
            if not text.strip():
                continue
            try:
                cells = parse_json(text)
            except ValueError as error:
                yield RawRow(line, problem=f"is not JSON ({error})")
                continue
            if not isinstance(cells, dict):
                yield RawRow(line, problem="is not a JSON object")
                continue
            if not checked:
                columns = columns.check(list(cells), path)
                checked = True
            yield columns.row(line, cells)
