"""From a log-ratio and its scores to the loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tglo.reference.errors import zero_hidden
from tglo.reference.ratio import LogRatio, prediction_log_ratio


def label(scores: Tensor, threshold: Tensor | float) -> Tensor:
    """l = [s >= tau], bool of the shape of `scores`; a tie is positive."""
    return scores >= threshold


def confidence_weight(scores: Tensor, threshold: Tensor | float, confidence: float = 5.0) -> Tensor:
    """w = 1 + c |s - tau|, of the shape of `scores`; c has the unit of 1 / score. With c = inf w = |s - tau|, to
    which w / c tends.
    """
    if confidence == math.inf:
        return (scores - threshold).abs()
    return 1.0 + confidence * (scores - threshold).abs()


def loss_weight(
    scores: Tensor,
    threshold: Tensor | float,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
) -> Tensor:
    """v w of every sample, v its `sample_weight`; 0 where v is 0, be the score NaN: (B,) float64."""
    weight = confidence_weight(scores.to(torch.float64), threshold, confidence)
    if isinstance(sample_weight, Tensor):
        return torch.where(sample_weight == 0, 0.0, sample_weight * weight)
    return sample_weight * weight if sample_weight else torch.zeros_like(weight)


def scored_weight(sample_weight: Tensor | float, scored: Tensor) -> Tensor:
    """v where a sample is scored and 0 elsewhere, whatever v is there: (B,) float64."""
    if not isinstance(sample_weight, Tensor):
        sample_weight = scored.new_full((), sample_weight, dtype=torch.float64)
    return torch.where(scored, sample_weight.to(torch.float64), 0.0)


def scored_share(scored: Tensor) -> Tensor:
    """B / the number of scored samples, at least 1: what makes the mean over B one over those, 0-d float64."""
    return len(scored) / scored.sum(dtype=torch.float64).clamp(min=1)


def _counted(implicit_score: Tensor, sample_weight: Tensor | float) -> Tensor:
    """Put 0 where the sample's weight is 0: what r is there counts for nothing, be it NaN."""
    if isinstance(sample_weight, Tensor):
        return zero_hidden(implicit_score, sample_weight)
    return implicit_score if sample_weight else torch.zeros_like(implicit_score)


def loss_from_log_ratio(
    implicit_score: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
) -> Tensor:
    """v w softplus(-z r) with z = 2l - 1 and r = beta * ell: (B,) -> (B,) float64; finite for every
    finite r, and 0 where v is 0.

    log(1 + exp(-x)) is written as -logsigmoid(x), which does not overflow and keeps full precision
    in both tails.
    """
    sign = 2.0 * label(scores.to(torch.float64), threshold).to(torch.float64) - 1.0
    weight = loss_weight(scores, threshold, confidence, sample_weight)
    implicit_score = _counted(implicit_score, sample_weight)
    return weight * -functional.logsigmoid(sign * implicit_score.to(torch.float64))


def loss_slope(
    implicit_score: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
) -> Tensor:
    """d loss_b / d r_b = -v w z sigmoid(-z r): (B,) -> (B,) float64."""
    sign = 2.0 * label(scores.to(torch.float64), threshold).to(torch.float64) - 1.0
    weight = loss_weight(scores, threshold, confidence, sample_weight)
    implicit_score = _counted(implicit_score, sample_weight)
    return -weight * sign * torch.sigmoid(-sign * implicit_score.to(torch.float64))


class TGOResult(NamedTuple):
    """Per-sample results of a loss; all float64."""

    loss: Tensor  # (B,)
    implicit_score: Tensor  # (B,), r = beta * ell
    policy_error: Tensor  # (B * K,)
    reference_error: Tensor  # (B * K,)


def scored(
    ratio: LogRatio,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
) -> TGOResult:
    """Return the per-sample loss of a log-ratio and its scores (B,)."""
    implicit_score = beta * ratio.log_ratio
    loss = loss_from_log_ratio(implicit_score, scores, threshold, confidence, sample_weight)
    return TGOResult(loss, implicit_score, ratio.policy_error, ratio.reference_error)


def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
    **options: Any,
) -> TGOResult:
    """Return the per-sample loss of continuous models: `prediction_log_ratio`, which takes the options,
    and `scored`.
    """
    ratio = prediction_log_ratio(policy_pred, target, **options)
    return scored(
        ratio, scores, threshold, beta=beta, confidence=confidence, sample_weight=sample_weight
    )


def reduce_loss(per_sample: Tensor, reduction: str) -> Tensor:
    """ "mean", "sum" or "none" over samples; the mean of an empty batch is 0, with a graph."""
    if reduction == "none":
        return per_sample
    total = per_sample.sum()
    return total / max(len(per_sample), 1) if reduction == "mean" else total
