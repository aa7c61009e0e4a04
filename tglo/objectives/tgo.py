"""Threshold-guided optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tglo import reference
from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, statistics
from tglo.objectives.safeguard import allowed, scaled


@dataclass(frozen=True)
class TGOConstants:
    """The safeguard of TGO on groups, objective.name = tgo."""

    safeguard: float | None = None
    """Scale the negatives' gradient so that to first order their group's positives keep this share of their
    descent, in [0, 1] (sdpo's mu); needs objective.group of 2 or more. Left out: no safeguard."""

    def __post_init__(self) -> None:
        if self.safeguard is not None and not 0 <= self.safeguard <= 1:
            raise ValueError(f"objective.tgo.safeguard is {self.safeguard}; it must be in [0, 1]")


class TGO(Objective):
    """Threshold-guided optimization (arXiv 2605.04653): w softplus(-z r), w = 1 + c |s - tau| as published.

    With `safeguard` the gradient of each negative's r is scaled by a number of its group, `allowed` for

        down = sum of v (p - y) over its positives,  up = the same over its negatives,
        v = omega w sigmoid(-z r), the weight of a sample's error in the loss's gradient,

    so that to first order the positives' errors, weighted by v, do not grow.
    """

    needs_positives = needs_negatives = True
    weighs = True
    constants_type = TGOConstants
    constants: TGOConstants

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        objective = config.objective
        if objective.tgo.safeguard is not None and not objective.shared_draws:
            raise ValueError(
                f"objective.tgo.safeguard is {objective.tgo.safeguard}, but objective.group is {objective.group} "
                f"and share_draws is {str(objective.share_draws).lower()}: it compares gradients of one prompt "
                "with one draw; set objective.group to 2 or more with share_draws = true, or leave it out"
            )

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        settings = self.settings
        if self.constants.safeguard is not None:
            return self._safeguarded(batch, temperature, self.constants.safeguard)
        return batch.tgo_loss(self.beta, temperature, settings.confidence, settings.backend)

    def _safeguarded(
        self, batch: MicroBatch, temperature: float, share: float
    ) -> tuple[Tensor, TGOStats]:
        ratio, labels = self.ratio(batch, temperature), batch.labels
        r, sign, weight = self.beta * ratio.log_ratio, labels.sign, labels.weights
        if weight is None:
            weight = reference.loss_weight(
                labels.scores, labels.thresholds, self.settings.confidence
            )
        pull = batch.timestep_weight * weight * torch.sigmoid(-sign * r.detach())
        scale = _scale(batch, pull, share)
        r = scaled(r, torch.where(labels.positive, 1.0, scale))
        return mean_loss(weight * softplus(-sign * r), batch), statistics(batch, ratio, r, weight)


def _scale(batch: MicroBatch, pull: Tensor, share: float) -> Tensor:
    """Compute the scale of each row's group, (B,) float64; v is `pull`."""
    residual, positive = batch.residual(), batch.labels.positive
    down, up = (
        (residual * torch.where(side, pull, 0.0).to(residual)[:, None])
        .unflatten(0, (batch.group, -1))
        .sum(0)
        for side in (positive, ~positive)
    )
    return allowed(down, up, share).repeat(batch.group)
