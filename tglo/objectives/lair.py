"""Listwise advantage-weighted regression on the implicit reward."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss


@dataclass(frozen=True)
class LAIRConstants:
    """Constants of Diffusion LAIR, objective.name = lair."""

    score_temperature: float = 1.0
    """Temperature of the softmax over a group's scores, in the unit of data.score_scale: small ones follow
    the best sample alone."""
    penalty: float = 0.1
    """Weight of the quadratic penalty (lambda): r goes to advantage / lambda."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"objective.lair.{field.name} is {value}; it must be above 0")


class LAIR(Objective):
    """Diffusion LAIR (Wang, Han, Ermon and Yue, arXiv 2605.26491) on groups of G samples of one prompt:

        -A r + (lambda / 2) r^2,   A = softmax(s / temperature) - 1 / G over the group

    a square around r = A / lambda, its optimum. From the paper's abstract: advantages that are centred in
    the group, regression on the implicit reward with a quadratic penalty, and the bounded optimum. Our
    choices, which the abstract leaves open: the softmax's constants, the factor 1 / 2 (only the meaning of
    lambda depends on it), the mean over samples, the shared draws and all defaults. At
    the defaults r spans 10 in a group, as qrpo's log-ratio does at its default.

    In the statistics a sample is positive where A > 0, and weighs |A|.
    """

    default_group = 4
    least_group = 2
    saturates = False
    constants_type = LAIRConstants
    constants: LAIRConstants

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        r, advantage = self.beta * ratio.log_ratio, self.advantage(batch)
        loss = -advantage * r + self.constants.penalty / 2 * r.square()
        stats = TGOStats(
            r.detach(),
            ratio.policy_error,
            ratio.reference_error,
            advantage > 0,
            advantage.abs(),
        )
        return mean_loss(loss, batch), stats

    def advantage(self, batch: MicroBatch) -> Tensor:
        """Compute A, (B,) float64; its sum over each group is 0."""
        scores = batch.labels.scores.view(batch.group, -1)
        unit = self.settings.score_scale * self.constants.score_temperature
        return (torch.softmax(scores / unit, 0) - 1 / batch.group).flatten()
