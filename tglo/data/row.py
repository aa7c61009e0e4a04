"""One scored image: what a line of a manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One scored image.

    sample_id: the first 63 bits of sha256(prompt, null byte, image as written), so it survives
        reordering and rescoring.
    image: relative to the manifest's root (see containers.py).
    score: None if it is not known yet.
    line: the line where the row starts in its file, from 1; in a Parquet or Arrow file the number of
        the row, in tars that of the sample.
    extra: the other columns.
    """

    sample_id: int
    prompt: str
    image: str
    score: float | None
    line: int
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def sample_id(prompt: str, image: str) -> int:
    """Return the identity of a row in [0, 2^63): see `Row`."""
    digest = hashlib.sha256(f"{prompt}\0{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
