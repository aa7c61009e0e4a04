"""The errors of the reference policy on disk: one float64 for each draw of each sample.

    fingerprint.json            all that the errors depend on; written first
    errors-00000.safetensors    sample_id (n,) int64 and error (n, K) float64 of shard_size samples
    errors-00000.json           the shard's record
    reference.json              written last: the errors are complete when it is there

The shard of a sample, and the draws that share a batch, follow from the samples alone: any number of
processes, killed and started again, make the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tglo.cache.index import lookup
from tglo.cache.latents import LatentCache
from tglo.cache.shards import (
    Job,
    Made,
    ShardReport,
    check_file,
    check_fingerprint,
    entries,
    make_shards,
    read_last,
)
from tglo.data.errors import CacheError
from tglo.files import write_json

FORMAT = "tglo.reference"
VERSION = 1
LAST = "reference.json"

ErrorsOf = Callable[[list[int], Tensor], Tensor]
"""(sample ids of one bucket, their draw indices (B,) int64) -> mean square errors (B,) float64."""


@dataclass(frozen=True)
class ReferenceReport(ShardReport):
    """The outcome of a call of `build_reference_errors`."""

    samples: int
    draws: int

    def __str__(self) -> str:
        return self.text(f"{self.draws} draws of {self.samples} samples")


class ReferenceErrors:
    """The complete errors of a folder, in memory (8 bytes a draw).

    fingerprint: all that they depend on, by field; draws: the number of draws of a sample. Raises
    CacheError naming the file that is missing, cut or changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        content = read_last(self.path / LAST, FORMAT, VERSION)
        self.fingerprint: dict[str, str] = content["fingerprint"]
        self.draws = int(content["draws"])
        ids, errors = [], []
        for entry in content["shards"]:
            check_file(self.path, entry, checksum=True, command="tglo cache --reference")
            shard = load_file(self.path / entry["file"])
            ids.append(shard["sample_id"])
            errors.append(shard["error"])
        known = torch.cat(ids)
        order = known.argsort()
        self._ids: NDArray[np.int64] = known[order].numpy()
        self._errors = torch.cat(errors)[order]

    def __len__(self) -> int:
        return len(self._ids)

    def check(self, fingerprint: Mapping[str, str]) -> None:
        """Raise CacheError naming every given field that differs, with both values."""
        check_fingerprint(self.path, self.fingerprint, fingerprint)

    def of(self, sample_ids: Sequence[int] | NDArray[np.int64], draw_index: int) -> Tensor:
        """Return the errors of one draw in [0, draws), (B,) float64; CacheError for an unknown sample."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        place, here = lookup(self._ids, ids)
        absent = ids[~here]
        if absent.size:
            raise CacheError(
                f"{absent.size} samples have no error in {self.path} (ids {absent[:10].tolist()}): "
                "run `tglo cache --reference` on the cache that is trained on"
            )
        return self._errors[torch.from_numpy(place), draw_index]


def build_reference_errors(
    cache: LatentCache,
    out_dir: str | os.PathLike[str],
    errors_of: ErrorsOf,
    fingerprint: Mapping[str, str],
    *,
    draws: int,
    batch_size: int = 8,
    shard_size: int = 512,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> ReferenceReport:
    """Compute the reference's errors for draws 0 to `draws` - 1 of every sample in a cache.

    fingerprint: all that errors_of depends on.
    batch_size: draws in one call of errors_of; the last bits of the errors may depend on it.
    rank, world_size: this process's share, see `make_shards`; the last to finish completes the folder.

    Finished shards are kept. Raises CacheError when out_dir holds something else or was made with
    another fingerprint (naming the fields), and when an error is NaN or inf (naming the sample);
    ValueError for settings out of range.
    """
    for name, value in (("draws", draws), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder = Path(out_dir)

    def make(ids: Sequence[int]) -> Made:
        return _shard(ids, draws, batch_size, errors_of), {}

    jobs = {"errors": Job(_shards(cache, shard_size), make)}
    bar = {"desc": "reference", "unit": "sample", "disable": not progress or rank != 0}
    report, records = make_shards(
        folder, LAST, fingerprint, jobs, rank=rank, world_size=world_size, bar=bar
    )
    if report.complete:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": dict(fingerprint),
            "draws": draws,
            "shards": entries(records["errors"]),
        }
        write_json(folder / LAST, content)
    return ReferenceReport(**vars(report), samples=len(cache), draws=draws)


def _shards(cache: LatentCache, size: int) -> list[list[int]]:
    """Return the sample ids of each shard; a shard has one bucket."""
    ids = cache.sample_ids()
    by_bucket: dict[Any, list[int]] = {}
    for sample_id, bucket in zip(ids.tolist(), cache.buckets(ids), strict=True):
        by_bucket.setdefault(bucket, []).append(sample_id)
    return [
        by_bucket[bucket][start : start + size]
        for bucket in sorted(by_bucket)
        for start in range(0, len(by_bucket[bucket]), size)
    ]


def _shard(
    ids: Sequence[int], draws: int, batch_size: int, errors_of: ErrorsOf
) -> dict[str, Tensor]:
    sample_id = torch.tensor(ids, dtype=torch.int64)
    rows = sample_id.repeat_interleave(draws)  # all draws of a sample lie next to each other
    draw_index = torch.arange(draws).repeat(len(ids))
    parts = [
        errors_of(rows[start : start + batch_size].tolist(), draw_index[start : start + batch_size])
        for start in range(0, len(rows), batch_size)
    ]
    error = torch.cat([part.to("cpu", torch.float64) for part in parts])
    bad = ~error.isfinite()
    if bad.any():
        raise CacheError(
            f"the reference's error is not finite for samples {rows[bad][:10].tolist()}, draws "
            f"{draw_index[bad][:10].tolist()}: look at these samples, or use --precision fp32 or bf16"
        )
    return {"sample_id": sample_id, "error": error.reshape(len(ids), draws)}
