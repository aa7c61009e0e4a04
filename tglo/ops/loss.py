"""The operators with autograd: what `tglo.losses` calls.

The reference backend is plain PyTorch with PyTorch's autograd; the kernels are wrapped in an
autograd.Function. Arguments are taken as `tglo.losses` has checked them: predictions of one dtype;
scores, thresholds, cached errors and weights float32 or float64, computed with in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tglo import reference
from tglo.ops.arguments import Predictions, Scoring, kernel_arguments, unscored
from tglo.ops.choice import choose
from tglo.ops.dtypes import wide
from tglo.ops.layout import memory_mask, share_layout
from tglo.ops.library import define, operator
from tglo.ops.results import KernelResult, Result
from tglo.ops.tie import expected_factor, gradient_comes_first, tie

_LOSS = (
    "Tensor policy_pred, Tensor target, Tensor? reference_pred, Tensor? reference_error, "
    "Tensor scores, Tensor? threshold, Tensor? timestep_weight, Tensor? sample_weight, "
    "Tensor? mask, {more}int mask_inner, bool over_elements, float threshold_value, "
    "float timestep_weight_value, float sample_weight_value, float beta, float temperature, "
    "float confidence, int draws, int reduction"
)
_SCHEMAS = {
    "tgo_loss": f"({_LOSS.format(more='')}) -> (Tensor loss, Tensor coefficient, Tensor statistics)",
    "tgo_loss_backward": "(Tensor grad_loss, Tensor coefficient, Tensor policy_pred, "
    "Tensor target, Tensor? mask, int mask_inner, int draws) -> Tensor",
    "tgo_loss_and_grad": f"({_LOSS.format(more='Tensor? loss_scale, float loss_scale_value, ')}) "
    "-> (Tensor loss, Tensor coefficient, Tensor statistics, Tensor gradient)",
    "tgo_loss_rescale_": "(Tensor(a!) gradient, float scale, Tensor grad_loss, Tensor coefficient, "
    "Tensor policy_pred, Tensor target, Tensor? mask, int mask_inner, int draws) -> ()",
    "prediction_error": "(Tensor prediction, Tensor target, Tensor? mask, int mask_inner, "
    "bool over_elements) -> Tensor",
}
"""Arguments are taken as `kernel_arguments` prepares them.

