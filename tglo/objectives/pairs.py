"""Objectives over pairs, a winner and a loser of one prompt: Diffusion-DPO and DSPO.

Rows are the winners, then the losers; both of a pair have one timestep and noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tglo.losses.log_ratio import LogRatio, policy_error
from tglo.losses.results import TGOStats
from tglo.objectives.base import Given, Objective, mean_loss


class DPO(Objective):
    """Diffusion-DPO (arXiv 2311.12908): -log sigmoid(r_winner - r_loser).

    The released code has beta_dpo / 2 where beta / T is here, and beta_dpo = 5000 for SD1.5 and SDXL.
    """

    takes_pairs = True
    default_temperature = 2 / 5000

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(given, temperature)
        winner, loser = (self.beta * ratio.log_ratio).chunk(2)
        margin = winner - loser
        return mean_loss(-logsigmoid(margin), given), pair_statistics(ratio, margin)


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

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        p, q, y = given.policy_pred, given.reference_pred, given.target
        assert q is not None and y is not None
        ratio = self.ratio(given, temperature)
        winner, loser = (self.beta * ratio.log_ratio).chunk(2)
        margin = winner - loser
        backend, pairs = self.settings.backend, len(margin)
        error = policy_error(p, y, backend=backend)[:pairs]
        distance = policy_error(p, q, backend=backend)[:pairs]
        g = 2 * self.beta / temperature * torch.sigmoid(-margin)
        square = error - g * (error - ratio.reference_error[:pairs]) + g * (g - 1) * distance
        omega = given.timestep_weight
        if isinstance(omega, Tensor):
            omega = omega[:pairs]
        loss = square if omega is None else omega * square
        return mean_loss(loss, given), pair_statistics(ratio, margin)


def pair_statistics(ratio: LogRatio, margin: Tensor) -> TGOStats:
    """What the sigmoid sees of each row: the pair's margin, negated for the loser.

    So the metrics of positives, negatives and implicit accuracy are those of the pairs.
    """
    margin = margin.detach()
    winner = torch.ones_like(margin, dtype=torch.bool)
    return TGOStats(
        torch.cat([margin, -margin]),
        ratio.policy_error,
        ratio.reference_error,
        torch.cat([winner, ~winner]),
        torch.ones_like(ratio.policy_error),
    )
