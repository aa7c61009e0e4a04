"""Every formula of threshold-guided optimization in plain PyTorch (arXiv 2605.04653).

This file is the only statement of the mathematics. The kernels are accepted by tests against it,
and it is the backend that works on every device. Elementwise work is done in the inputs' dtype, but
at least in float32; sums over a prediction and everything of batch size are float64. So float64
inputs give a float64 result throughout.

Notation: p, q, y are the policy's prediction, the reference's prediction and the training target; n
is the number of elements of one prediction; s the score, tau the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_TINY = torch.finfo(torch.float64).tiny


def label(scores: Tensor, threshold: Tensor | float) -> Tensor:
    """l = [s >= tau], bool of the shape of `scores`; a tie is positive."""
    return scores >= threshold


def confidence_weight(scores: Tensor, threshold: Tensor | float, confidence: float = 5.0) -> Tensor:
    """w = 1 + c |s - tau|, of the shape of `scores`; c has the unit of 1 / score."""
    return 1.0 + confidence * (scores - threshold).abs()


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _row_sum(elements: Tensor) -> Tensor:
    """Sum over all but the first dimension, in float64."""
    if elements.ndim == 1:
        return elements.to(torch.float64)
    return elements.sum(tuple(range(1, elements.ndim)), dtype=torch.float64)


def row_weight(prediction: Tensor, mask: Tensor) -> Tensor:
    """sum m over every row, what its mean divides by: (rows,) float64.

    The mask (non-negative weights) is broadcast to the shape of `prediction`, (rows, ...).
    """
    return _row_sum(mask.expand(prediction.shape))


def _row_mean(elements: Tensor, mask: Tensor | None) -> Tensor:
    """sum m x / sum m over all but the first dimension; 0 for a row whose weights are all 0."""
    if mask is None:
        return _row_sum(elements) / elements.shape[1:].numel()
    weight = row_weight(elements, mask)
    return torch.where(weight == 0, 0.0, _row_sum(elements * mask) / weight.clamp(min=_TINY))


def _hidden(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Put 0 where the mask is 0: what lies there counts for nothing, be it NaN."""
    return tensor if mask is None else torch.where(mask == 0, 0.0, tensor)


def prediction_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """e = mean((p - y)^2) of every row: (rows, ...) -> (rows,) float64; weighted by the mask."""
    difference = _hidden(_at_least_float32(prediction) - _at_least_float32(target), mask)
    return _row_mean(difference * difference, mask)


def error_difference(
    policy_pred: Tensor, reference_pred: Tensor, target: Tensor, mask: Tensor | None = None
) -> Tensor:
    """e_theta - e_ref of every row as mean((p - q)(p + q - 2y)): (rows, ...) -> (rows,) float64.

    The product is exactly 0 where p == q, and it avoids the cancellation of two large means.
    """
    p, q, y = (
        _hidden(_at_least_float32(tensor), mask) for tensor in (policy_pred, reference_pred, target)
    )
    return _row_mean((p - q) * ((p - y) + (q - y)), mask)


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


def noised(latents: Tensor, noise: Tensor, scale: Tensor, noise_scale: Tensor) -> Tensor:
    """scale x0 + noise_scale eps, (B, ...) in latents.dtype, the scales (B,): computed in float32
    (float64 for float64 latents), each operation rounded, then rounded once to the dtype.
    """
    dtype = torch.promote_types(latents.dtype, torch.float32)
    shape = (-1,) + (1,) * (latents.dim() - 1)
    scale, noise_scale = (x.to(dtype).reshape(shape) for x in (scale, noise_scale))
    return (scale * latents + noise_scale * noise).to(latents.dtype)


def token_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (..., D) times weight (V, D), plus bias (V,): (..., V), at least float32."""
    logits = _at_least_float32(hidden) @ _at_least_float32(weight).T
    return logits if bias is None else logits + _at_least_float32(bias)


def picked_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at the true token: logits (..., V), tokens (...) int64 give (...)."""
    log_probs = functional.log_softmax(_at_least_float32(logits), dim=-1)
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_log_prob(
    hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, bias: Tensor | None = None
) -> Tensor:
    """log p(true token) at masked positions, 0 elsewhere; holds the logits of all positions.

    hidden (B, N, D), weight (V, D), bias (V,), tokens (B, N) int64 and mask (B, N) bool give (B, N).
    What lies under False is not looked at, be it NaN or no token.
    """
    logits = token_logits(torch.where(mask.unsqueeze(-1), hidden, 0.0), weight, bias)
    return torch.where(mask, picked_log_prob(logits, torch.where(mask, tokens, 0)), 0.0)


def token_error(log_prob: Tensor, mask: Tensor) -> Tensor:
    """e = -mean of log p(true token) over each sample's mask: (B, N) -> (B,) float64; 0 for a sample
    without masked positions. The mean is a sum times 1 / count.
    """
    count = row_weight(mask, mask)
    share = torch.where(count == 0, 0.0, 1.0 / count)
    return _row_sum(torch.where(mask, -log_prob, 0.0)) * share


def loss_from_log_ratio(
    implicit_score: Tensor, scores: Tensor, threshold: Tensor | float, confidence: float = 5.0
) -> Tensor:
    """w softplus(-z r) with z = 2l - 1 and r = beta * ell: (B,) -> (B,) float64; finite for every
    finite r.

    log(1 + exp(-x)) is written as -logsigmoid(x), which does not overflow and keeps full precision
    in both tails.
    """
    scores = scores.to(torch.float64)
    sign = 2.0 * label(scores, threshold).to(torch.float64) - 1.0
    weight = confidence_weight(scores, threshold, confidence)
    return weight * -functional.logsigmoid(sign * implicit_score.to(torch.float64))


