"""Diffusion-DPO with Diffusion-SDPO's safeguard."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, pair_statistics
from tglo.objectives.safeguard import allowed, scaled


@dataclass(frozen=True)
class SDPOConstants:
    """The safeguard of Diffusion-SDPO, objective.name = sdpo."""

    mu: float = 0.9
    """Share of the winner's descent that the loser's gradient must leave (mu), in [0, 1]; 1 leaves the loser
    out wherever it pulls the winner up."""

    def __post_init__(self) -> None:
        if not 0 <= self.mu <= 1:
            raise ValueError(f"objective.sdpo.mu is {self.mu}; it must be in [0, 1]")


class SDPO(Objective):
    """Diffusion-SDPO (arXiv 2511.03317): Diffusion-DPO's loss, where the gradient of r_loser is scaled by

        min(1, (1 - mu) |a|^2 / <a, b>)  where <a, b> > 0, else 1

    a and b are the winner's and the loser's prediction minus target, so that to first order the winner's
    error does not grow. The scale is of each pair, whose two gradients the sigmoid weighs alike; the
    released code has one scale for its micro batch, whose pairs the sigmoid weighs unlike. With one pair
    in a micro batch both are the same number. mu as released: 0.9 for SD1.5, 0.6 for SDXL.
    """

    takes_pairs = True
    default_temperature = 2 / 5000
    constants_type = SDPOConstants
    constants: SDPOConstants

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        winner, loser = (self.beta * ratio.log_ratio).chunk(2)
        down, up = batch.residual().chunk(2)
        margin = winner - scaled(loser, allowed(down, up, self.constants.mu))
        return mean_loss(-logsigmoid(margin), batch), pair_statistics(ratio, margin)
