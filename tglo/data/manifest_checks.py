"""Checks of raw rows: why one cannot be trained on."""

from __future__ import annotations

import math

from tglo.data.manifest_rows import RawRow
from tglo.data.manifest_text import DECIMAL_COMMA
from tglo.data.roots import why_refused


def problem_of(raw: RawRow, root: str, require_scores: bool) -> str | None:
    """Say why a row is refused, or None.

    root: the folder, resolved, that images must lie in.
    """
    if raw.problem:
        return raw.problem
    if not isinstance(raw.prompt, str):
        return f"the prompt is {_shown(raw.prompt)}, not text"
    if not isinstance(raw.image, str):
        return f"the image is {_shown(raw.image)}, not a path"
    if not (raw.prompt.isascii() and raw.image.isascii()):
        try:
            (raw.prompt + raw.image).encode()
        except UnicodeEncodeError:
            return "the prompt or the image path is not valid Unicode"
    path = why_refused(raw.image, root)
    if path is not None:
        return f"the image path {raw.image!r} {path}"
    score = raw.score
    if score is None:
        return "the score is missing" if require_scores else None
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return f"the score is {_shown(score)}, not a number{_hint(score)}"
    if abs(score) > 1e300:
        return "the score is infinite" if abs(score) == math.inf else "the score is beyond 1e300"
    if math.isnan(score):
        return "the score is NaN" if require_scores else None
    return None


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _hint(score: object) -> str:
    if isinstance(score, str) and DECIMAL_COMMA.fullmatch(score):
        return " (decimal commas are read where semicolons separate the columns)"
    return ""
