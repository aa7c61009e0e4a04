"""The errors of the reference policy on disk: one float64 for each draw of each sample.

    fingerprint.json            all that the errors depend on; written first
    errors-00000.safetensors    of shard_size samples: sample_id (n,) int64, error (n, K) float64, and
                                inputs (n, 4) int64, which tell the latents and embeddings they are of
    errors-00000.json           the shard's record
    index.safetensors           from 65,536 samples on: the same of all of them, sorted, mapped when it is opened
    reference.json              written last: names all files that belong together

In a new folder the shard of a sample, and the draws that share a batch, follow from the samples alone:
any number of processes, killed and started again, make the same bytes. When the latent cache has been
extended, the errors of samples with other latents or embeddings are computed again, and no others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tglo.cache.index import lookup
from tglo.cache.latents import LatentCache
from tglo.cache.own_noise import OwnNoise
from tglo.cache.reference_index import Arrays, read_index
from tglo.cache.shards import (
    COMMANDS,
    KINDS,
    check_file,
    check_fingerprint,
    checked_entries,
    read_last,
)
from tglo.data.errors import CacheError
from tglo.files import reading

FORMAT = "tglo.reference"
VERSIONS = (1, 2)
LAST = "reference.json"


class ReferenceErrors:
    """The complete errors of a folder: mapped if there is an index, else in memory (8 bytes a draw).

    fingerprint: all that they depend on, by field; draws: the number of draws of a sample. Raises
    CacheError naming the file that is missing, cut or changed; of shards that an index stands for the size alone is
    looked at.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        path, command = self.path / LAST, COMMANDS[FORMAT]
        content = read_last(path, FORMAT, VERSIONS)
        self.version: int = content["version"]
        with reading(path, KINDS[FORMAT], f"run `{command}` again"):
            found = content["fingerprint"].items()
            self.fingerprint: dict[str, str] = {str(name): str(text) for name, text in found}
            self.draws = int(content["draws"])
            shards = checked_entries(content["shards"])
            index = checked_entries([content["index"]])[0] if "index" in content else None
        if index is None:
            arrays = self._read(shards)
        else:
            for file in (index, *shards):
                check_file(self.path, file, checksum=file is index, command=command)
            with reading(self.path / index["file"], "index of errors", f"run `{command}` again"):
                arrays = read_index(self.path / index["file"], self.draws)
        self._ids: NDArray[np.int64] = arrays["sample_id"]
        self._errors: NDArray[np.float64] = arrays["error"]
        self._inputs: NDArray[np.int64] = arrays["inputs"]

    def _read(self, shards: Sequence[Mapping[str, Any]]) -> Arrays:
        path, command, parts = self.path / LAST, COMMANDS[FORMAT], []
        for shard in shards:
            check_file(self.path, shard, checksum=True, command=command)
            with reading(self.path / shard["file"], "shard of errors", f"run `{command}` again"):
                tensors = load_file(self.path / shard["file"])
                known, error = tensors["sample_id"], tensors["error"]
                inputs = tensors.get("inputs", torch.zeros(len(known), 4, dtype=torch.int64))
                if error.shape != (len(known), self.draws) or inputs.shape != (len(known), 4):
                    raise ValueError(f"its errors have shape {tuple(error.shape)}")
                parts.append((known, error, inputs))
        with reading(path, KINDS[FORMAT], f"run `{command}` again"):
            ids, errors, inputs = (torch.cat(column) for column in zip(*parts, strict=True))
        order = ids.argsort()
        tensors = {"sample_id": ids, "error": errors, "inputs": inputs}
        return {name: tensor[order].numpy() for name, tensor in tensors.items()}

    def __len__(self) -> int:
        return len(self._ids)

    def check(self, fingerprint: Mapping[str, str]) -> None:
        """Raise CacheError naming every given field that differs, with both values."""
        check_fingerprint(self.path, self.fingerprint, fingerprint)

    def check_inputs(
        self,
        cache: LatentCache,
        sample_ids: Sequence[int] | NDArray[np.int64],
        own_noise: OwnNoise | None = None,
    ) -> None:
        """Raise CacheError unless the errors of these samples are of the cache's latents and embeddings, and
        of their own noise.
        """
        places = self._find(sample_ids)
        if not cache.has_digests or "latents" in self.fingerprint:  # format 1
            self.check(cache.content())
            return
        inputs = cache.inputs(sample_ids)
        if own_noise is not None:
            inputs = own_noise.mixed(inputs, sample_ids)
        same = (self._inputs[places] == inputs).all(1)
        if not same.all():
            other = np.asarray(sample_ids)[~same]
            of = "latents or embeddings" if own_noise is None else "latents, embeddings or seeds"
            raise CacheError(
                f"{self.path} was made of other {of} for {len(other)} of {len(same)} "
                f"samples (ids {other[:10].tolist()}): run `{COMMANDS[FORMAT]}` again, it computes only "
                "theirs"
            )

    def of(self, sample_ids: Sequence[int] | NDArray[np.int64], draw_index: int | Tensor) -> Tensor:
        """Return the errors of a draw in [0, draws), one for all or (B,) int64: (B,) float64. CacheError
        for an unknown sample.
        """
        draws = draw_index.numpy() if isinstance(draw_index, Tensor) else draw_index
        return torch.from_numpy(self._errors[self._find(sample_ids), draws])

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
