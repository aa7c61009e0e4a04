"""The losses without a reference prediction: TGO over log-probabilities, supervised fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import checks, reference
from tglo.log_ratios import policy_error as error_of
from tglo.loss_types import Reduction, TGOStats, wide


def tgo_loss_from_log_probs(
    policy_log_prob: Tensor,
    reference_log_prob: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    reduction: Reduction = "mean",
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, TGOStats]:
    """The TGO loss with the paper's signature, for any model that has a log-probability per sample.

    r = beta * (policy_log_prob - reference_log_prob), both (B,), computed in float64. Only
    policy_log_prob gets a gradient. The other arguments, the result and the errors raised are those
    of `tgo_loss`. Log-probabilities in half precision lose the signal before they arrive here: keep
    them in float32.
    """
    checks.check_reduction(reduction)
    checks.check_prediction("policy_log_prob", policy_log_prob)
    batch, device = policy_log_prob.shape[0], policy_log_prob.device
    checks.check_vector("policy_log_prob", policy_log_prob, batch, "sample", device)
    checks.check_vector("reference_log_prob", reference_log_prob, batch, "sample", device)
    if reference_log_prob is policy_log_prob:
        raise ValueError(
            "reference_log_prob is the very tensor passed as policy_log_prob, so the log-ratio "
            "would be 0 for ever; pass the frozen reference's log-probabilities"
        )
    if reference_log_prob.requires_grad:
        raise ValueError(
            "reference_log_prob requires a gradient, which the loss does not give it; compute it "
            "under torch.no_grad() or pass reference_log_prob.detach()"
        )
    checks.check_scores(scores, threshold, batch, device)
    checks.check_number("beta", beta, above=0)
    checks.check_number("confidence", confidence, at_least=0)

    scores, threshold = wide(scores), wide(threshold)
    policy_wide, reference_wide = (
        policy_log_prob.to(torch.float64),
        reference_log_prob.to(torch.float64),
    )
    scaled = beta * (policy_wide - reference_wide)
    per_sample = reference.loss_from_log_ratio(scaled, scores, threshold, confidence)
    dtype = torch.promote_types(policy_log_prob.dtype, torch.float32)
    loss = reference.reduce_loss(per_sample, reduction).to(dtype)
    if not return_stats:
        return loss
    return loss, TGOStats(
        scaled.detach(),
        -policy_wide.detach(),
        -reference_wide,
        reference.label(scores, threshold),
        reference.confidence_weight(scores, threshold, confidence),
    )


def sft_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    timestep_weight: Tensor | float | None = None,
    draws: int = 1,
    reduction: Reduction = "mean",
    return_stats: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TGOStats]:
    """Supervised fine-tuning on the positives: the baseline without a reference.

    loss = mean over draws of timestep_weight * mean((policy_pred - target)^2) where score >=
    threshold, else 0. "mean" divides by the number of positives (0 with a graph and a zero gradient
    if there are none). Shapes, dtypes and errors raised are those of `tgo_loss`; in the statistics
    log_ratio and reference_error are 0 and weight is the label.
    """
    checks.check_reduction(reduction)
    checks.check_prediction("policy_pred", policy_pred)
    rows, device = policy_pred.shape[0], policy_pred.device
    checks.check_draws(draws, rows)
    checks.check_like_policy("target", target, policy_pred)
    checks.check_scores(scores, threshold, rows // draws, device)
    checks.check_timestep_weight(timestep_weight, rows, device)

    scores, threshold = wide(scores), wide(threshold)
    positive = reference.label(scores, threshold)
    error = error_of(policy_pred, target, backend=backend)
    weighted = error if timestep_weight is None else error * wide(timestep_weight)
    per_sample = reference.average_draws(weighted, draws) * positive
    dtype = torch.promote_types(policy_pred.dtype, torch.float32)
    if reduction == "mean":
        loss = (per_sample.sum() / positive.sum().clamp(min=1)).to(dtype)
    else:
        loss = reference.reduce_loss(per_sample, reduction).to(dtype)
    if not return_stats:
        return loss
    zero = torch.zeros_like(scores)
    return loss, TGOStats(
        zero, error.detach(), torch.zeros_like(error.detach()), positive, positive.to(torch.float64)
    )
