"""Makes a cache, or extends one: resumable, by any number of processes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from tglo.cache.clips import prepare_clip
from tglo.cache.encode import Prepare, encode_text, prepare_image
from tglo.cache.format import (
    FORMAT,
    LAST,
    VERSIONS,
    Encoder,
    Quarantined,
    check_format,
    choose_buckets,
    fingerprint_of,
    list_quarantined,
    text_key,
)
from tglo.cache.images import ImageShards
from tglo.cache.index import brief_latents, brief_text, complete_cache
from tglo.cache.parts import Job, Made, Part
from tglo.cache.shards import Record, Shard, read_last
from tglo.cache.sources import Sources
from tglo.cache.work import Finished, ShardReport, make_shards
from tglo.console.verbosity import bar_hidden
from tglo.data.buckets import Size
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest
from tglo.data.rows_by_id import RowsById, sorted_by_name
from tglo.settings import ClipOptions

log = logging.getLogger("tglo")


@dataclass(frozen=True)
class CacheReport(ShardReport):
    """The outcome of a call of `build_cache`."""

    samples: int  # usable images
    prompts: int
    encoded: int  # images that this process encoded
    quarantined: tuple[Quarantined, ...]

    def __str__(self) -> str:
        bad = self.quarantined
        remark = f"; {len(bad)} quarantined: {list_quarantined(bad)}" if bad else ""
        return self.text(
            f"{self.samples} images and {self.prompts} prompts; {self.encoded} images encoded",
            remark,
        )


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
    clips: ClipOptions | None = None,
    vae_tiling: bool = False,
    progress: bool = True,
) -> CacheReport:
    """Encode every distinct image and prompt of a manifest into out_dir.

    buckets: aspect-ratio buckets of about resolution^2 pixels; False: squares only.
    rank, world_size: where this process begins, see `make_shards`: all share the work, until the cache is complete.
    dtype: the latents'; embeddings stay as the encoder returns them.
    markers: texts that every prompt is also encoded behind, for conditional fine-tuning.
    clips: of a model of videos, which clip of each; resolved. vae_tiling: the encoder works in tiles.

    What out_dir has already is kept: prompts, and images whose file has the size and time that it
    had, or else the same bytes. Rows that are no longer in the manifest stay on the disk, but leave
    the cache. The cache that was there is valid until the new one takes its place. Images that
    cannot be read are quarantined and listed in cache.json; each call tries them again.

    Raises CacheError when out_dir holds something else or a cache with another fingerprint (naming
    the fields), when more than max_bad_fraction of the images are quarantined (listing them), when
    the encoder returns NaN, inf or wrong shapes, and when another command caches other rows in out_dir
    at the same time; ManifestError for images outside the data folder; ValueError for settings out
    of range.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction}")
    started, folder = time.monotonic(), Path(out_dir)
    check_format(folder)
    fingerprint = fingerprint_of(
        encoder, resolution, buckets, shard_size, dtype, markers, clips, vae_tiling
    )
    sizes = choose_buckets(encoder, resolution, buckets, () if clips is None else clips.frames)
    # In an order of their own, so that a reordered manifest gives the same bytes, and resumes.
    rows = RowsById(sorted_by_name(manifest))
    prompts = prompts_of(manifest, markers)
    aside = _Quarantine(rows, max_bad_fraction)

    def make_text(keys: Sequence[int], shard: Shard | None) -> Made:
        if shard is not None:
            return Made()
        return Made(*encode_text(encoder, [prompts[key] for key in keys], batch_size))

    def split(keys: list[int]) -> list[list[int]]:
        return [keys[start : start + shard_size] for start in range(0, len(keys), shard_size)]

    def finish(finished: Finished, trusted: Mapping[str, str]) -> None:
        aside.begin()
        for part, shard in finished["latents"]:
            aside.accept(part, shard.record)
        settings = {
            "fingerprint": fingerprint,
            "buckets": sizes,
            "shard_size": shard_size,
            "rows": manifest.identity,
            "quarantined": [asdict(entry) for entry in aside.found],
        }
        complete_cache(folder, settings, rows, prompts, finished, trusted)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        prepare: Prepare
        if clips is None:
            prepare = partial(prepare_image, manifest, buckets=cast("list[Size]", sizes))
        else:
            prepare = partial(prepare_clip, manifest, buckets=sizes, clips=clips)
        images = ImageShards(
            manifest, rows, encoder, prepare, batch_size, dtype, pool, Sources(manifest)
        )
        jobs = {
            "text": Job([*prompts], split, make_text, lambda keys, shard: True, brief_text),
            "latents": Job(
                [*rows],
                split,
                images.make,
                images.is_current,
                partial(brief_latents, buckets=sizes),
            ),
        }
        bar = {"desc": "cache", "unit": "item", "disable": bar_hidden(progress and rank == 0)}
        last = LAST, FORMAT, VERSIONS
        report = make_shards(
            folder, last, fingerprint, jobs, finish, aside.accept,
            is_ours=lambda content: content.get("rows") == manifest.identity,
            rank=rank, world_size=world_size, bar=bar,
        )  # fmt: skip
    content = read_last(folder / LAST, FORMAT, VERSIONS)  # this process's, or another's
    if images.enlarged:
        log.warning(
            "%d of %d images encoded were scaled up: they are smaller than --resolution %d",
            images.enlarged, images.encoded, resolution,
        )  # fmt: skip
    if images.gone:
        log.warning(
            "%d images are no longer there (%s, ...); their latents are kept as they are",
            len(images.gone),
            sorted(images.gone)[0],
        )
    return CacheReport(
        **(vars(report) | {"seconds": time.monotonic() - started}),
        samples=content["samples"],
        prompts=len(prompts),
        encoded=images.encoded,
        quarantined=tuple(Quarantined(**entry) for entry in content["quarantined"]),
    )


def prompts_of(manifest: Manifest, markers: Sequence[str]) -> dict[int, str]:
    """Return the prompts to encode by key, in their order; CacheError if two have the same key."""
    given = manifest.different_prompts()
    prompts = sorted({"", *(start + prompt for prompt in given for start in ("", *markers))})
    by_key = {text_key(prompt): prompt for prompt in prompts}
    if len(by_key) != len(prompts):
        raise CacheError("two prompts have the same hash; change one of them by a space")
    return by_key


class _Quarantine:
    """The manifest's images that could not be used, up to a cap."""

    def __init__(self, rows: RowsById, max_bad_fraction: float) -> None:
        self._rows, self._share = rows, max_bad_fraction
        self.begin()

    def begin(self) -> None:
        """Forget what was taken in."""
        self.found: list[Quarantined] = []

    def accept(self, part: Part, record: Record) -> None:
        """Take in the record of a shard; CacheError above the cap, listing all so far."""
        wanted = {*part.keys}
        bad = [entry for entry in record.get("quarantined", ()) if entry["id"] in wanted]
        for entry in bad:
            row = self._rows[entry["id"]]
            self.found.append(Quarantined(row.line, row.image, entry["cause"]))
        if len(self.found) > self._share * len(self._rows):
            raise CacheError(
                f"{len(self.found)} of {len(self._rows)} images cannot be used, above "
                f"max_bad_fraction = {self._share:g}: {list_quarantined(self.found)}. Repair or "
                "remove them, or raise max_bad_fraction; finished shards are kept"
            )
