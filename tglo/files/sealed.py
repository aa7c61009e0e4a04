"""JSON files with a checksum of their own: a changed one is found when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tglo.files.damaged import reading
from tglo.files.writing import write_json

_SEAL = "seal"


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write content as JSON with its own checksum."""
    write_json(path, {**content, _SEAL: seal(content)})


def seal(content: Mapping[str, Any]) -> str:
    """Return the checksum of JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_sealed(
    path: Path,
    kind: str,
    remedy: str,
    may_lack_it: Callable[[dict[str, Any]], bool] = lambda content: False,
) -> dict[str, Any]:
    """Read JSON content; DamagedFile unless it has its own checksum.

    may_lack_it: says of content without a checksum whether it is of a version that had none.
    """
    with reading(path, kind, remedy):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError
        found = content.pop(_SEAL, None)
        if found != seal(content) and not (found is None and may_lack_it(content)):
            raise ValueError("its content differs from its checksum")
        return content
