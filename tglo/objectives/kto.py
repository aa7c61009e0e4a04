"""Diffusion-KTO."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, statistics


@dataclass(frozen=True)
class KTOConstants:
    """Weights of Diffusion-KTO, objective.name = kto."""

    positive_weight: float = 1.0
    """Weight of samples at or above the threshold (lambda_D)."""
    negative_weight: float = 1.0
    """Weight of the others (lambda_U)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not weight >= 0:
                raise ValueError(f"objective.kto.{field.name} is {weight}; it must be at least 0")


class KTO(Objective):
    """Diffusion-KTO (arXiv 2404.04465): w_y (1 - sigmoid(z (r - z0))).

    z0 is the mean of r over the micro batch of all processes, at least 0 and without a gradient, as
    in the released code, whose beta of 1000 on -(e_theta - e_ref) is 1 / T.
    """

    needs_positives = needs_negatives = True
    constants_type = KTOConstants
    constants: KTOConstants

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        r, sign = self.beta * ratio.log_ratio, batch.labels.sign
        baseline = self.average(r.detach().mean()).clamp(min=0)
        weights = self.constants.positive_weight, self.constants.negative_weight
        weight = torch.where(sign > 0, *weights).double()
        loss = weight * torch.sigmoid(-sign * (r - baseline))
        return mean_loss(loss, batch), statistics(batch, ratio, r, weight)
