"""The log-ratio of policy and reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tglo.reference.errors import at_least_float32, error_difference, prediction_error, row_weight
from tglo.reference.tokens import token_error


def average_draws(per_draw: Tensor, draws: int) -> Tensor:
    """Mean over the K draws of each sample: (B * K,) -> (B,); row i belongs to sample i // K."""
    return per_draw.reshape(-1, draws).mean(1)


def log_ratio(
    difference: Tensor,
    *,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float = 1.0,
    draws: int = 1,
) -> Tensor:
    """ell = mean_k -(omega_k / T) (e_theta,k - e_ref,k): (B * K,) -> (B,) float64."""
    return average_draws(-(timestep_weight / temperature) * difference.to(torch.float64), draws)


class LogRatio(NamedTuple):
    """The log-ratio with the errors that it compares."""

    log_ratio: Tensor
    """(B,) float64: ell = log pi_theta - log pi_ref; has a gradient."""
    policy_error: Tensor
    """(B * draws,) float64: error of the policy; `tglo.log_ratio` gives it no gradient."""
    reference_error: Tensor
    """(B * draws,) float64: error of the reference; has no gradient."""


def prediction_log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = None,
    reference_error: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mean: str = "mask",
    draws: int = 1,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float = 1.0,
) -> LogRatio:
    """Return ell of continuous models, with the reference's prediction or its error (exactly one of them).

    policy_pred, target and reference_pred are (B * K, ...), reference_error (B * K,); mask is
    broadcast to policy_pred.
    """
    policy_pred, target = at_least_float32(policy_pred), at_least_float32(target)
    if reference_pred is not None:
        reference_pred = at_least_float32(reference_pred)
        difference = error_difference(policy_pred, reference_pred, target, mask, mask_mean)
        with torch.no_grad():  # the gradient goes through the difference
            policy_error = prediction_error(policy_pred, target, mask, mask_mean)
            reference_error = prediction_error(reference_pred, target, mask, mask_mean)
    else:
        assert reference_error is not None
        policy_error = prediction_error(policy_pred, target, mask, mask_mean)
        reference_error = reference_error.to(torch.float64)
        difference = policy_error - reference_error
        if mask is not None and mask_mean == "mask":
            empty = row_weight(policy_pred, mask) == 0
            difference = torch.where(empty, 0.0, difference)
    ratio = log_ratio(
        difference, temperature=temperature, timestep_weight=timestep_weight, draws=draws
    )
    return LogRatio(ratio, policy_error, reference_error)


def token_log_ratio(
    log_prob: Tensor,
    mask: Tensor,
    *,
    reference_log_prob: Tensor | None = None,
    reference_error: Tensor | None = None,
    temperature: float = 1.0,
) -> LogRatio:
    """Return ell = -(e_theta - e_ref) / T of masked generative models, e the `token_error`, with the
    reference's log-probabilities (B, N) or its error (B,) (exactly one of them).

    log_prob and mask are (B, N). A sample without masked positions has ell = 0.
    """
    policy_error = token_error(log_prob, mask)
    if reference_log_prob is not None:
        # in float64: their difference is small
        difference = token_error(log_prob.double() - reference_log_prob.double(), mask)
        reference_error = token_error(reference_log_prob, mask)
    else:
        assert reference_error is not None
        reference_error = reference_error.to(torch.float64)
        difference = torch.where(mask.any(-1), policy_error - reference_error, 0.0)
    ratio = log_ratio(difference, temperature=temperature)
    return LogRatio(ratio, policy_error, reference_error)
