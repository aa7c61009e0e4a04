"""Completes a cache: the index over all shards, and cache.json, which makes the cache valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.format import FORMAT, LAST, VERSION, text_key
from tglo.cache.shards import entries, write_tensors
from tglo.data.buckets import Size
from tglo.data.errors import CacheError
from tglo.data.manifest import Row
from tglo.files import write_json


def complete_cache(
    folder: Path,
    fingerprint: dict[str, str],
    buckets: Sequence[Size],
    rows: Sequence[Row],
    prompts: Sequence[str],
    shard_size: int,
    records: Mapping[str, Sequence[dict[str, Any]]],
) -> None:
    """Write index.safetensors and cache.json, from the records of all text and latents shards.

    Several ranks may call this at once: they write the same bytes.
    """
    latents, text = records["latents"], records["text"]
    shapes = [record["shapes"] for record in text]
    if any(shape != shapes[0] for shape in shapes):
        raise CacheError(
            f"the encoder gave embeddings of several shapes ({shapes}); pad to a fixed length"
        )
    index = _index(latents, buckets, rows, prompts)
    tensors = {name: torch.from_numpy(array) for name, array in index.items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "buckets": list(buckets),
        "shard_size": shard_size,
        "samples": len(index["sample_id"]),
        "prompts": len(prompts),
        "quarantined": [entry for record in latents for entry in record["quarantined"]],
        "index": write_tensors(folder / "index.safetensors", tensors),
        "shards": entries((*latents, *text)),
    }
    write_json(folder / LAST, content)


def _index(
    records: Sequence[dict[str, Any]],
    buckets: Sequence[Size],
    rows: Sequence[Row],
    prompts: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Return arrays over samples, ascending by id, and over prompts, ascending by key."""
    bucket_number = {bucket: number for number, bucket in enumerate(buckets)}
    text_position = {prompt: position for position, prompt in enumerate(prompts)}
    prompt_of = {row.sample_id: row.prompt for row in rows}
    table = [
        (
            sample["id"],
            shard,
            bucket_number[tuple(sample["bucket"])],
            sample["position"],
            *sample["original"],
            *sample["crop"],
            text_position[prompt_of[sample["id"]]],
        )
        for shard, record in enumerate(records)
        for sample in record["samples"]
    ]
    if not table:
        raise CacheError("not one image could be used: there is nothing to train on")
    columns = np.array(sorted(table), dtype=np.int64)
    keys = np.array([text_key(prompt) for prompt in prompts], dtype=np.int64)
    if len(np.unique(keys)) != len(keys):
        raise CacheError("two prompts have the same hash; change one of them by a space")
    order = np.argsort(keys)
    names = ("sample_id", "shard", "bucket", "position")
    index = {name: columns[:, i].copy() for i, name in enumerate(names)}
    index["original"], index["crop"] = columns[:, 4:6].copy(), columns[:, 6:8].copy()
    index["text"] = columns[:, 8].copy()
    index["text_key"], index["text_position"] = keys[order], order.astype(np.int64)
    return index


def lookup(
    known: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each wanted number is among known ones, which ascend, and whether it is there."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return place, known[place] == wanted
