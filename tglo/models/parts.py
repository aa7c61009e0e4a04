"""A part of a model, loaded on its own: from its folder, or from the model's one file."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tglo.models import folder
from tglo.models.single_file.header import read_header
from tglo.models.single_file.parts import read_part, write_part
from tglo.models.single_file.source import held_by, source_of

# The other format is pickle, which can run code.
FROM_DISK: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}


def class_of(path: Path, part: str) -> Any:
    """Return the class that a model folder names for a part."""
    library, name = folder.read_index(path)[part]
    return getattr(import_module(library), name)


def load_part(path: Path, part: str, kind: Any, dtype: torch.dtype) -> Any:
    """Load a part of a model folder, of class `kind`, in `dtype` on the CPU."""
    source = held_by(path, part)
    if source is not None:
        return read_part(source, path, part, kind, dtype)
    return kind.from_pretrained(path, subfolder=part, dtype=dtype, **FROM_DISK)


def parts_to_give(path: Path) -> tuple[str, ...]:
    """Return the parts of a model folder that diffusers' pipeline cannot load itself."""
    source = source_of(path)
    return () if source is None else tuple(source.parts)


def elements(path: Path) -> dict[str, int]:
    """Return how many numbers each of those parts has."""
    source = source_of(path)
    if source is None or not source.parts:  # a folder that stands for a variant holds none
        return {}
    entries = read_header(source.file).entries
    return {
        part: sum(math.prod(e.shape) for name, e in entries.items() if name.startswith(prefix))
        for part, prefix in source.parts.items()
    }


def write_parts(path: Path, target: Path, but: str, dtype: torch.dtype | None = None) -> None:
    """Write those parts, but one, as parts of the folder `target`, in `dtype` (as stored by default)."""
    source = source_of(path)
    for part in parts_to_give(path):
        if part != but and source is not None:
            write_part(source, path, part, class_of(path, part), target, dtype)
