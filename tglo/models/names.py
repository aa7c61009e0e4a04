"""What a model's name stands for: a folder, a file or a model of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

_LOCAL = ("./", "../", "/", "~/")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Endings of checkpoints in one file, also of those that are not read; no hub id has one."""


def local_path(path_or_hub_id: str | Path) -> Path | None:
    """Return the path that a model's name stands for, or None for a hub id; see tglo.models.resolve."""
    name = str(path_or_hub_id)
    local = isinstance(path_or_hub_id, Path) or name.startswith(("path:", *_LOCAL))
    if local or name.endswith(FILES):
        return Path(name.removeprefix("path:")).expanduser()
    return None
