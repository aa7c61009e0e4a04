"""A command's result as one JSON object, as other programs read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def as_json(result: Mapping[str, Any]) -> str:
    """Return the result as JSON: paths are text; what is not a finite number is text, too (inf) or null (NaN)."""
    return json.dumps(_plain(result), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
