"""Makes a cache: resumable, by any number of ranks, with the same bytes however often it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from tglo.cache.shards import Job, Made, Record, ShardReport, make_shards
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest, Row


@dataclass(frozen=True)
class CacheReport(ShardReport):
    """The outcome of a call of `build_cache`; until the cache is complete, this rank's."""

    samples: int  # usable images
    prompts: int
    quarantined: tuple[Quarantined, ...]

    def __str__(self) -> str:
        bad = self.quarantined
        remark = f"; {len(bad)} quarantined: {list_quarantined(bad)}" if bad else ""
        return self.text(f"{self.samples} images and {self.prompts} prompts", remark)


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
    rank, world_size: this process's share, see `make_shards`; the last to finish completes the cache.
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
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction}")
    started = time.monotonic()
    fingerprint = fingerprint_of(manifest, encoder, resolution, buckets, shard_size, dtype, markers)
    sizes = choose_buckets(encoder, resolution, buckets)
    # In an order of their own, so that a reordered manifest gives the same bytes, and resumes.
    distinct = {row.sample_id: row for row in manifest.rows}.values()
    rows = sorted(distinct, key=lambda row: (row.image, row.prompt))
    prompts = sorted({"", *(start + row.prompt for row in rows for start in ("", *markers))})
    row_by_image = {row.image: row for row in rows}
    quarantined: list[Quarantined] = []

    def accept(record: Record) -> None:
        quarantined.extend(Quarantined(**entry) for entry in record.get("quarantined", ()))
        if len(quarantined) > max_bad_fraction * len(rows):
            raise CacheError(
                f"{len(quarantined)} of {len(rows)} images cannot be used, above max_bad_fraction = "
                f"{max_bad_fraction:g}: {list_quarantined(quarantined)}. Repair "
                "or remove them, or raise max_bad_fraction; finished shards are kept"
            )

    def is_stale(record: Record) -> bool:
        again = [row_by_image[entry["image"]] for entry in record["quarantined"]]
        return any(isinstance(prepare(manifest, row, sizes), PreparedImage) for row in again)

    folder = Path(out_dir)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def make_latents(part: Sequence[Row]) -> Made:
            return encode_latents(manifest, encoder, part, sizes, batch_size, dtype, pool)

        def make_text(part: Sequence[str]) -> Made:
            return encode_text(encoder, part, batch_size)

        jobs = {
            "text": Job(_split(prompts, shard_size), make_text),
            "latents": Job(_split(rows, shard_size), make_latents, is_stale),
        }
        bar = {"desc": "cache", "unit": "item", "disable": not progress or rank != 0}
        report, records = make_shards(
            folder, LAST, fingerprint, jobs, accept, rank=rank, world_size=world_size, bar=bar
        )
    if report.complete:
        quarantined.clear()
        for record in records["latents"]:
            accept(record)
        complete_cache(folder, fingerprint, sizes, rows, prompts, shard_size, records)
    return CacheReport(
        **(vars(report) | {"seconds": time.monotonic() - started}),
        samples=sum(len(record["samples"]) for record in records["latents"]),
        prompts=len(prompts),
        quarantined=tuple(quarantined),
    )


def _split(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