Predictions: (rows, ...) of one dtype and one memory layout with dense rows. Vectors of scores,
thresholds, weights and cached errors: float32 or float64, thresholds, weights and loss_scale also as
one number without dimensions; computed with in float64. mask: (rows, period) or (1, period) float32; element
i of a row in memory order has weight mask[row, (i // mask_inner) % period]. A row's mean divides by the
sum of its mask, or with over_elements by its number of elements. statistics: those of `KernelResult`.
`tgo_loss_rescale_` takes a gradient that was written for a grad_loss of `scale`, and writes it anew where
grad_loss, of one number, is another.
"""


def tgo_loss(predictions: Predictions, scoring: Scoring, backend: str) -> Result:
    """Compute the reduced loss with its per-sample results."""
    chosen = choose("tgo_loss", predictions.policy_pred, backend)
    if chosen == "reference":
        return scoring.by_reference(predictions.by_reference(), predictions.loss_dtype)
    tensors, numbers = kernel_arguments(predictions, scoring)
    policy, rest = tensors[0], tensors[1:]
    known = tensors[1], tensors[-1], (chosen == "triton", numbers[0], predictions.draws)
    if scoring.reduction != "none" and gradient_comes_first(policy, chosen):
        scale = expected_factor(policy)
        run = operator("tgo_loss_and_grad")
        loss, coefficient, statistics, gradient = run(policy.detach(), *rest, None, scale, *numbers)
        loss = tie(policy, loss, coefficient, *known, gradient, scale)
    else:
        run = operator("tgo_loss", chosen == "triton")
        loss, coefficient, statistics = run(_detached(policy), *rest, *numbers)
        loss = tie(policy, loss, coefficient, *known)
    return KernelResult(loss, statistics, policy.shape[0])


def tgo_loss_and_grad(
    predictions: Predictions, scoring: Scoring, loss_scale: Tensor | float, backend: str
) -> tuple[Tensor, Result]:
    """Compute loss_scale * d loss / d policy_pred, and the reduced loss with its per-sample results."""
    chosen = choose("tgo_loss_and_grad", predictions.policy_pred, backend)
    if chosen == "reference":
        return _gradient_by_reference(predictions, scoring, loss_scale)
    (policy, *others), numbers = kernel_arguments(predictions, scoring)
    scaled = isinstance(loss_scale, Tensor)
    scale = (loss_scale, 1.0) if scaled else (None, loss_scale)
    run = operator("tgo_loss_and_grad", chosen == "triton")
    loss, _, statistics, gradient = run(_detached(policy), *others, *scale, *numbers)
    return gradient, KernelResult(loss, statistics, policy.shape[0])


def _gradient_by_reference(
    predictions: Predictions, scoring: Scoring, loss_scale: Tensor | float
) -> tuple[Tensor, reference.TGOResult]:
    predictions = predictions._replace(policy_pred=predictions.policy_pred.detach())
    result = scoring.by_reference(predictions.by_reference(), predictions.loss_dtype)
    policy, mask = predictions.policy_pred, predictions.mask
    coefficient = reference.prediction_coefficient(
        result.implicit_score,
        scoring.scores,
        wide(scoring.threshold),
        _elements(policy, mask, predictions.mask_mean),
        beta=scoring.beta,
        temperature=predictions.temperature,
        confidence=scoring.confidence,
        sample_weight=wide(scoring.weights),
        timestep_weight=wide(predictions.timestep_weight),
        draws=predictions.draws,
    )
    batch = len(scoring.scores)
    share = 1.0 / max(batch, 1) if scoring.reduction == "mean" else 1.0
    coefficient = coefficient * share * loss_scale
    return reference.prediction_gradient(policy, predictions.target, coefficient, mask), result


def log_ratio(predictions: Predictions, backend: str) -> reference.LogRatio:
    """Compute ell (B,) float64 with a gradient, and the errors."""
    chosen = choose("tgo_loss", predictions.policy_pred, backend)
    if chosen == "reference":
        return predictions.by_reference()
    tensors, numbers = kernel_arguments(predictions, unscored(predictions))
    policy, target, *others, mask = tensors
    triton = chosen == "triton"
    run = operator("tgo_loss", triton)
    loss, _, statistics = run(policy.detach(), target, *others, mask, *numbers)
    _, ratio, *errors = KernelResult(loss, statistics, policy.shape[0]).split()
    if policy.requires_grad and torch.is_grad_enabled():
        per_row = reference.log_ratio_coefficient(
            _elements(policy, predictions.mask, predictions.mask_mean),
            temperature=predictions.temperature,
            timestep_weight=wide(predictions.timestep_weight),
            draws=predictions.draws,
        )
        settings = triton, numbers[0], predictions.draws
        ratio = tie(policy, ratio.clone(), _per_row(per_row, policy), target, mask, settings)
    return reference.LogRatio(ratio, *errors)


def prediction_error(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None,
    mask_mean: str = "mask",
    *,
    backend: str,
) -> Tensor:
    """Compute mean((prediction - target)^2) of every row, (rows,) float64, with a gradient to
    prediction; arguments are taken as checked.
    """
    chosen = choose("prediction_error", prediction, backend)
    if chosen == "reference":
        return reference.prediction_error(prediction, target, mask, mask_mean)
    prediction, target = share_layout(prediction, target)
    weights, inner = (None, 1) if mask is None else memory_mask(mask, prediction)
    triton = chosen == "triton"
    run = operator("prediction_error", triton)
    error = run(prediction.detach(), target, weights, inner, mask_mean == "elements")
    if prediction.requires_grad and torch.is_grad_enabled():
        divisor = _elements(prediction, mask, mask_mean)
        per_row = _per_row(reference.error_coefficient(divisor), prediction)
        error = tie(prediction, error, per_row, target, weights, (triton, inner, 1))
    return error  # type: ignore[no-any-return]


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def _elements(prediction: Tensor, mask: Tensor | None, mask_mean: str) -> Tensor | float:
    """Return the divisor of a row's mean: n, or sum m, (rows,) float64."""
    if mask is None or mask_mean == "elements":
        return prediction.shape[1:].numel()
    return reference.row_weight(prediction, mask)


def _per_row(coefficient: Tensor, prediction: Tensor) -> Tensor:
    """Expand one number or a vector to (rows,) float64 on the prediction's device."""
    return prediction.new_zeros(prediction.shape[:1], dtype=torch.float64) + coefficient


def _tgo_loss_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    draws, reduction = others[-2:]
    rows, batch = policy_pred.shape[0], policy_pred.shape[0] // draws
    loss = policy_pred.new_empty((batch,) if reduction == 0 else (), dtype=torch.float32)
    wide = [policy_pred.new_empty((n,), dtype=torch.float64) for n in (rows, batch + 2 * rows)]
    return loss, *wide


def _tgo_loss_and_grad_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return *_tgo_loss_fake(policy_pred, *others), torch.empty_like(policy_pred)


_FAKES: dict[str, Callable[..., Any]] = {
    "tgo_loss": _tgo_loss_fake,
    "tgo_loss_backward": lambda _grad, _coefficient, policy, *others: torch.empty_like(policy),
    "tgo_loss_and_grad": _tgo_loss_and_grad_fake,
    "tgo_loss_rescale_": lambda *_: None,
    "prediction_error": lambda prediction, *others: prediction.new_empty(
        prediction.shape[:1], dtype=torch.float64
    ),
}
for _name, _schema in _SCHEMAS.items():
    define(_name, _schema, None if _name == "tgo_loss_rescale_" else "loss", _FAKES[_name])
