"""The files of a checkpoint as they lie in memory, and their copies that a thread writes while training continues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

Files = dict[str, dict[str, Tensor] | str]
"""A file's name -> its tensors by name, or its text."""


class Part(Protocol):
    """What has some files of a checkpoint: the engine, the moving average, the reference."""

    def files(self) -> Files:
        """Return the files, of tensors that training continues to change."""


def write(files: Files, folder: Path) -> None:
    """Write the files to a folder."""
    for name, content in files.items():
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            save_file({key: t.contiguous() for key, t in content.items()}, folder / name)


def files_of(parts: Iterable[Part]) -> Files:
    """Return the files of all parts."""
    return {name: content for part in parts for name, content in part.files().items()}


def size(files: Files) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.nbytes for tensor in _tensors(files))


def host_size(files: Files) -> int:
    """Return the bytes that a HostCopy of the files takes: PyTorch pins powers of two."""
    return sum(
        1 << (tensor.nbytes - 1).bit_length() if tensor.is_cuda else tensor.nbytes
        for tensor in _tensors(files)
    )


def _tensors(files: Files) -> Iterator[Tensor]:
    for content in files.values():
        if not isinstance(content, str):
            yield from content.values()


class HostCopy:
    """Copies of a checkpoint's tensors in host memory, pinned where they come from a GPU.

    The memory is kept from one checkpoint to the next: pinning it, and touching it first, takes several times
    as long as the copy.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def take(self, files: Files) -> Files:
        """Return the files as they are now, in memory that the next call writes to."""
        taken: Files = {}
        devices = set()
        for name, content in files.items():
            if isinstance(content, str):
                taken[name] = content
                continue
            taken[name] = {key: self._take(name, key, tensor) for key, tensor in content.items()}
            devices |= {tensor.device for tensor in content.values() if tensor.is_cuda}
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return taken

    def _take(self, name: str, key: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get((name, key))
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._kept[name, key] = kept
        return kept.copy_(tensor, non_blocking=True)
