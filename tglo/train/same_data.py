"""What a run is trained on, as digests that a checkpoint keeps, and what of it has changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.coded import as_coded, numbered
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
    cut = threshold.plain()
    del cut["scores_sha256"], cut["count"]  # told by "scores" already
    return {
        "count": len(manifest),
        "rows": manifest.identity,
        "scores": _scores(manifest),
        "order": manifest.sha256,
        "threshold": _sha256(json.dumps(cut, sort_keys=True).encode()),
        "threshold_value": threshold.value,
        **cache.content(samples.ids, _read_prompts(manifest, samples)),
    }


def _scores(manifest: Manifest) -> str:
    """Return the digest of ids and scores, in an order of their own."""
    ids, scores = manifest.sample_ids(), manifest.scores()
    order = np.argsort(ids)
    ordered = ids[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((scores, ids))
        ordered = ids[order]
    digest = hashlib.sha256(ordered.astype("<i8", copy=False).data)
    del ordered
    for start in range(0, len(order), 2**17):
        digest.update(scores[order[start : start + 2**17]].astype("<f8", copy=False).data)
    return digest.hexdigest()


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
    ids: Sequence[int] | NDArray[np.int64],
    buckets: Sequence[Any],
    batch: tuple[int, int, int],
    seed: int,
) -> str:
    """Return a digest of what decides which samples a step has.

    ids: of what the sampler, in its present version, shuffles, in its order. batch: rows or pairs of
    a micro batch, micro batches and processes. With one bucket only their product matters.
    """
    coded = as_coded(buckets)
    several = np.count_nonzero(np.bincount(coded.codes)) > 1
    names, places = np.array(coded.names, dtype="<i8"), range(0, len(coded), 2**17)
    digest = hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").data)
    for start in places:
        digest.update(names[coded.codes[start : start + 2**17]].data)
    sizes = batch if several else (math.prod(batch),)
    digest.update(np.array((*sizes, seed, ORDER_VERSION), dtype="<i8").data)
    return digest.hexdigest()


def _read_prompts(manifest: Manifest, samples: Samples) -> list[str]:
    """Return the prompts whose embeddings are read; the empty one stands for dropped captions."""
    captions = samples.captions
    if captions is None:
        captions = manifest.prompt_codes()
        if len(samples.ids) < len(manifest):
            captions = captions.take(np.isin(manifest.sample_ids(), samples.ids))
    return sorted({"", *numbered(captions)[0]})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
