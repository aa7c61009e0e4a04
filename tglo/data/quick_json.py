"""Files of JSON lines as blocks of columns, for manifests of many rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tglo.data.manifest_rows import IMAGE, Columns, parse_json
from tglo.data.row_blocks import Block, Unusual

_ROWS = 65536  # of a block
_SCORES = {float, int, type(None)}


def json_blocks(path: Path, columns: Columns) -> Iterator[Block]:
    """Yield the rows of a file with a JSON object in each line."""
    known = None
    with open(path, "rb") as handle:
        lines = enumerate(handle, 1)
        while part := list(islice(lines, _ROWS)):
            rows = _Rows([], [], [], [], [])
            for line, text in part:
                if not text.strip():
                    continue
                cells = parse_json(text)
                if not isinstance(cells, dict):
                    raise Unusual("a line that is not an object")
                known = known or columns.check(list(cells), path)
                rows.add(line, cells, known)
            if rows.lines:
                yield rows.block()


@dataclass
class _Rows:
    """The cells of some rows; no object is kept of a row without other columns, which many would slow Python down."""

    lines: list[int]
    prompts: list[Any]
    images: list[Any]
    scores: list[Any]
    extra: list[Mapping[str, Any]]

    def add(self, line: int, cells: dict[str, Any], columns: Columns) -> None:
        self.lines.append(line)
        self.prompts.append(cells.pop(columns.prompt, None))
        self.images.append(cells.pop(columns.image, None))
        self.scores.append(cells.pop(columns.score, None))
        if cells and not self.extra:
            self.extra += [{} for _ in self.lines[1:]]
        if cells or self.extra:
            self.extra.append(_extra(cells, columns))

    def block(self) -> Block:
        import pyarrow as pa

        if not {*map(type, self.scores)} <= _SCORES:
            raise Unusual("scores that are not numbers")
        try:
            scores = np.array(self.scores, dtype=np.float64)
        except OverflowError:
            raise Unusual("a score beyond all numbers") from None
        return Block(
            prompts=pa.array(self.prompts, pa.large_string()),
            images=pa.array(self.images, pa.large_string()),
            scores=scores,
            lines=np.array(self.lines, dtype=np.int64),
            extra={},
            dicts=self.extra or None,
        )


def _extra(others: dict[str, Any], columns: Columns) -> Mapping[str, Any]:
    if others.keys().isdisjoint(("prompt", IMAGE, "score")):
        return others
    return columns.row(0, others).extra or {}
