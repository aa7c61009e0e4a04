"""The header of a safetensors file: names, types and shapes of its tensors, without the tensors."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from tglo.files import reading
from tglo.models.folder import REMEDY

_PIECE = 2**24  # bytes at a time


class Entry(NamedTuple):
    """A tensor of the file: its type as safetensors names it, its shape, where in the file it is."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    file: Path
    entries: dict[str, Entry]
    metadata: dict[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape; () for one that is not there."""
        return self.entries[name].shape if name in self.entries else ()

    def has(self, *prefixes: str) -> bool:
        """Say whether a tensor's name begins with one of these."""
        return any(name.startswith(prefixes) for name in self.entries)

    def some(self, fits: Callable[[str], bool]) -> str | None:
        """Return the first name that fits."""
        return next(filter(fits, self.entries), None)

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with this one, sorted."""
        return sorted(name for name in self.entries if name.startswith(prefix))

    def common_dtype(self, names: Iterable[str]) -> str:
        """Return the type that most of these tensors have."""
        return Counter(self.entries[name].dtype for name in names).most_common(1)[0][0]

    def digest(self, names: Iterable[str]) -> str:
        """Return a hexadecimal digest of these tensors: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        with self.file.open("rb") as file:
            for name in sorted(names):
                entry = self.entries[name]
                digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
                file.seek(entry.begin)
                left = entry.end - entry.begin
                while left and (piece := file.read(min(left, _PIECE))):
                    digest.update(piece)
                    left -= len(piece)
        return digest.hexdigest()


def read_header(file: Path) -> Header:
    """Read a safetensors file's header; DamagedFile for a file that is cut or none."""
    state = file.stat()
    return _read(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(file: Path, size: int, time: int) -> Header:
    """Read it once for each content: size and time are those of the file."""
    with reading(file, "safetensors file", REMEDY), safe_open(file, "pt") as whole:
        if not whole.keys():
            raise ValueError("it holds no tensors")
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            content = json.loads(raw.read(length))
        metadata = content.pop("__metadata__", None) or {}
        start = 8 + length
        entries = {
            name: Entry(
                entry["dtype"],
                tuple(entry["shape"]),
                *(start + offset for offset in entry["data_offsets"]),
            )
            for name, entry in content.items()
        }
    return Header(file, entries, metadata)
