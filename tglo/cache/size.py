"""What a cache takes of the disk, from configurations and tokens alone, before anything is encoded."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tglo.cache.shards import read_record, record_names
from tglo.data import ragged
from tglo.data.buckets import Bucket
from tglo.data.errors import CacheError
from tglo.models.families.base import Family

_COUNTED = 10_000  # prompts whose tokens are counted; of more, as many spread over all


@dataclass(frozen=True)
class Share:
    """The files of one kind."""

    items: int
    new: int
    """Items that no shard has."""
    bytes_each: float
    """Of an item; the mean where they differ."""

    @property
    def bytes(self) -> float:
        """Of all items."""
        return self.items * self.bytes_each

    @property
    def new_bytes(self) -> float:
        """Of those that no shard has."""
        return self.new * self.bytes_each


@dataclass(frozen=True)
class CacheSize:
    """A cache's size on the disk, and what of it is still to be written."""

    text: Share
    latents: Share
    """Of the largest bucket each: which one an image is in, its file would have to say."""
    buckets: int
    about: bool
    """Not all prompts' tokens were counted."""
    dtype: torch.dtype
    """Of the text."""

    @property
    def new_bytes(self) -> float:
        """Bytes to write."""
        return self.text.new_bytes + self.latents.new_bytes

    def __str__(self) -> str:
        text, latents = self.text, self.latents
        about = "about " if self.about else ""
        most = " at most" if self.buckets > 1 else ""
        half = "; --dtype bf16 halves that" if self.dtype == torch.float32 else ""
        return (
            f"text: {text.items:,} prompts x {about}{size(text.bytes_each)} = {size(text.bytes)} "
            f"({str(self.dtype).removeprefix('torch.')}{half}); latents: {latents.items:,} images x "
            f"{size(latents.bytes_each)}{most} = {size(latents.bytes)}; {size(self.new_bytes)} of it new"
        )

    def check(self, folder: Path) -> None:
        """Raise CacheError if the folder's disk has no space for what is to be written."""
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if self.new_bytes <= free:
            return
        half = ""
        if self.dtype == torch.float32:
            half = f"--dtype bf16, which saves {size(self.text.bytes / 2)}, "
        raise CacheError(
            f"the disk of {folder} has {size(free)} free, and the cache needs {size(self.new_bytes)} more "
            f"({size(self.text.new_bytes)} of text, {size(self.latents.new_bytes)} of latents); use {half}"
            "a smaller resolution, fewer prompts or images, or a folder on another disk (--output)"
        )


def cache_size(
    family: Family,
    folder: Path,
    prompts: Sequence[str],
    keys: Collection[int],
    ids: Collection[int],
    buckets: Sequence[Bucket],
) -> CacheSize:
    """Work out the size of a cache in folder: of distinct prompts with their keys, and of images by sample id."""
    tokens, about = 0.0, False
    shapes = family.text_shapes()
    if any(None in shape for shape in shapes.values()):
        step = -(-len(prompts) // _COUNTED)
        counted = prompts[::step]
        tokens, about = sum(family.text_lengths(counted)) / len(counted), step > 1
    each = text_bytes(shapes, tokens, family.dtype)
    largest = max(
        family.codec.stored_bytes(height, width, *frames) for *frames, height, width in buckets
    )
    return CacheSize(
        Share(len(keys), _missing(folder, "text", keys), each),
        Share(len(ids), _missing(folder, "latents", ids), largest),
        len(buckets),
        about,
        family.dtype,
    )


def text_bytes(
    shapes: dict[str, tuple[int | None, ...]], tokens: float, dtype: torch.dtype
) -> float:
    """Return the bytes of one prompt's embeddings; tokens: of a prompt, where the shapes leave them open."""
    return ragged.numbers(shapes.values(), tokens) * dtype.itemsize


def _missing(folder: Path, kind: str, keys: Collection[int]) -> int:
    """Return how many of the items no shard has."""
    missing = set(keys)
    for _, name in record_names(folder, kind) if folder.is_dir() else ():
        record = read_record(folder, name)
        missing.difference_update(() if record is None else record["keys"])
    return len(missing)


def size(count: float) -> str:
    """Return a number of bytes as text with three digits."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"
