"""Threshold-guided optimization."""

from __future__ import annotations

from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch


class TGO(Objective):
    """Threshold-guided optimization (arXiv 2605.04653): w softplus(-z r), w = 1 + c |s - tau| as published."""

    needs_positives = needs_negatives = True
    weighs = True

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        settings = self.settings
        return batch.tgo_loss(self.beta, temperature, settings.confidence, settings.backend)
