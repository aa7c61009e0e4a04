"""File modes as the umask has them, also of files that a library first writes for their owner alone.

safetensors writes to a temporary file of its own, mode 0600, and renames it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by safetensors' `save_file`, with the mode of any new file."""
    from safetensors.torch import save_file

    path.touch()  # the umask cannot be asked without setting it
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata) if metadata else None)
    path.chmod(mode)


def open_like(folder: Path, file: Path) -> None:
    """Let those read and write a file of a folder who may list the folder and add to it."""
    wanted, mode = folder.stat().st_mode & 0o666, file.stat().st_mode & 0o777
    if mode & 0o666 != wanted:
        os.chmod(file, wanted | mode & 0o111)
