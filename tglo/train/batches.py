"""From a position in the run to a batch on the device: what is read, and what is drawn.

Everything is a pure function of (seed, sample, draw), where the draw is the epoch: a resumed run,
or one on another number of processes, sees the same timesteps, noise, latents and dropped captions.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tglo import noise, philox
from tglo.data.cache import LatentCache
from tglo.data.sampler import BatchSampler
from tglo.models.base import Family
from tglo.train.config import TrainConfig


@dataclass(frozen=True, eq=False)
class Samples:
    """The rows that are trained on: sample ids, lines of the manifest, scores, thresholds."""

    ids: list[int]
    lines: list[int]
    scores: Tensor
    """(rows,) float64."""
    thresholds: Tensor
    """(rows,) float64."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro batch of B samples with one draw each, on the training device."""

    ids: list[int]
    lines: list[int]
    """Lines of the manifest, for messages."""
    scores: Tensor
    """(B,) float64."""
    threshold: Tensor
    """(B,) float64."""
    index: Tensor
    """(B,) int64, timesteps as indices into the schedule."""
    noisy: Tensor
    """(B, C, h, w) latents at that timestep, in the engine's dtype."""
    target: Tensor
    """(B, C, h, w) what the denoiser is trained to predict."""
    timestep_weight: Tensor
    """(B,) float64, omega_t."""
    conditions: dict[str, Any]


class Batches:
    """Reads, a batch ahead, and draws. ``get`` must be called in the run's order to be quick."""

    def __init__(
        self,
        config: TrainConfig,
        samples: Samples,
        cache: LatentCache,
        unconditional: dict[str, Tensor],
        sampler: BatchSampler,
        family: Family,
        rank: int,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.samples = samples
        self.cache = cache
        self.sampler = sampler
        self.family = family
        self.rank = rank
        self.device = family.device
        self.dtype = dtype
        self.schedule = family.schedule
        self.unconditional = {name: value.cpu() for name, value in unconditional.items()}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tglo-read")
        self._ahead: tuple[tuple[int, int], Future[_Read]] | None = None

    def get(self, step: int, micro: int) -> Batch:
        """The micro batch ``micro`` of step ``step`` for this rank."""
        read = self._read_ahead(step, micro)
        ids = torch.tensor(read.ids, dtype=torch.int64).to(self.device, non_blocking=True)
        # The latents are one sample of the VAE's posterior, drawn once per draw like the noise.
        key = noise.Key(self.config.seed, ids, read.draw)
        epsilon = noise.normal(
            replace(key, purpose=philox.POSTERIOR), read.mean.shape[1:], device=self.device
        )
        mean, std = (x.to(self.device, non_blocking=True).float() for x in (read.mean, read.std))
        latents = (mean + std * epsilon).to(self.dtype)
        index = noise.draw_index(key, self.schedule)
        objective = self.config.objective
        text = {
            name: self._cast(value.to(self.device, non_blocking=True))
            for name, value in read.text.items()
        }
        sizes = {
            name: value.to(self.device, non_blocking=True) for name, value in read.sizes.items()
        }
        return Batch(
            ids=read.ids,
            lines=read.lines,
            scores=self.samples.scores[read.rows].to(self.device, non_blocking=True),
            threshold=self.samples.thresholds[read.rows].to(self.device, non_blocking=True),
            index=index,
            noisy=noise.diffuse(latents, index, key, self.schedule),
            target=noise.target(latents, index, key, self.schedule),
            timestep_weight=self.schedule.timestep_weight(
                index, objective.timestep_weight, objective.min_snr_gamma
            ),
            conditions=self.family.conditions(text, sizes),
        )

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value

    def _read_ahead(self, step: int, micro: int) -> _Read:
        here = (step, micro)
        if self._ahead is not None and self._ahead[0] == here:
            read = self._ahead[1].result()
        else:
            read = self._read(*here)
        last = micro + 1 == self.config.optimizer.accumulation
        then = (step + 1, 0) if last else (step, micro + 1)
        self._ahead = (then, self._reader.submit(self._read, *then))
        return read

    def _read(self, step: int, micro: int) -> _Read:
        rows, draw = self.sampler.batch(step, micro, self.rank)
        ids = [self.samples.ids[row] for row in rows]
        stored = self.cache.batch(ids)
        text = dict(self.cache.text(ids))
        dropped = philox.uniform(self.config.seed, torch.tensor(ids), draw, philox.DROPOUT, 1)[
            :, 0
        ].lt(self.config.data.caption_dropout)
        if bool(dropped.any()):
            for name, value in text.items():
                empty = self.unconditional[name].to(value.dtype).expand_as(value)
                mask = dropped.reshape(-1, *[1] * (value.dim() - 1))
                text[name] = torch.where(mask, empty, value)
        pin = self.device.type == "cuda"
        return _Read(
            rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
            ids=ids,
            lines=[self.samples.lines[row] for row in rows],
            draw=int(draw),
            mean=_pinned(stored["mean"], pin),
            std=_pinned(stored["std"], pin),
            text={name: _pinned(value, pin) for name, value in text.items()},
            sizes={n: stored[n] for n in ("original_size", "crop", "target_size")},
        )


@dataclass(frozen=True, eq=False)
class _Read:
    rows: Tensor
    ids: list[int]
    lines: list[int]
    draw: int
    mean: Tensor
    std: Tensor
    text: dict[str, Tensor]
    sizes: dict[str, Tensor]


def _pinned(tensor: Tensor, pin: bool) -> Tensor:
    return tensor.pin_memory() if pin else tensor