def loss_slope(
    implicit_score: Tensor, scores: Tensor, threshold: Tensor | float, confidence: float = 5.0
) -> Tensor:
    """d loss_b / d r_b = -w z sigmoid(-z r): (B,) -> (B,) float64."""
    scores = scores.to(torch.float64)
    sign = 2.0 * label(scores, threshold).to(torch.float64) - 1.0
    weight = confidence_weight(scores, threshold, confidence)
    return -weight * sign * torch.sigmoid(-sign * implicit_score.to(torch.float64))


class LogRatio(NamedTuple):
    """The log-ratio with the errors that it compares."""

    log_ratio: Tensor
    """(B,) float64: ell = log pi_theta - log pi_ref; has a gradient."""
    policy_error: Tensor
    """(B * draws,) float64: error of the policy; `tglo.log_ratio` gives it no gradient."""
    reference_error: Tensor
    """(B * draws,) float64: error of the reference; has no gradient."""


class TGOResult(NamedTuple):
    """Per-sample results of a loss; all float64."""

    loss: Tensor  # (B,)
    implicit_score: Tensor  # (B,), r = beta * ell
    policy_error: Tensor  # (B * K,)
    reference_error: Tensor  # (B * K,)


def prediction_log_ratio(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = None,
    reference_error: Tensor | None = None,
    mask: Tensor | None = None,
    draws: int = 1,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float = 1.0,
) -> LogRatio:
    """Return ell of continuous models, with the reference's prediction or its error (exactly one of them).

    policy_pred, target and reference_pred are (B * K, ...), reference_error (B * K,); mask is
    broadcast to policy_pred.
    """
    policy_pred, target = _at_least_float32(policy_pred), _at_least_float32(target)
    if reference_pred is not None:
        reference_pred = _at_least_float32(reference_pred)
        difference = error_difference(policy_pred, reference_pred, target, mask)
        with torch.no_grad():  # the gradient goes through the difference
            policy_error = prediction_error(policy_pred, target, mask)
            reference_error = prediction_error(reference_pred, target, mask)
    else:
        assert reference_error is not None
        policy_error = prediction_error(policy_pred, target, mask)
        reference_error = reference_error.to(torch.float64)
        difference = policy_error - reference_error
        if mask is not None:
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


def scored(
    ratio: LogRatio,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
) -> TGOResult:
    """Return the per-sample loss of a log-ratio and its scores (B,)."""
    implicit_score = beta * ratio.log_ratio
    loss = loss_from_log_ratio(implicit_score, scores, threshold, confidence)
    return TGOResult(loss, implicit_score, ratio.policy_error, ratio.reference_error)


def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    **options: Any,
) -> TGOResult:
    """Return the per-sample loss of continuous models: `prediction_log_ratio`, which takes the options,
    and `scored`.
    """
    ratio = prediction_log_ratio(policy_pred, target, **options)
    return scored(ratio, scores, threshold, beta=beta, confidence=confidence)


def log_ratio_coefficient(
    elements: Tensor | float,
    *,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float = 1.0,
    draws: int = 1,
) -> Tensor:
    """coeff with d ell_b / d p = coeff m (p - y), float64: -omega / T * 2 / n / K.

    `elements` as in `prediction_coefficient`; (B * K,) if elements or omega are, else 0-d.
    """
    return -(timestep_weight / temperature) / draws * error_coefficient(elements)


def error_coefficient(elements: Tensor | float) -> Tensor:
    """coeff with d e / d p = coeff m (p - y), float64, like `elements`: 2 / n, or 0 where n is 0."""
    count = torch.as_tensor(elements, dtype=torch.float64)
    return torch.where(count == 0, 0.0, 2.0 / count)


def prediction_coefficient(
    implicit_score: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    elements: Tensor | float,
    *,
    beta: float = 1.0,
    temperature: float = 1e-3,
    confidence: float = 5.0,
    timestep_weight: Tensor | float = 1.0,
    draws: int = 1,
) -> Tensor:
    """coeff with d loss_b / d p = coeff m (p - y): (B,) -> (B * K,) float64.

    `elements` is n, or sum of m for each row (`row_weight`); where that is 0, coeff is 0.

    coeff = w z sigmoid(-z r) * beta * omega / T * 2 / n, and 1 / K of it for each of K draws.
    """
    slope = loss_slope(implicit_score, scores, threshold, confidence).repeat_interleave(draws)
    per_row = log_ratio_coefficient(
        elements, temperature=temperature, timestep_weight=timestep_weight, draws=draws
    )
    return slope * beta * per_row.to(slope.device)


def prediction_gradient(
    policy_pred: Tensor, target: Tensor, coefficient: Tensor, mask: Tensor | None = None
) -> Tensor:
    """coeff m (p - y), (rows, ...) of policy_pred's dtype; coefficient (rows,)."""
    p, y = _at_least_float32(policy_pred), _at_least_float32(target)
    scale = coefficient.to(p.dtype).reshape(-1, *(1,) * (p.ndim - 1))
    gradient = scale * _hidden(p - y, mask)
    return (gradient if mask is None else gradient * mask).to(policy_pred.dtype)


def reduce_loss(per_sample: Tensor, reduction: str) -> Tensor:
    """ "mean", "sum" or "none" over samples; the mean of an empty batch is 0, with a graph."""
    if reduction == "none":
        return per_sample
    total = per_sample.sum()
    return total / max(len(per_sample), 1) if reduction == "mean" else total
