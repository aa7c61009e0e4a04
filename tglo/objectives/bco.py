"""Binary classifier optimization."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective
from tglo.objectives.micro_batch import MicroBatch, mean_loss, statistics


class BCO(Objective):
    """Binary classifier optimization (arXiv 2404.04656): -log sigmoid(z (r - delta)).

    delta is the mean of r over all samples so far, on all processes, this micro batch included, as
    in TRL's trainer; kept without the temperature, which may change. A checkpoint keeps it.
    """

    needs_positives = needs_negatives = True
    _sum_and_count: Tensor

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(batch, temperature)
        r, sign = self.beta * ratio.log_ratio, batch.labels.sign
        mean = self.average(r.detach().mean())
        new = torch.stack([mean * temperature, torch.ones_like(mean)])
        seen = self._sum_and_count = self._sum_and_count.to(mean.device) + new
        loss = -logsigmoid(sign * (r - seen[0] / seen[1] / temperature))
        return mean_loss(loss, batch), statistics(batch, ratio, r)

    def state(self) -> dict[str, float]:
        return dict(zip(("sum", "count"), self._sum_and_count.tolist(), strict=True))

    def restore(self, state: dict[str, float]) -> None:
        values = [state.get("sum", 0.0), state.get("count", 0.0)]
        self._sum_and_count = torch.tensor(values, dtype=torch.float64)
