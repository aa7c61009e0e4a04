"""Masked image tokens: how many a draw hides, and which (MaskGIT, arXiv 2202.04200, section 3.2).

    cosine    share = cos(pi u / 2)        linear    share = 1 - u        u uniform in (0, 1)

Both are keyed as noise is: u by the stream of timesteps, the positions by a stream of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tglo import philox
from tglo.noise.noising import Key, draw_unit

SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True)
class MaskSchedule:
    """mask_token: the id that stands for a hidden token; name: one of SCHEDULES."""

    mask_token: int
    name: str = "cosine"

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(
                f"unknown masking schedule {self.name!r}; supported are {', '.join(SCHEDULES)}"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> MaskSchedule:
        """The schedule of diffusers' AmusedScheduler, or of any with its configuration."""
        config = dict(scheduler.config)
        return cls(config["mask_token_id"], config.get("masking_schedule", "cosine"))

    def fingerprint(self) -> str:
        """A text of everything that makes this schedule."""
        return f"{self.name} {self.mask_token}"

    def to(self, device: torch.device | str) -> MaskSchedule:
        """Return the schedule itself: it holds no tensors."""
        return self

    def count(self, unit: Tensor, tokens: int) -> Tensor:
        """The number of hidden tokens at u (B,) float64: (B,) int64 from 1 to `tokens`."""
        share = torch.cos(unit * (math.pi / 2)) if self.name == "cosine" else 1 - unit
        return (share * tokens).round().long().clamp(1, tokens)

    def timestep_weight(self, index: Tensor, kind: str = "none", gamma: float = 5.0) -> Tensor:
        """omega, (B,) float64 ones. ValueError for another kind: a mask has no noise to weigh by."""
        if kind != "none":
            raise ValueError(
                f"timestep weight {kind!r} needs a signal-to-noise ratio, which masked tokens do not "
                "have; use 'none'"
            )
        return torch.ones(index.shape, dtype=torch.float64, device=index.device)


def draw_mask(key: Key, schedule: MaskSchedule, shape: tuple[int, int], strata: int = 1) -> Tensor:
    """The tokens that the key's draws hide, (B, h, w) bool, whatever the key's purpose.

    shape: (h, w). The number follows u of `noise.draw_unit`, with its strata; the positions are those
    of the smallest of h * w random words. The same on every device and in every batch.
    """
    tokens = math.prod(shape)
    count = schedule.count(draw_unit(key, strata), tokens)
    words = philox.bits(key.seed, key.sample_ids, key.draw_index, philox.MASK, tokens)
    order = words.argsort(dim=1, stable=True)
    place = torch.arange(tokens, device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    return (rank < count[:, None]).reshape(-1, *shape)
