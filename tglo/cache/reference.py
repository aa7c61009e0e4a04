"""The errors of the reference policy on disk: one float64 for each draw of each sample.

    fingerprint.json            all that the errors depend on; written first
    errors-00000.safetensors    of shard_size samples: sample_id (n,) int64, error (n, K) float64, and
                                inputs (n, 4) int64, which tell the latents and embeddings they are of
    errors-00000.json           the shard's record
    reference.json              written last: names all files that belong together

In a new folder the shard of a sample, and the draws that share a batch, follow from the samples alone:
any number of processes, killed and started again, make the same bytes. When the latent cache has been
extended, the errors of samples with other latents or embeddings are computed again, and no others.
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tglo.cache.index import lookup
from tglo.cache.latents import LatentCache
from tglo.cache.shards import (
    COMMANDS,
    Shard,
    check_file,
    check_fingerprint,
    checked_entries,
    entry,
    read_last,
    write_sealed,
)
from tglo.cache.work import Finished, Job, Made, ShardReport, make_shards
from tglo.damaged import reading
from tglo.data.errors import CacheError

FORMAT = "tglo.reference"
VERSIONS = (1, 2)
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
        path, command = self.path / LAST, COMMANDS[FORMAT]
        content = read_last(path, FORMAT, VERSIONS)
        with reading(path, "cache of reference errors", f"run `{command}` again"):
            found = content["fingerprint"].items()
            self.fingerprint: dict[str, str] = {str(name): str(text) for name, text in found}
            self.draws = int(content["draws"])
            shards = checked_entries(content["shards"])
        parts = []
        for shard in shards:
            check_file(self.path, shard, checksum=True, command=command)
            with reading(self.path / shard["file"], "shard of errors", f"run `{command}` again"):
                tensors = load_file(self.path / shard["file"])
                known, error = tensors["sample_id"], tensors["error"]
                inputs = tensors.get("inputs", torch.zeros(len(known), 4, dtype=torch.int64))
                if error.shape != (len(known), self.draws) or inputs.shape != (len(known), 4):
                    raise ValueError(f"its errors have shape {tuple(error.shape)}")
                parts.append((known, error, inputs))
        with reading(path, "cache of reference errors", f"run `{command}` again"):
            ids, errors, inputs = (torch.cat(column) for column in zip(*parts, strict=True))
        order = ids.argsort()
        self._ids: NDArray[np.int64] = ids[order].numpy()
        self._errors, self._inputs = errors[order], inputs[order].numpy()

    def __len__(self) -> int:
        return len(self._ids)

    def check(self, fingerprint: Mapping[str, str]) -> None:
        """Raise CacheError naming every given field that differs, with both values."""
        check_fingerprint(self.path, self.fingerprint, fingerprint)

    def check_inputs(self, cache: LatentCache, sample_ids: Sequence[int]) -> None:
        """Raise CacheError unless the errors of these samples are of the cache's latents and embeddings."""
        places = self._find(sample_ids)
        if not cache.has_digests or "latents" in self.fingerprint:  # format 1
            self.check(cache.content())
            return
        same = (self._inputs[places] == cache.inputs(sample_ids)).all(1)
        if not same.all():
            other = np.asarray(sample_ids)[~same]
            raise CacheError(
                f"{self.path} was made of other latents or embeddings for {len(other)} of {len(same)} "
                f"samples (ids {other[:10].tolist()}): run `{COMMANDS[FORMAT]}` again, it computes only "
                "theirs"
            )

    def of(self, sample_ids: Sequence[int] | NDArray[np.int64], draw_index: int) -> Tensor:
        """Return the errors of one draw in [0, draws), (B,) float64; CacheError for an unknown sample."""
        return self._errors[torch.from_numpy(self._find(sample_ids)), draw_index]

    def _find(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        ids = np.asarray(sample_ids, dtype=np.int64)
        place, here = lookup(self._ids, ids)
        absent = ids[~here]
        if absent.size:
            raise CacheError(
                f"{absent.size} samples have no error in {self.path} (ids {absent[:10].tolist()}): "
                "run `tglo cache --reference` on the cache that is trained on"
            )
        return place


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

    Errors of the same latents and embeddings are kept. Raises CacheError when out_dir holds something
    else or was made with another fingerprint (naming the fields), when another command computes the
    errors of other samples there at the same time, and when an error is NaN or inf (naming the sample);
    ValueError for settings out of range.
    """
    for name, value in (("draws", draws), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder = Path(out_dir)
    errors = _ErrorShards(cache, draws, batch_size, errors_of)

    def finish(finished: Finished, _: Mapping[str, str]) -> None:
        content = {
            "format": FORMAT,
            "version": VERSIONS[-1],
            "fingerprint": dict(fingerprint),
            "draws": draws,
            "shards": [entry(shard.record) for _, shard in finished["errors"]],
        }
        write_sealed(folder / LAST, content)

    def split(ids: list[int]) -> list[list[int]]:
        """A new shard has one bucket."""
        return [
            part[start : start + shard_size]
            for part in errors.by_bucket(ids)
            for start in range(0, len(part), shard_size)
        ]

    ids = cache.sample_ids().tolist()
    bar = {"desc": "reference", "unit": "sample", "disable": not progress or rank != 0}
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


@dataclass(frozen=True)
class _ErrorShards:
    """Makes the shards of a latent cache's errors."""

    cache: LatentCache
    draws: int
    batch_size: int
    errors_of: ErrorsOf

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
            return self.cache.inputs(ids)
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
