"""Objectives over scored samples, each on its own: TGO, SFT, CSFT, KTO, BCO, QRPO.

z = +1 where score >= threshold, else -1; r = beta * ell, with ell the log-ratio to the reference.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tglo import reference
from tglo.losses.log_ratio import LogRatio
from tglo.losses.results import TGOStats
from tglo.losses.sft import sft_loss
from tglo.losses.tgo import tgo_loss
from tglo.objectives.base import (
    Average,
    Given,
    Objective,
    Settings,
    alone,
    mean_loss,
    sign_of,
    statistics,
)


class TGO(Objective):
    """Threshold-guided optimization (arXiv 2605.04653): (1 + c |s - tau|) softplus(-z r)."""

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        if given.target is None:
            return self._of_errors(given, temperature)
        return tgo_loss(
            given.policy_pred,
            given.target,
            given.scores,
            given.threshold,
            reference_pred=given.reference_pred,
            reference_error=given.reference_error,
            beta=self.beta,
            temperature=temperature,
            confidence=self.settings.confidence,
            timestep_weight=given.timestep_weight,
            return_stats=True,
            backend=self.settings.backend,
        )

    def _of_errors(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio, c = self.ratio(given, temperature), self.settings.confidence
        r = self.beta * ratio.log_ratio
        loss = reference.loss_from_log_ratio(r, given.scores, given.threshold, c)
        weight = reference.confidence_weight(given.scores, given.threshold, c)
        return mean_loss(loss, given), statistics(given, ratio, r, weight)


class SFT(Objective):
    """Supervised fine-tuning on the samples at or above the threshold: omega e_theta."""

    needs_reference = False
    positives_only = True
    saturates = False

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        if given.target is None:
            return self._of_errors(given)
        result = sft_loss(
            given.policy_pred,
            given.target,
            given.scores,
            given.threshold,
            timestep_weight=given.timestep_weight,
            return_stats=True,
            backend=self.settings.backend,
        )
        return cast("tuple[Tensor, TGOStats]", result)

    def _of_errors(self, given: Given) -> tuple[Tensor, TGOStats]:
        error, omega = self.error(given), given.timestep_weight
        positive = reference.label(given.scores, given.threshold).double()
        total = (error * positive * (1.0 if omega is None else omega)).sum()
        zero = torch.zeros_like(error.detach())
        stats = statistics(given, LogRatio(zero, error.detach(), zero), zero, positive)
        return total / positive.sum().clamp(min=1), stats


class CSFT(Objective):
    """Conditional fine-tuning on all samples, prompts prefixed by a good or a bad marker (Korbak et
    al., arXiv 2302.08582, as a baseline in Diffusion-KTO, arXiv 2404.04465): omega e_theta.
    """

    needs_reference = False
    marks_prompts = True
    saturates = False

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        error = self.error(given)
        weight = 1.0 if given.timestep_weight is None else given.timestep_weight
        zero = torch.zeros_like(error)
        stats = statistics(given, LogRatio(zero, error.detach(), zero), zero)
        return mean_loss(weight * error, given), stats


class KTO(Objective):
    """Diffusion-KTO (arXiv 2404.04465): w_y (1 - sigmoid(z (r - z0))).

    z0 is the mean of r over the micro batch of all processes, at least 0 and without a gradient, as
    in the released code, whose beta of 1000 on -(e_theta - e_ref) is 1 / T.
    """

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(given, temperature)
        r, sign = self.beta * ratio.log_ratio, sign_of(given)
        baseline = self.average(r.detach().mean()).clamp(min=0)
        weight = torch.where(
            sign > 0, self.settings.positive_weight, self.settings.negative_weight
        ).double()
        loss = weight * torch.sigmoid(-sign * (r - baseline))
        return mean_loss(loss, given), statistics(given, ratio, r, weight)


class BCO(Objective):
    """Binary classifier optimization (arXiv 2404.04656): -log sigmoid(z (r - delta)).

    delta is the mean of r over all samples so far, on all processes, this micro batch included, as
    in TRL's trainer; kept without the temperature, which may change. A checkpoint keeps it.
    """

    def __init__(self, settings: Settings | None = None, average: Average = alone) -> None:
        super().__init__(settings, average)
        self._sum_and_count = torch.zeros(2, dtype=torch.float64)

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        ratio = self.ratio(given, temperature)
        r, sign = self.beta * ratio.log_ratio, sign_of(given)
        mean = self.average(r.detach().mean())
        new = torch.stack([mean * temperature, torch.ones_like(mean)])
        seen = self._sum_and_count = self._sum_and_count.to(mean.device) + new
        loss = -logsigmoid(sign * (r - seen[0] / seen[1] / temperature))
        return mean_loss(loss, given), statistics(given, ratio, r)

    def state(self) -> dict[str, float]:
        total, count = self._sum_and_count.tolist()
        return {"sum": total, "count": count}

    def restore(self, state: dict[str, float]) -> None:
        values = [state.get("sum", 0.0), state.get("count", 0.0)]
        self._sum_and_count = torch.tensor(values, dtype=torch.float64)


class QRPO(Objective):
    """Quantile reward policy optimization (arXiv 2507.08068), by regression:

        (q - beta (log beta + 1 / beta) - r)^2

    q is the score's quantile among the scores of its prompt. log beta + 1 / beta is the paper's log Z
    for small beta: too large by -log(1 - exp(-1 / beta)), 5e-5 at 0.1 and 0.15 at 0.5.
    """

    default_beta = 0.1
    saturates = False

    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        assert given.quantile is not None
        ratio = self.ratio(given, temperature)
        r = self.beta * ratio.log_ratio
        log_partition = math.log(self.beta) + 1 / self.beta
        loss = (given.quantile - self.beta * log_partition - r).square()
        return mean_loss(loss, given), statistics(given, ratio, r)
