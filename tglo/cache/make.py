"""`tglo cache`: a manifest's latents and embeddings, by the encoders of a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tglo import models
from tglo.cache.build import CacheReport, build_cache
from tglo.cache.latents import LatentCache
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest, read_manifest
from tglo.devices import DTYPES, process, process_device


def is_made_of(
    cache: Path,
    manifest: Path,
    resolution: int,
    buckets: bool,
    columns: tuple[str, str] = ("prompt", "image"),
) -> bool:
    """Return whether `cache` is a complete cache of this manifest at this resolution, so that it need not
    be built; False also for a damaged one. Raises CacheError, naming the field, for one of something else.
    """
    try:
        found = LatentCache(cache)
    except CacheError:
        return False
    rows = _rows(manifest, columns)
    found.check({"resolution": str(resolution), "samples": rows.identity})
    if not buckets and " " in found.fingerprint["buckets"]:
        raise CacheError(
            f"the cache {cache} has buckets of {found.fingerprint['buckets']}, not one"
        )
    return True


def build(
    model: str,
    manifest: Path,
    output: Path,
    *,
    resolution: int,
    buckets: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "fp32",
    max_bad_fraction: float = 0.01,
    markers: Sequence[str] = (),
    revision: str | None = None,
    columns: tuple[str, str] = ("prompt", "image"),
) -> CacheReport:
    """Read the manifest, load the model, encode; see `tglo.cache.build.build_cache`.

    Several processes (torchrun) share the shards by RANK and WORLD_SIZE; they need not communicate.
    """
    rows = _rows(manifest, columns)
    rank, world_size = process()
    family = models.load(
        model, dtype=DTYPES[dtype], device=process_device(device), revision=revision
    )
    return build_cache(
        rows,
        output,
        family,
        resolution=resolution,
        buckets=buckets,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        max_bad_fraction=max_bad_fraction,
        markers=markers,
    )


def _rows(manifest: Path, columns: tuple[str, str]) -> Manifest:
    prompt, image = columns
    return read_manifest(manifest, prompt_column=prompt, image_column=image, require_scores=False)
