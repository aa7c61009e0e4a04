"""Supervised fine-tuning on the samples at or above the threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import checks, samples
from tglo.losses.arguments import scoring
from tglo.losses.log_ratio import policy_error as error_of
from tglo.losses.results import MaskMean, Reduction, TGOStats, label
from tglo.ops.dtypes import wide


def sft_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    timestep_weight: Tensor | float | None = None,
    sample_weight: Tensor | float | None = None,
    scored: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mean: MaskMean = "mask",
    draws: int = 1,
    reduction: Reduction = "mean",
    return_stats: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TGOStats]:
    """Compute the loss of supervised fine-tuning on the positives: the baseline without a reference.

    loss = sample_weight * mean over draws of timestep_weight * mean((policy_pred - target)^2) where
    score >= threshold, else 0. "mean" divides by the number of positives (0 with a graph and a zero
    gradient if there are none). What is not scored is no positive. Options, shapes, dtypes and errors
    raised are those of `tgo_loss`; in the statistics implicit_score and reference_error are 0 and
    weight is the label times sample_weight.
    """
    checks.check_prediction("policy_pred", policy_pred)
    rows, device = policy_pred.shape[0], policy_pred.device
    checks.check_draws(draws, rows)
    numbers = 1.0, 0.0, reduction, sample_weight, scored  # of beta and confidence it has none
    known = scoring(scores, threshold, rows // draws, device, *numbers)
    if timestep_weight is not None:
        timestep_weight = samples.flat(timestep_weight)
        checks.check_timestep_weight(timestep_weight, rows, device)

    positive = label(wide(known.scores), wide(known.threshold), known.scored)
    weight = positive if sample_weight is None else positive * wide(known.sample_weight)
    error = error_of(policy_pred, target, mask, mask_mean=mask_mean, backend=backend)
    omega = 1.0 if timestep_weight is None else wide(timestep_weight)
    per_sample = reference.average_draws(omega * error, draws)
    per_sample = torch.where(weight == 0, 0.0, per_sample * weight)  # 0 also beside a NaN
    dtype = torch.promote_types(policy_pred.dtype, torch.float32)
    if reduction == "mean":
        loss = (per_sample.sum() / positive.sum().clamp(min=1)).to(dtype)
    else:
        loss = reference.reduce_loss(per_sample, reduction).to(dtype)
    if not return_stats:
        return loss
    error, weight = error.detach(), weight.double()
    return loss, TGOStats(
        torch.zeros_like(weight), error, torch.zeros_like(error), positive, weight
    )
