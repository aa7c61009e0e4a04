"""Direct score preference optimization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo.losses.log_ratio import policy_error
from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, pair_statistics


class DSPO(Objective):
    """Direct score preference optimization (Zhu, Xiao and Honavar, ICLR 2025), on the winner's row:

        omega mean((p - y - g (p - q))^2),  g = 2 beta / T * (1 - sigmoid(r_winner - r_loser))

    This is the score-matching loss as in the released code for SD1.5, where beta_dspo = 2 beta / T, 0.001
    in its launcher, and the gradient also goes through g. The released branch for SDXL, which drops
    p - y and changes its form at a threshold, is not offered. With d = mean((p - q)^2) the square is

        e_theta - g (e_theta - e_ref) + g (g - 1) d

    which takes three numbers per row and no new kernel.
    """

    takes_pairs = True
    default_temperature = 2 / 0.001

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if config.objective.reference == "cached":
            raise ValueError(
                "objective.reference is cached, but objective dspo needs the reference's prediction, and the "
                "cache holds its error; use copy, or adapter-off with a LoRA"
            )
        if config.objective.temperature == "auto":
            raise ValueError(
                "objective.temperature is auto, which only raises T from its default, and dspo's "
                f"{cls.default_temperature:g} is far above what auto aims at; leave it at default or "
                "give a number"
            )

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        assert batch.reference_pred is not None
        ratio = self.ratio(batch, temperature)
        winner, loser = (self.beta * ratio.log_ratio).chunk(2)
        margin = winner - loser
        pairs = len(margin)
        error = self.error(batch)[:pairs]
        distance = policy_error(
            batch.policy_pred, batch.reference_pred, backend=self.settings.backend
        )[:pairs]
        g = 2 * self.beta / temperature * torch.sigmoid(-margin)
        square = error - g * (error - ratio.reference_error[:pairs]) + g * (g - 1) * distance
        omega = batch.timestep_weight
        if isinstance(omega, Tensor):
            omega = omega[:pairs]
        return mean_loss(omega * square, batch), pair_statistics(ratio, margin)
