"""Diffusion-DPO."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, pair_statistics


class DPO(Objective):
    """Diffusion-DPO (arXiv 2311.12908): -log sigmoid(r_winner - r_loser).

    The released code has beta_dpo / 2 where beta / T is here, and beta_dpo = 5000 for SD1.5 and SDXL.
    """

    takes_pairs = True
    default_temperature = 2 / 5000

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        winner, loser = (self.beta * ratio.log_ratio).chunk(2)
        margin = winner - loser
        return mean_loss(-logsigmoid(margin), batch), pair_statistics(ratio, margin)
