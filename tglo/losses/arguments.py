"""The arguments of the losses: checked, and in the dtypes that the operators take."""

from __future__ import annotations

from typing import TypedDict, Unpack

import torch
from torch import Tensor

from tglo import ops, reference
from tglo.losses import checks, samples
from tglo.losses.masks import mask_weights
from tglo.losses.results import MaskMean, Reduction
from tglo.ops.dtypes import constant, number, promote, wide


class CallOptions(TypedDict, total=False):
    """Keywords that change from call to call; `tglo.tgo_loss` says what they mean."""

    reference_pred: Tensor | None
    reference_error: Tensor | None
    timestep_weight: Tensor | float | None
    mask: Tensor | None
    mask_mean: MaskMean
    draws: int


class RatioOptions(CallOptions, total=False):
    """Keywords of `tglo.log_ratio`."""

    temperature: float


class SampleOptions(TypedDict, total=False):
    """Keywords that say what a sample counts for."""

    sample_weight: Tensor | float | None
    scored: Tensor | None


class LossCallOptions(CallOptions, SampleOptions, total=False):
    """Keywords of a call of `tglo.TGOLoss`."""


class LossOptions(RatioOptions, SampleOptions, total=False):
    """Keywords of `tglo.tgo_loss` and `tglo.loss_and_grad`."""

    beta: float
    confidence: float
    reduction: Reduction


def predictions(
    policy_pred: Tensor,
    target: Tensor,
    *,
    reference_pred: Tensor | None = None,
    reference_error: Tensor | None = None,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
    mask_mean: MaskMean = "mask",
    draws: int = 1,
    **unknown: object,
) -> ops.Predictions:
    """Check the inputs of the log-ratio."""
    if unknown:
        names = ", ".join(LossOptions.__annotations__)
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}; options are {names}")
    checks.check_prediction("policy_pred", policy_pred)
    rows, device = policy_pred.shape[0], policy_pred.device
    checks.check_draws(draws, rows)
    checks.check_like_policy("target", target, policy_pred)
    checks.check_reference(policy_pred, reference_pred, reference_error)
    if timestep_weight is not None:
        timestep_weight = samples.flat(timestep_weight)
        checks.check_timestep_weight(timestep_weight, rows, device)
    checks.check_number("temperature", temperature, above=0)
    checks.check_mask_mean(mask_mean)
    policy_pred, target, reference_pred = promote(policy_pred, target, reference_pred)
    weights = None if mask is None else mask_weights(mask, policy_pred)
    return ops.Predictions(
        policy_pred,
        target,
        reference_pred,
        None if reference_error is None else constant(reference_error),
        weights,
        draws,
        float(temperature),
        1.0 if timestep_weight is None else number(timestep_weight),
        mask_mean,
    )


def scoring(
    scores: Tensor,
    threshold: Tensor | float,
    batch: int,
    device: torch.device,
    beta: float,
    confidence: float,
    reduction: Reduction,
    sample_weight: Tensor | float | None = None,
    scored: Tensor | None = None,
    other: str = "policy_pred",
) -> ops.Scoring:
    """Check what turns the log-ratios of that many samples on that device, that of the argument `other`, into
    a loss.
    """
    checks.check_reduction(reduction)
    checks.check_scores(scores, threshold, batch, device, other)
    checks.check_number("beta", beta, above=0)
    endless = checks.check_confidence(confidence)
    weight: Tensor | float = 1.0
    if sample_weight is not None:
        sample_weight = samples.flat(sample_weight)
        checks.check_sample_weight(sample_weight, batch, device, other)
        weight = number(sample_weight)
    if endless:  # the kernels know 1 + c |s - tau| alone
        known_scores, limit = wide(constant(scores)), wide(number(threshold))
        weight = reference.loss_weight(known_scores, limit, confidence, wide(weight))
        confidence = 0.0
    if scored is not None:
        scored, weight = samples.scored_weight(scored, weight, batch, device, other)
    limit = number(threshold)
    known = constant(scores), limit, float(beta), float(confidence), reduction, weight, scored
    return ops.Scoring(*known)


def loss_arguments(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    beta: float = 1.0,
    confidence: float = 5.0,
    sample_weight: Tensor | float | None = None,
    scored: Tensor | None = None,
    reduction: Reduction = "mean",
    **options: Unpack[RatioOptions],
) -> tuple[ops.Predictions, ops.Scoring]:
    """Check the arguments of `tglo.tgo_loss`."""
    known = predictions(policy_pred, target, **options)
    batch, device = policy_pred.shape[0] // known.draws, policy_pred.device
    numbers = beta, confidence, reduction, sample_weight, scored
    return known, scoring(scores, threshold, batch, device, *numbers)
