"""The rows of a manifest that a run trains on, as its objective wants them: all, the positives, pairs, groups."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.cache.pooled import mean_pooled
from tglo.coded import Coded, numbered
from tglo.data.errors import CacheError
from tglo.data.groups import form_groups
from tglo.data.manifest import Manifest
from tglo.data.pairs import form_pairs
from tglo.objectives import Labels, Objective
from tglo.threshold.frozen import Threshold, estimate
from tglo.threshold.split import check_split
from tglo.threshold.statistics import quantiles_within
from tglo.threshold.weights import Weighing, weighing
from tglo.train.batches import Samples
from tglo.train.config import TrainConfig

log = logging.getLogger("tglo")


def choose(
    config: TrainConfig,
    objective: Objective,
    manifest: Manifest,
    cache: LatentCache,
    threshold: Threshold,
) -> Samples:
    """Choose the manifest's rows that the cache holds and the objective uses; rows that the cache
    quarantined are left out.

    ValueError when the cache lacks rows, or the embeddings of marked prompts, and when pairs or groups
    are needed and there are none.
    """
    prompts, scores = manifest.prompt_codes(), manifest.scores()
    columns = scores, threshold.for_prompts(prompts), quantiles_within(scores, prompts)
    labels = Labels(*map(torch.from_numpy, columns))
    kept = _cached(manifest, cache)
    _check_split(config, objective, labels, kept)
    if objective.positives_only:
        kept = kept[labels.positive[kept].numpy()]
    kept, units = _units(config, objective, manifest, cache, kept)
    _check_split(config, objective, labels, kept)
    rows, labels = manifest.select(kept), labels if len(kept) == len(labels) else labels[kept]
    captions = None
    if objective.markers is not None:
        captions = _marked(objective.markers, rows, labels, cache, config.objective.name)
    samples = Samples(rows.sample_ids(), rows.lines(), labels, captions, units)
    return samples.weighed(_weighing(config, objective, labels, threshold.scale))


def threshold_of(config: TrainConfig, manifest: Manifest) -> Threshold:
    """Estimate or read the threshold that the scores are judged by."""
    data = config.data
    if data.threshold is None:
        by_prompt = data.per_prompt or data.baseline != "percentile"
        return estimate(
            manifest.scores(),
            data.percentile,
            prompts=manifest.prompt_codes() if by_prompt else None,
            kappa=data.kappa if data.per_prompt else None,
            score_scale=data.score_scale,
            baseline=data.baseline,
            embed=None if data.cache == Path() else partial(_embeddings, data.cache),
        )
    threshold = Threshold.load(data.threshold)
    threshold.check(manifest.scores())
    return threshold


def _embeddings(cache: Path, prompts: Sequence[str]) -> NDArray[np.float32]:
    return mean_pooled(LatentCache(cache), prompts)


def _units(
    config: TrainConfig,
    objective: Objective,
    manifest: Manifest,
    cache: LatentCache,
    kept: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of the kept rows are trained on, and the units of their places that come together."""
    size = config.objective.group_size
    if size == 1:
        return kept, np.arange(len(kept), dtype=np.int64)[:, None]
    rows = manifest.select(kept)
    ids, prompts, scores = rows.sample_ids(), rows.prompt_codes(), rows.scores()
    buckets = cache.bucket_codes(ids)
    if objective.takes_pairs:
        pairs = form_pairs(ids, prompts, buckets, scores, config.seed)
        log.info("%d pairs from %d rows", len(pairs), len(kept))
        return kept, pairs
    groups = form_groups(prompts, buckets, scores, size, config.seed)
    used, places = np.unique(groups, return_inverse=True)  # weights are normalised over these
    return kept[used], places.reshape(groups.shape)


def _check_split(
    config: TrainConfig, objective: Objective, labels: Labels, kept: NDArray[np.int64]
) -> None:
    check_split(
        config.objective.name,
        int(labels.positive[kept].sum()),
        len(kept),
        needs_positives=objective.needs_positives,
        needs_negatives=objective.needs_negatives,
    )


def _weighing(
    config: TrainConfig, objective: Objective, labels: Labels, scale: float
) -> Weighing | None:
    """Find the weights of all samples, whichever process trains on them; None of an objective without."""
    chosen = config.objective
    if not objective.weighs:
        return None
    return weighing(
        labels.scores.numpy(),
        labels.thresholds.numpy(),
        float(chosen.confidence),
        scale=scale,
        normalised=chosen.weight_normalisation,
        balance=chosen.balance,
    )


def _cached(manifest: Manifest, cache: LatentCache) -> NDArray[np.int64]:
    """Return the indices of the rows that the cache holds, (rows,) int64."""
    here = cache.has(manifest.sample_ids())
    quarantined = {entry.image for entry in cache.quarantined}
    absent = manifest.select(np.flatnonzero(~here)).rows
    missing = [row.line for row in absent if row.image not in quarantined]
    if missing:
        raise ValueError(
            f"cache {cache.path} lacks {len(missing)} rows of {manifest.path} (lines "
            f"{missing[:5]}...): it was made from another manifest; make one with `tglo cache`"
        )
    if absent:
        log.warning("%d rows are left out: the cache quarantined their images", len(absent))
    return np.flatnonzero(here)


def _marked(
    markers: tuple[str, str], rows: Manifest, labels: Labels, cache: LatentCache, name: str
) -> Sequence[str]:
    """Put the marker of its label before each row's prompt; their embeddings must be in the cache."""
    good, bad = markers
    prompts, numbers = numbered(rows.prompt_codes())
    marked = [marker + prompt for prompt in prompts for marker in (bad, good)]
    captions = Coded(*numbered(marked)).take(2 * numbers + labels.positive.numpy())
    try:
        cache.check_prompts(captions)
    except CacheError as error:
        raise ValueError(
            f"objective {name} trains on marked prompts, but {error}. Make the cache "
            f"with `tglo cache ... --markers {good!r} {bad!r}`"
        ) from None
    return captions
