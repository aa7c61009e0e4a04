"""The arguments of the loss as the operators take them: what ell is computed from, and its scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tglo import reference
from tglo.ops.dtypes import wide
from tglo.ops.layout import memory_mask, share_layout

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum class Reduction in csrc/loss/rows.h


class Predictions(NamedTuple):
    """The inputs of the log-ratio, as `tglo.losses` has checked them: predictions of one dtype, vectors
    in float32 or float64. Shapes and meanings are those of `tglo.tgo_loss`.
    """

    policy_pred: Tensor
    target: Tensor
    reference_pred: Tensor | None
    reference_error: Tensor | None
    mask: Tensor | None
    draws: int
    temperature: float
    timestep_weight: Tensor | float
    mask_mean: str = "mask"

    @property
    def loss_dtype(self) -> torch.dtype:
        return torch.promote_types(self.policy_pred.dtype, torch.float32)

    def by_reference(self) -> reference.LogRatio:
        """Compute ell in plain PyTorch, differentiably."""
        error = self.reference_error
        return reference.prediction_log_ratio(
            self.policy_pred,
            self.target,
            reference_pred=self.reference_pred,
            reference_error=None if error is None else wide(error),
            mask=self.mask,
            mask_mean=self.mask_mean,
            draws=self.draws,
            temperature=self.temperature,
            timestep_weight=wide(self.timestep_weight),
        )


class Scoring(NamedTuple):
    """The inputs that turn a log-ratio into a loss; vectors are float32 or float64."""

    scores: Tensor
    threshold: Tensor | float
    beta: float
    confidence: float
    reduction: str
    sample_weight: Tensor | float = 1.0
    """0 where a sample is not scored."""
    scored: Tensor | None = None
    """(B,) bool, or None where every sample is."""

    @property
    def weights(self) -> Tensor | float:
        """The samples' weights in the loss that is divided by B where it is a mean."""
        if self.scored is None or self.reduction != "mean":
            return self.sample_weight
        return self.sample_weight * reference.scored_share(self.scored)

    def by_reference(self, ratio: reference.LogRatio, dtype: torch.dtype) -> reference.TGOResult:
        """Compute the loss in plain PyTorch, reduced and in dtype."""
        result = reference.scored(
            ratio,
            wide(self.scores),
            wide(self.threshold),
            beta=self.beta,
            confidence=self.confidence,
            sample_weight=wide(self.weights),
        )
        return result._replace(loss=reference.reduce_loss(result.loss, self.reduction).to(dtype))


def unscored(predictions: Predictions) -> Scoring:
    """Return dummy scores with which the loss's kernel computes ell: with beta = 1 its implicit score is
    ell itself.
    """
    policy, samples = predictions.policy_pred, predictions.policy_pred.shape[0] // predictions.draws
    return Scoring(policy.new_zeros(samples, dtype=torch.float64), 0.0, 1.0, 0.0, "none")


def _tensor_or_number(value: Tensor | float, unused: float) -> tuple[Tensor | None, float]:
    if type(value) is float or not isinstance(value, Tensor):
        return None, value
    return value, unused


def kernel_arguments(
    predictions: Predictions, scoring: Scoring
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors and the numbers of the operators in tglo/ops/loss.py, in the order of their schemas."""
    mask = predictions.mask
    # floats are what they mostly are, and asking isinstance(a float, Tensor) is slow
    threshold, threshold_value = _tensor_or_number(scoring.threshold, 0.0)
    weight, weight_value = _tensor_or_number(predictions.timestep_weight, 1.0)
    sample_weight, sample_weight_value = _tensor_or_number(scoring.weights, 1.0)
    policy, target, other = share_layout(
        predictions.policy_pred, predictions.target, predictions.reference_pred
    )
    weights, inner = (None, 1) if mask is None else memory_mask(mask, policy)
    tensors = (
        policy,
        target,
        other,
        predictions.reference_error,
        scoring.scores,
        threshold,
        weight,
        sample_weight,
        weights,
    )
    numbers = (
        inner,
        predictions.mask_mean == "elements",
        threshold_value,
        weight_value,
        sample_weight_value,
        scoring.beta,
        predictions.temperature,
        scoring.confidence,
        predictions.draws,
        _REDUCTIONS[scoring.reduction],
    )
    return tensors, numbers
