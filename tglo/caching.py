"""`tglo cache`: a manifest's latents and embeddings, by the encoders of a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tglo import models
from tglo.data.cache import Report, build_cache
from tglo.data.manifest import read_manifest
from tglo.devices import DTYPES, process_device


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
) -> Report:
    """Read the manifest, load the model, encode; see :func:`tglo.data.cache.build_cache`.

    Several processes (torchrun) share the shards by RANK and WORLD_SIZE; they need not communicate.
    """
    rows = read_manifest(manifest, require_scores=False)
    family = models.load(model, dtype=DTYPES[dtype], device=process_device(device))
    return build_cache(
        rows,
        output,
        family,
        resolution=resolution,
        buckets=buckets,
        batch_size=batch_size,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        max_bad_fraction=max_bad_fraction,
        markers=markers,
    )
