"""Supervised fine-tuning on the positives."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective, statistics_of_error
from tglo.objectives.micro_batch import MicroBatch


class SFT(Objective):
    """Supervised fine-tuning on the samples at or above the threshold: omega e_theta."""

    needs_reference = False
    positives_only = True
    needs_positives = True
    saturates = False

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        error, positive = self.error(batch), batch.labels.positive
        loss = (batch.timestep_weight * error * positive).sum() / positive.sum().clamp(min=1)
        dtype = torch.promote_types(batch.policy_pred.dtype, torch.float32)
        return loss.to(dtype), statistics_of_error(batch, error, positive.double())
