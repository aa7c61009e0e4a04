"""Completes a cache: the index over all shards, and cache.json, which makes the cache valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.format import FORMAT, LAST, VERSIONS
from tglo.cache.parts import Part
from tglo.cache.shards import Record, entry, write_tensors
from tglo.cache.work import Finished
from tglo.data.buckets import Bucket
from tglo.data.errors import CacheError
from tglo.data.rows_by_id import RowsById
from tglo.files import write_sealed

MANY = 65536


def complete_cache(
    folder: Path,
    settings: Mapping[str, Any],
    rows: RowsById,
    prompts: Mapping[int, str],
    finished: Finished,
    trusted: Mapping[str, str],
) -> None:
    """Write the index and cache.json, from the records of all text and latents shards.

    settings: what cache.json says beside the files. prompts: by key. finished: with brief records.
    """
    shapes = [shard.record["shapes"] for _, shard in finished["text"]]
    if any(shape != shapes[0] for shape in shapes):
        raise CacheError(
            f"the encoder gave embeddings of several shapes ({shapes}); pad to a fixed length"
        )
    index = _samples(finished) | _prompts(finished, settings["shard_size"])
    text = dict(zip(index["text_key"].tolist(), index["text_position"].tolist(), strict=True))
    key_of = {prompt: key for key, prompt in prompts.items()}
    asked = rows.prompts(index["sample_id"])
    places = np.zeros(len(asked.names), dtype=np.int64)
    for code in np.unique(asked.codes).tolist():
        places[code] = text[key_of[asked.names[code]]]
    index["text"] = places[asked.codes]
    tensors = {name: torch.from_numpy(array) for name, array in index.items()}
    shards = [shard.record for kind in ("latents", "text") for _, shard in finished[kind]]
    content = {
        "format": FORMAT,
        "version": VERSIONS[-1],
        **settings,
        "samples": len(index["sample_id"]),
        "prompts": len(prompts),
        "index": write_tensors(folder, "index", tensors, trusted),
        "shards": [entry(record) for record in shards],
    }
    write_sealed(folder / LAST, content)


def brief_latents(part: Part, record: Record, buckets: Sequence[Bucket]) -> Record:
    """Return what the index needs of a shard of latents: table (samples, 11) instead of samples."""
    number, wanted = {bucket: n for n, bucket in enumerate(buckets)}, {*part.keys}
    table = [
        (
            sample["id"],
            part.number,
            number[tuple(sample["bucket"])],
            sample["position"],
            *sample["original"],
            *sample["crop"],
            *words(sample["digest"]),
            int(sample.get("whole", False)),
        )
        for sample in record["samples"]
        if sample["id"] in wanted
    ]
    whole = np.array(table, dtype=np.int64).reshape(-1, 11)
    return {**entry(record), "quarantined": record["quarantined"], "table": whole}


def brief_text(part: Part, record: Record) -> Record:
    """Return what the index needs of a shard of embeddings: table (prompts, 5) instead of digests."""
    wanted = {*part.keys}
    table = [
        (key, part.number, row, *words(record["digests"][row]))
        for row, key in enumerate(record["keys"])
        if key in wanted
    ]
    return {**entry(record), "shapes": record["shapes"], "table": np.array(table, dtype=np.int64)}


def _table(finished: Finished, kind: str) -> NDArray[np.int64]:
    """Return the tables of all shards of a kind as one, ascending by its first column."""
    tables = [shard.record["table"] for _, shard in finished[kind]]
    table = np.concatenate(tables) if tables else np.empty((0, 11), dtype=np.int64)
    return table[np.argsort(table[:, 0], kind="stable")]


def _samples(finished: Finished) -> dict[str, NDArray[Any]]:
    """Return arrays over samples, ascending by id."""
    columns = _table(finished, "latents")
    if not len(columns):
        raise CacheError("not one image could be used: there is nothing to train on")
    names = ("sample_id", "shard", "bucket", "position")
    index = {name: columns[:, i].copy() for i, name in enumerate(names)}
    if columns[:, 10].any():  # of videos alone
        index["whole"] = columns[:, 10].copy()
    pairs = {"original": 4, "crop": 6, "digest": 8}
    return index | {name: columns[:, start : start + 2].copy() for name, start in pairs.items()}


def _prompts(finished: Finished, shard_size: int) -> dict[str, NDArray[Any]]:
    """Return arrays over prompts, ascending by key; a position is the shard's number * shard_size plus
    the row.
    """
    columns = _table(finished, "text")
    return {
        "text_key": columns[:, 0].copy(),
        "text_position": columns[:, 1] * shard_size + columns[:, 2],
        "text_digest": columns[:, 3:5].copy(),
    }


def words(digest: str) -> tuple[int, int]:
    """Return a digest of 128 bits as two int64."""
    data = bytes.fromhex(digest)
    return int.from_bytes(data[:8], "big", signed=True), int.from_bytes(
        data[8:], "big", signed=True
    )


def lookup(
    known: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each wanted number is among known ones, which ascend, and whether it is there."""
    if (
        len(wanted) > MANY
    ):  # in the order of their places, where a search finds what it needs at hand
        order = np.argsort(wanted)
        found = np.searchsorted(known, wanted[order])
        place = np.empty(len(wanted), dtype=np.int64)
        place[order] = found
        del order, found
    else:
        place = np.searchsorted(known, wanted)
    np.minimum(place, len(known) - 1, out=place)
    return place, known[place] == wanted
