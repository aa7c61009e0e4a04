"""Which rows of a manifest a run trains on, as its objective wants them: all, the positives, pairs."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest
from tglo.data.pairs import form_pairs
from tglo.objectives import OBJECTIVES
from tglo.threshold.frozen import Threshold
from tglo.threshold.statistics import quantiles_within
from tglo.train.batches import Samples
from tglo.train.config import TrainConfig

log = logging.getLogger("tglo")


def choose(
    config: TrainConfig, manifest: Manifest, cache: LatentCache, threshold: Threshold
) -> Samples:
    """The manifest's rows that the cache holds and the objective uses; rows that the cache
    quarantined are left out.

    Raises ValueError when the cache lacks rows, or the embeddings of marked prompts, and when pairs
    are needed and there are none.
    """
    kept = _cached(manifest, cache)
    quantiles = quantiles_within(manifest.scores(), manifest.prompts())
    scores, thresholds = manifest.scores(), threshold.for_prompts(manifest.prompts())
    objective = OBJECTIVES[config.objective.name]
    if objective.positives_only:
        kept = kept[scores[kept] >= thresholds[kept]]
    rows = manifest.select(kept.tolist())
    samples = Samples(
        ids=rows.sample_ids().tolist(),
        lines=[row.line for row in rows.rows],
        scores=torch.from_numpy(scores[kept]),
        thresholds=torch.from_numpy(thresholds[kept]),
        quantiles=torch.from_numpy(quantiles[kept]),
        captions=None,
        units=np.arange(len(kept), dtype=np.int64)[:, None],
    )
    if objective.marks_prompts:
        samples = replace(samples, captions=_marked(config, rows, samples, cache))
    if objective.takes_pairs:
        buckets = cache.buckets(samples.ids)
        pairs = form_pairs(samples.ids, rows.prompts(), buckets, scores[kept], config.seed)
        log.info("%d pairs from %d rows", len(pairs), len(kept))
        samples = replace(samples, units=pairs)
    return samples


def _cached(manifest: Manifest, cache: LatentCache) -> NDArray[np.int64]:
    """Indices of the rows that the cache holds, (rows,) int64."""
    here = cache.has(manifest.sample_ids())
    quarantined = {entry.image for entry in cache.quarantined}
    absent = [row for row, known in zip(manifest.rows, here, strict=True) if not known]
    missing = [row.line for row in absent if row.image not in quarantined]
    if missing:
        raise ValueError(
            f"cache {cache.path} lacks {len(missing)} rows of {manifest.path} (lines "
            f"{missing[:5]}...): it was made from another manifest; make one with `tglo cache`"
        )
    if absent:
        log.warning("%d rows are left out: the cache quarantined their images", len(absent))
    return np.flatnonzero(here)


def _marked(config: TrainConfig, rows: Manifest, samples: Samples, cache: LatentCache) -> list[str]:
    """Each row's prompt behind the marker of its label; their embeddings must be in the cache."""
    good, bad = config.objective.good_marker, config.objective.bad_marker
    positive = (samples.scores >= samples.thresholds).tolist()
    captions = [
        (good if is_good else bad) + prompt
        for is_good, prompt in zip(positive, rows.prompts(), strict=True)
    ]
    try:
        cache.check_prompts(captions)
    except CacheError as error:
        raise ValueError(
            f"objective {config.objective.name} trains on marked prompts, but {error}. Make the cache "
            f"with `tglo cache ... --markers {good!r} {bad!r}`"
        ) from None
    return captions
