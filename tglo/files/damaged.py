"""Files that cannot be read: the one place that turns what a parser raises into a sentence.

A reader of a file wraps its parsing in `reading`. Whatever goes wrong inside, a torn file, one of
another kind or one that lacks an entry, becomes "PATH is damaged or no KIND (cause): REMEDY".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class DamagedFile(ValueError):
    """A file is torn, is of another kind, or lacks what it should hold."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: str, remedy: str) -> Iterator[None]:
    """Turn what parsing a file raises into DamagedFile, naming path, kind, cause and remedy.

    kind: what the file should be, without an article ("latent cache"). remedy: what to do, as an
    imperative. A missing file stays an OSError, and a DamagedFile of an inner file passes unchanged.
    """
    try:
        yield
    except (DamagedFile, OSError, MemoryError):
        raise
    except Exception as error:  # parsers have classes of their own
        cause = " ".join(str(error).split())
        if isinstance(error, KeyError):
            cause = f"it has no {cause}"
        elif isinstance(error, RecursionError):
            cause = "it is nested too deeply"
        elif isinstance(error, (AttributeError, IndexError, TypeError)):
            cause = "its content has another form"
        raise DamagedFile(f"{path} is damaged or no {kind} ({cause}): {remedy}") from error


def read_json(
    path: str | os.PathLike[str], kind: str = "JSON file", remedy: str = "make it again"
) -> Any:
    """Read JSON; DamagedFile, a ValueError, when it is torn or is not JSON at all."""
    with reading(path, kind, remedy):
        return json.loads(Path(path).read_bytes())


def read_tensors(
    path: str | os.PathLike[str], kind: str, remedy: str, device: str = "cpu"
) -> dict[str, Tensor]:
    """Read a safetensors file; DamagedFile if it is torn or of another kind."""
    from safetensors.torch import load_file

    with reading(path, kind, remedy):
        return load_file(path, device=device)
