"""The samples of a step, and their random draws by the same keys as in tglo's own batches.

So the contenders that do not use tglo can be given its timesteps and noise, and all must then agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.step.workplace import SEED, Workplace
from tglo import noise, philox
from tglo.cache.latents import LatentCache
from tglo.data.manifest import read_manifest
from tglo.data.sampler import BatchSampler
from tglo.noise.schedule import Schedule

PERCENTILE, CONFIDENCE = 50.0, 5.0


@dataclass(frozen=True, eq=False)
class NoiseDraw:
    """The draws of the B samples of a step, on the device."""

    index: Tensor
    """(B,) int64 timesteps."""
    noise: Tensor
    """(B, C, h, w) float32 standard normal."""
    posterior: Tensor
    """(B, C, h, w) float32 standard normal: the sample of the VAE's posterior."""


class ScoredSamples:
    """The scored samples of a workplace."""

    def __init__(self, workplace: Workplace) -> None:
        manifest = read_manifest(workplace.manifest)
        self.device = workplace.device
        self.cache = LatentCache(workplace.cache)
        self.ids: list[int] = manifest.sample_ids().tolist()
        self.prompts = manifest.prompts()
        self.images = [workplace.folder / row.image for row in manifest.rows]
        self.scores = torch.from_numpy(manifest.scores())
        self.threshold = float(self.scores.quantile(PERCENTILE / 100))
        self._shape = workplace.size.latent_shape
        self._buckets = self.cache.buckets(self.ids)

    def sampler(self, batch: int) -> BatchSampler:
        """Return tglo's order of the samples for that batch."""
        return BatchSampler(
            self._buckets, micro_batch=batch, accumulation=1, world_size=1, seed=SEED
        )

    def draw(self, rows: list[int], draw: int, schedule: Schedule) -> NoiseDraw:
        ids = torch.tensor([self.ids[row] for row in rows], device=self.device)
        key = noise.Key(SEED, ids, draw)
        posterior = replace(key, purpose=philox.POSTERIOR)
        return NoiseDraw(
            index=noise.draw_index(key, schedule),
            noise=noise.normal(key, self._shape, device=self.device),
            posterior=noise.normal(posterior, self._shape, device=self.device),
        )

    def first_loss(self, rows: list[int]) -> float:
        """Return the loss of a policy that equals its reference: log 2 times the mean weight."""
        distance = (self.scores[rows] - self.threshold).abs()
        return math.log(2) * (1 + CONFIDENCE * float(distance.mean()))
