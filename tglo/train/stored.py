"""What the files of a checkpoint hold against what the run holds, before anything is copied.

A copy would broadcast a smaller tensor, convert another dtype, and a fused optimizer would read beyond
the end of a state that is too short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tglo.files import DamagedFile, read_json, read_tensors

KIND, REMEDY = (
    "part of this run's checkpoint",
    "resume from an older checkpoint",
)
Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype."""


def form(tensor: Tensor) -> Form:
    """Return a tensor's shape and dtype."""
    return tuple(tensor.shape), tensor.dtype


def read(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by memory map; DamagedFile, OSError."""
    return read_tensors(path, KIND, REMEDY)


def read_scalars(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON object; DamagedFile, OSError."""
    content = read_json(path, KIND, REMEDY)
    if not isinstance(content, dict):
        raise damaged(path, "it holds no names")
    return content


def damaged(path: Path, cause: str) -> DamagedFile:
    """Return the error for a file that does not fit the run."""
    return DamagedFile(f"{path} is damaged or no {KIND} ({cause}): {REMEDY}")


def check_names(path: Path, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise DamagedFile unless the names are the same."""
    there, here = set(found), set(wanted)
    lacking, foreign = sorted(here - there), sorted(there - here)
    if lacking or foreign:
        words = [f"it lacks {_shown(lacking)}"] if lacking else []
        words += [f"it has {_shown(foreign)}, which this run has not"] if foreign else []
        raise damaged(path, ", ".join(words))


def check_form(path: Path, name: str, found: Form, *wanted: Form) -> None:
    """Raise DamagedFile unless shape and dtype are one of the wanted ones."""
    if found not in wanted:
        here = " or ".join(map(_words, wanted)) or "no tensor"
        raise damaged(path, f"{name} is {_words(found)} there and {here} here")


def check(path: Path, wanted: Mapping[str, Tensor]) -> None:
    """Raise DamagedFile unless a file holds tensors of these names, shapes and dtypes."""
    found = read(path)
    check_names(path, found, wanted)
    for name, tensor in wanted.items():
        check_form(path, name, form(found[name]), form(tensor))


def _words(of: Form) -> str:
    return f"{'x'.join(map(str, of[0])) or 'a number'} {str(of[1]).removeprefix('torch.')}"


def _shown(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
