"""What a run is trained on, as digests that a checkpoint keeps, and what of it has changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tglo.cache.latents import LatentCache
from tglo.data.manifest import Manifest
from tglo.data.sampler import ORDER_VERSION
from tglo.threshold.frozen import Threshold
from tglo.train.batches import Samples


def digests(
    manifest: Manifest, threshold: Threshold, cache: LatentCache, samples: Samples
) -> dict[str, Any]:
    """Return digests of rows, scores, their order, threshold and cache, as JSON by name.

    Of the cache only what the samples read counts: it may hold, and get, others.
    """
    ids, scores = manifest.sample_ids(), manifest.scores()
    order = np.lexsort((scores, ids))
    parts = ids[order].astype("<i8").tobytes(), scores[order].astype("<f8").tobytes()
    cut = threshold.plain()
    del cut["scores_sha256"], cut["count"]  # told by "scores" already
    return {
        "count": len(manifest),
        "rows": manifest.identity,
        "scores": _sha256(b"".join(parts)),
        "order": manifest.sha256,
        "threshold": _sha256(json.dumps(cut, sort_keys=True).encode()),
        "threshold_value": threshold.value,
        **cache.content(samples.ids, _read_prompts(manifest, samples)),
    }


def changes(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in words what `digests` tells apart; "" for the same data."""
    differing = {name for name in now if then.get(name) != now[name]}
    words = []
    if "rows" in differing:
        counts = f"{then.get('count')} then, {now['count']} now"
        if "count" not in differing:
            counts = f"{now['count']} as before, but others"
        words.append(f"the manifest's rows ({counts})")
    elif "scores" in differing:
        words.append("the scores")
    elif "order" in differing:
        words.append("the order of the manifest's rows")
    if "threshold" in differing:
        values = f"{then.get('threshold_value')} then, {now['threshold_value']} now"
        if "threshold_value" not in differing:
            values = "its scale, or its values for single prompts"
        words.append(f"the threshold ({values})")
    words += [f"the cached {name}" for name in ("latents", "embeddings") if name in differing]
    if "noise" in differing and "noise" in then:  # not where only now it is the images' own
        words.append("the seeds of the images' noise")
    if "base" in differing and "base" in then:  # not where only the objective needs it now
        words.append("the base model's weights or schedule (model.path)")
    if then.get("lora") != now.get("lora"):
        words.append(
            "the LoRA that training starts from, or what the reference has of it (model.lora)"
        )
    return ", ".join(words)


def order_of(
    ids: Sequence[int], buckets: Sequence[Any], batch: tuple[int, int, int], seed: int
) -> str:
    """Return a digest of what decides which samples a step has.

    ids: of what the sampler, in its present version, shuffles, in its order. batch: rows or pairs of
    a micro batch, micro batches and processes. With one bucket only their product matters.
    """
    sizes = batch if len(set(buckets)) > 1 else (math.prod(batch),)
    parts = (ids, buckets, (*sizes, seed, ORDER_VERSION))
    numbers = [np.array(part, dtype="<i8").tobytes() for part in parts]
    return _sha256(b"".join(numbers))


def _read_prompts(manifest: Manifest, samples: Samples) -> list[str]:
    """Return the prompts whose embeddings are read; the empty one stands for dropped captions."""
    captions = samples.captions
    if captions is None:
        known = set(samples.ids)
        captions = [row.prompt for row in manifest.rows if row.sample_id in known]
    return sorted({"", *captions})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
