"""Makes a cache: resumable, by any number of ranks, with the same bytes however often it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tglo.cache.encode import PreparedImage, encode_latents, encode_text, prepare
from tglo.cache.format import (
    LAST,
    Encoder,
    Quarantined,
    choose_buckets,
    fingerprint_of,
    list_quarantined,
)
from tglo.cache.index import complete_cache
from tglo.cache.shards import claim, clear, finished_record, shard_name, write_shard
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest

Item = TypeVar("Item")
Made = tuple[dict[str, Tensor], dict[str, Any]]  # a shard's tensors and its record


@dataclass(frozen=True)
class CacheReport:
    """The outcome of a call of `build_cache`."""

    samples: int  # usable images; until the cache is complete, this rank's
    prompts: int
    quarantined: tuple[Quarantined, ...]
    written: int  # shards
    kept: int  # shards that were finished before
    complete: bool  # False while other ranks still have shards to make
    seconds: float

    def __str__(self) -> str:
        text = (
            f"{self.samples} images and {self.prompts} prompts; {self.written} shards written, "
            f"{self.kept} kept, {self.seconds:.1f} s"
        )
        if self.quarantined:
            text += f"; {len(self.quarantined)} quarantined: {list_quarantined(self.quarantined)}"
        return text if self.complete else text + "; other ranks are not done yet"


def build_cache(
    manifest: Manifest,
    out_dir: str | os.PathLike[str],
    encoder: Encoder,
    *,
    resolution: int,
    buckets: bool = True,
    batch_size: int = 8,
    shard_size: int = 512,
    rank: int = 0,
    world_size: int = 1,
    max_bad_fraction: float = 0.01,
    dtype: torch.dtype = torch.float32,
    markers: Sequence[str] = (),
    progress: bool = True,
) -> CacheReport:
    """Encode every distinct image and prompt of a manifest into out_dir.

    buckets: aspect-ratio buckets of about resolution^2 pixels; False: squares only.
    rank, world_size: this process makes the shards rank, rank + world_size, ...; the last process to
        finish completes the cache.
    dtype: the latents'; embeddings stay as the encoder returns them.
    markers: texts that every prompt is also encoded behind, for conditional fine-tuning.

    Finished shards that match their checksum are kept, unless a quarantined image has become
    readable. Images that cannot be read are quarantined and listed in cache.json.

    Raises CacheError when out_dir holds something else or a cache with another fingerprint (naming
    the fields), when more than max_bad_fraction of the images are quarantined (listing them), and
    when the encoder returns NaN, inf or wrong shapes; ManifestError for images outside the data
    folder; ValueError for settings out of range.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction}")
    started = time.monotonic()
    fingerprint = fingerprint_of(
        manifest,
        encoder,
        resolution=resolution,
        buckets=buckets,
        shard_size=shard_size,
        dtype=dtype,
        markers=markers,
    )
    sizes = choose_buckets(encoder, resolution, buckets)
    # In an order of their own, so that a reordered manifest gives the same bytes, and resumes.
    distinct = {row.sample_id: row for row in manifest.rows}.values()
    rows = sorted(distinct, key=lambda row: (row.image, row.prompt))
    prompts = sorted({"", *(start + row.prompt for row in rows for start in ("", *markers))})
    row_by_image = {row.image: row for row in rows}

    folder = Path(out_dir)
    claim(folder, fingerprint)
    if world_size == 1:  # with more, a file may belong to another rank that is at work
        clear(folder, ".*.tmp")
    shards = _Shards(folder, allowed_bad=max_bad_fraction * len(rows), total=len(rows))
    mine = slice(rank, None, world_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _bar(progress, rank) as bar:

        def make_text(part: Sequence[str]) -> Made:
            tensors = encode_text(encoder, part, batch_size)
            shapes = {name: [str(t.dtype), *t.shape[1:]] for name, t in tensors.items()}
            return tensors, {"shapes": shapes}

        def make_latents(part: Sequence[Any]) -> Made:
            return encode_latents(manifest, encoder, part, sizes, batch_size, dtype, pool)

        def is_stale(record: dict[str, Any]) -> bool:
            again = [row_by_image[entry["image"]] for entry in record["quarantined"]]
            return any(isinstance(prepare(manifest, row, sizes), PreparedImage) for row in again)

        text_parts, row_parts = _split(prompts, shard_size), _split(rows, shard_size)
        text_mine, row_mine = list(enumerate(text_parts))[mine], list(enumerate(row_parts))[mine]
        bar.reset(total=sum(len(part) for _, part in [*text_mine, *row_mine]))
        for number, text_part in text_mine:
            shards.make(shard_name("text", number), partial(make_text, text_part))
            bar.update(len(text_part))
        for number, row_part in row_mine:
            shards.make(shard_name("latents", number), partial(make_latents, row_part), is_stale)
            bar.update(len(row_part))

    content = complete_cache(
        folder, fingerprint, sizes, rows, prompts, shard_size, shards.take_all_quarantined
    )
    if content is not None:
        shards.samples = content["samples"]
    return CacheReport(
        samples=shards.samples,
        prompts=len(prompts),
        quarantined=tuple(shards.quarantined),
        written=shards.written,
        kept=shards.kept,
        complete=content is not None,
        seconds=time.monotonic() - started,
    )


class _Shards:
    """Makes or keeps shards, and counts them."""

    def __init__(self, folder: Path, allowed_bad: float, total: int) -> None:
        self.folder, self.allowed_bad, self.total = folder, allowed_bad, total
        self.written = self.kept = self.samples = 0
        self.quarantined: list[Quarantined] = []

    def make(
        self,
        name: str,
        produce: Callable[[], Made],
        is_stale: Callable[[dict[str, Any]], bool] = lambda record: False,
    ) -> None:
        """Keep the shard if it is finished and whole, else produce, publish and record it."""
        record = finished_record(self.folder, name, checksum=True)
        if record is not None and not is_stale(record):
            self.kept += 1
        else:
            record = write_shard(self.folder, name, *produce(), last=LAST)
            self.written += 1
        self.samples += len(record.get("samples", ()))
        self.quarantined += [Quarantined(**entry) for entry in record.get("quarantined", ())]
        self.stop_if_too_many()

    def take_all_quarantined(self, quarantined: Sequence[Quarantined]) -> None:
        """Count the quarantined images of every rank instead of this one's."""
        self.quarantined = list(quarantined)
        self.stop_if_too_many()

    def stop_if_too_many(self) -> None:
        """Raise CacheError when more images are unusable than is allowed."""
        bad = len(self.quarantined)
        if bad > self.allowed_bad:
            raise CacheError(
                f"{bad} of {self.total} images cannot be used, above max_bad_fraction = "
                f"{self.allowed_bad / self.total:g}: {list_quarantined(self.quarantined)}. Repair "
                "or remove them, or raise max_bad_fraction; finished shards are kept"
            )


def _split(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _bar(progress: bool, rank: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc="cache", unit="item", disable=not progress or rank != 0)
