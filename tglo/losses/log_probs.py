"""The TGO loss over log-probabilities, for any model that has them."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import checks
from tglo.losses.results import Reduction, TGOStats
from tglo.ops.dtypes import wide


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
