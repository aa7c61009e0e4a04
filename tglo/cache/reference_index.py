"""All errors of a large cache of reference errors in one file, sorted by sample, which is mapped when it is opened.

Without it thousands of shards would be read, checked and sorted at each start of a training, in each process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.content import let_go, map_tensors
from tglo.cache.shards import Shard, write_tensors

MANY = 65536  # samples from which there is one

Arrays = dict[str, NDArray[Any]]
"""sample_id (N,) int64, ascending; error (N, K) float64; inputs (N, 4) int64."""


def write_index(
    folder: Path, shards: Sequence[Shard], trusted: Mapping[str, str]
) -> dict[str, Any]:
    """Write the index of these shards; returns its entry in reference.json."""
    ids = np.concatenate([shard.tensors()["sample_id"].numpy() for shard in shards])
    place = np.empty(len(ids), dtype=np.int64)
    place[np.argsort(ids)] = np.arange(len(ids))  # of each error among the sorted ones
    arrays: Arrays = {"sample_id": np.empty_like(ids)}
    start = 0
    for shard in shards:
        tensors = {name: tensor.numpy() for name, tensor in shard.tensors().items()}
        at = place[start : start + len(tensors["sample_id"])]
        start += len(at)
        for name in ("sample_id", "error", "inputs"):
            if name not in arrays:
                arrays[name] = np.empty((len(ids), *tensors[name].shape[1:]), tensors[name].dtype)
            arrays[name][at] = tensors[name]
    whole = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return write_tensors(folder, "index", whole, trusted)


def read_index(path: Path, draws: int) -> Arrays:
    """Map an index whose checksum is right. ValueError or KeyError where it does not fit."""
    arrays, mapped = map_tensors(path)
    ids, shapes = arrays["sample_id"], {n: a.shape for n, a in arrays.items()}
    wanted = {"sample_id": (len(ids),), "error": (len(ids), draws), "inputs": (len(ids), 4)}
    if shapes != wanted or not (ids[1:] > ids[:-1]).all():
        raise ValueError(f"its arrays have shapes {shapes}")
    let_go(mapped)
    return arrays
