"""The TGO loss over log-probabilities, for any model that has them."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import checks, values
from tglo.losses.arguments import scoring
from tglo.losses.results import Reduction, TGOStats, statistics
from tglo.reference import LogRatio


def tgo_loss_from_log_probs(
    policy_log_prob: Tensor,
    reference_log_prob: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    sample_weight: Tensor | float | None = None,
    scored: Tensor | None = None,
    draws: int = 1,
    reduction: Reduction = "mean",
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, TGOStats]:
    """Compute the TGO loss with the paper's signature, for any model that has a log-probability per sample.

    r = beta * mean over draws of (policy_log_prob - reference_log_prob), both (B * draws,), computed in
    float64; row i belongs to sample i // draws. Only policy_log_prob gets a gradient. The other
    arguments, the result and the errors raised are those of `tgo_loss`. Log-probabilities in half
    precision lose the signal before they arrive here: keep them in float32.

    Any error e of one number per row, such as a Huber loss, makes a log-probability -e / temperature.
    """
    checks.check_prediction("policy_log_prob", policy_log_prob)
    rows, device = policy_log_prob.shape[0], policy_log_prob.device
    checks.check_draws(draws, rows, "policy_log_prob")
    checks.check_vector("policy_log_prob", policy_log_prob, rows, "draw", device)
    name = "policy_log_prob"
    checks.check_vector("reference_log_prob", reference_log_prob, rows, "draw", device, name)
    if reference_log_prob is not policy_log_prob:  # which has a gradient, and another message
        checks.check_constant("reference_log_prob", reference_log_prob)
    values.check_other_memory(
        "reference_log_prob", reference_log_prob, policy_log_prob, "policy_log_prob"
    )
    numbers = beta, confidence, reduction, sample_weight, scored
    known = scoring(scores, threshold, rows // draws, device, *numbers, other=name)

    policy, other = policy_log_prob.to(torch.float64), reference_log_prob.to(torch.float64)
    difference = policy - other
    if draws > 1:
        difference = reference.average_draws(difference, draws)
    ratio = LogRatio(difference, -policy, -other)
    dtype = torch.promote_types(policy_log_prob.dtype, torch.float32)
    result = known.by_reference(ratio, dtype)
    return (result.loss, statistics(result, known)) if return_stats else result.loss
