"""Quantile reward policy optimization."""

from __future__ import annotations

import math

from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, statistics


class QRPO(Objective):
    """Quantile reward policy optimization (arXiv 2507.08068), by regression:

        (q - beta (log beta + 1 / beta) - r)^2

    q is the score's quantile among the scores of its prompt. log beta + 1 / beta is the paper's log Z
    for small beta: too large by -log(1 - exp(-1 / beta)), 5e-5 at 0.1 and 0.15 at 0.5.
    """

    default_beta = 0.1
    saturates = False

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        r = self.beta * ratio.log_ratio
        log_partition = math.log(self.beta) + 1 / self.beta
        loss = (batch.labels.quantiles - self.beta * log_partition - r).square()
        return mean_loss(loss, batch), statistics(batch, ratio, r)
