"""Computes the errors of the reference policy, and after changes in the latents those that changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from tglo.cache.latents import LatentCache
from tglo.cache.own_noise import OwnNoise
from tglo.cache.parts import Job, Made
from tglo.cache.reference import FORMAT, LAST, VERSIONS, ReferenceErrors
from tglo.cache.reference_index import MANY, write_index
from tglo.cache.shards import Shard, entry
from tglo.cache.work import Finished, ShardReport, make_shards
from tglo.console.verbosity import bar_hidden
from tglo.data.errors import CacheError
from tglo.files import DamagedFile, write_sealed

ErrorsOf = Callable[[list[int], Tensor], Tensor]
"""(sample ids of one bucket, their draw indices (B,) int64) -> mean square errors (B,) float64."""


@dataclass(frozen=True)
class ReferenceReport(ShardReport):
    """The outcome of a call of `build_reference_errors`."""

    samples: int
    draws: int

    def __str__(self) -> str:
        return self.text(f"{self.draws} draws of {self.samples} samples")


def input_fingerprint(cache: LatentCache) -> dict[str, str]:
    """Return what the fingerprint of errors says of their inputs: each error's own are stored beside it,
    but a cache of format 1 has only one digest of all.
    """
    return {"reference_format": "2"} if cache.has_digests else cache.content()


def build_reference_errors(
    cache: LatentCache,
    out_dir: str | os.PathLike[str],
    errors_of: ErrorsOf,
    fingerprint: Mapping[str, str],
    *,
    draws: int,
    own_noise: OwnNoise | None = None,
    batch_size: int = 8,
    shard_size: int = 512,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> ReferenceReport:
    """Compute the reference's errors for draws 0 to `draws` - 1 of every sample in a cache.

    fingerprint: all that errors_of depends on. own_noise: of all samples, where the draws take it.
    batch_size: draws in one call of errors_of; the last bits of the errors may depend on it.
    rank, world_size: where this process begins, see `make_shards`: all share the work, until the folder is complete.

    Errors of the same latents and embeddings are kept. Raises CacheError when out_dir holds something
    else or was made with another fingerprint (naming the fields), when another command computes the
    errors of other samples there at the same time, and when an error is NaN or inf (naming the sample);
    ValueError for settings out of range.
    """
    for name, value in (("draws", draws), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder = Path(out_dir)
    if not cache.has_digests and _is_complete(folder, cache, fingerprint):
        return ReferenceReport(0, 0, 0, True, 0.0, len(cache), draws)
    errors = _ErrorShards(cache, draws, batch_size, errors_of, own_noise)

    def finish(finished: Finished, trusted: Mapping[str, str]) -> None:
        shards = [shard for _, shard in finished["errors"]]
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSIONS[-1],
            "fingerprint": dict(fingerprint),
            "draws": draws,
            "shards": [entry(shard.record) for shard in shards],
        }
        if sum(len(shard.record["keys"]) for shard in shards) >= MANY and cache.has_digests:
            content["index"] = entry(write_index(folder, shards, trusted))
        write_sealed(folder / LAST, content)

    def split(ids: list[int]) -> list[list[int]]:
        """A new shard has one bucket."""
        return [
            part[start : start + shard_size]
            for part in errors.by_bucket(ids)
            for start in range(0, len(part), shard_size)
        ]

    ids = cache.sample_ids().tolist()
    bar = {"desc": "reference", "unit": "sample", "disable": bar_hidden(progress and rank == 0)}
    report = make_shards(
        folder,
        (LAST, FORMAT, VERSIONS),
        fingerprint,
        {"errors": Job(ids, split, errors.make, errors.is_current)},
        finish,
        rank=rank,
        world_size=world_size,
        bar=bar,
    )
    return ReferenceReport(**vars(report), samples=len(cache), draws=draws)


def _is_complete(folder: Path, cache: LatentCache, fingerprint: Mapping[str, str]) -> bool:
    """Say whether the folder has all errors in format 1, whose shards cannot be looked at one by one."""
    try:
        found = ReferenceErrors(folder)
        found.check(fingerprint)
        found.of(cache.sample_ids(), 0)
    except (CacheError, DamagedFile):
        return False
    return found.version == 1


@dataclass(frozen=True)
class _ErrorShards:
    """Makes the shards of a latent cache's errors."""

    cache: LatentCache
    draws: int
    batch_size: int
    errors_of: ErrorsOf
    own_noise: OwnNoise | None

    def by_bucket(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the ids of each bucket."""
        parts: dict[Any, list[int]] = {}
        if ids:
            for sample_id, bucket in zip(ids, self.cache.buckets(ids), strict=True):
                parts.setdefault(bucket, []).append(sample_id)
        return [parts[bucket] for bucket in sorted(parts)]

    def is_current(self, ids: Sequence[int], shard: Shard) -> bool:
        """See `tglo.cache.work.Job`."""
        try:
            return len(self._kept(ids, shard)) == len(ids)
        except (SafetensorError, KeyError):  # torn
            return False

    def make(self, ids: Sequence[int], shard: Shard | None) -> Made:
        """Compute the errors of samples that are new, or have other latents or embeddings."""
        kept = {} if shard is None else self._kept(ids, shard)
        if shard is not None and len(kept) == len(ids):
            return Made()
        made = dict(kept)
        for part in self.by_bucket([sample_id for sample_id in ids if sample_id not in kept]):
            made.update(zip(part, self._errors(part), strict=True))
        tensors = {
            "sample_id": torch.tensor(ids, dtype=torch.int64),
            "error": torch.stack([made[sample_id] for sample_id in ids]),
            "inputs": torch.from_numpy(self._inputs(ids)),
        }
        return Made(tensors)

    def _inputs(self, ids: Sequence[int]) -> NDArray[np.int64]:
        if self.cache.has_digests:
            inputs = self.cache.inputs(ids)
            return inputs if self.own_noise is None else self.own_noise.mixed(inputs, ids)
        return np.zeros((len(ids), 4), dtype=np.int64)

    def _kept(self, ids: Sequence[int], shard: Shard) -> dict[int, Tensor]:
        """Return the errors that the shard has of these samples as they are, by id."""
        tensors = shard.tensors()
        place = {sample_id: row for row, sample_id in enumerate(tensors["sample_id"].tolist())}
        rows = [place[sample_id] for sample_id in ids]
        same = (tensors["inputs"][rows].numpy() == self._inputs(ids)).all(1)
        return {
            i: tensors["error"][row] for i, row, fine in zip(ids, rows, same, strict=True) if fine
        }

    def _errors(self, ids: Sequence[int]) -> Tensor:
        """Compute the errors of samples of one bucket, (n, draws) float64."""
        size = self.batch_size
        rows = torch.tensor(ids, dtype=torch.int64).repeat_interleave(self.draws)
        draw_index = torch.arange(self.draws).repeat(len(ids))  # a sample's draws are neighbours
        parts = [
            self.errors_of(rows[start : start + size].tolist(), draw_index[start : start + size])
            for start in range(0, len(rows), size)
        ]
        error = torch.cat([part.to("cpu", torch.float64) for part in parts])
        bad = ~error.isfinite()
        if bad.any():
            raise CacheError(
                f"the reference's error is not finite for samples {rows[bad][:10].tolist()}, draws "
                f"{draw_index[bad][:10].tolist()}: look at these samples, or use --precision fp32 or bf16"
            )
        return error.reshape(len(ids), self.draws)
