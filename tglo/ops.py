"""The operators with autograd: what `tglo.losses` calls.

The reference backend is plain PyTorch with PyTorch's autograd; the kernels are wrapped in an
autograd.Function. Arguments are taken as `tglo.losses` has checked them: predictions of one dtype;
scores, thresholds, cached errors and weights float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo import reference
from tglo.backends import BACKENDS, OPERATORS, backend_for, backends, check_backend, choose
from tglo.schemas import EXTENSION

__all__ = [
    "BACKENDS",
    "EXTENSION",
    "OPERATORS",
    "backend_for",
    "backends",
    "check_backend",
    "prediction_error",
    "tgo_loss",
]

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum class Reduction in csrc/launch.h


def _rows_are_dense(tensor: Tensor) -> bool:
    """Every row is one stretch of memory without gaps or overlap, and rows follow each other."""
    if tensor.is_contiguous():
        return True
    inner = sorted(
        (stride, size)
        for stride, size in zip(tensor.stride()[1:], tensor.shape[1:], strict=True)
        if size != 1
    )
    expected = 1
    for stride, size in [*inner, (tensor.stride(0), tensor.shape[0])]:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def share_layout(first: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """The tensors in one memory layout with dense rows: the first's if it has one, else contiguous.

    Nothing is copied when they share such a layout already (contiguous, channels_last, any dense
    permutation).
    """
    if not _rows_are_dense(first):
        first = first.contiguous()
    strides = first.stride()
    shared: list[Tensor | None] = [first]
    for tensor in others:
        if tensor is not None and tensor.stride() != strides:
            tensor = torch.empty_like(first).copy_(tensor)
        shared.append(tensor)
    return shared


class _TGOLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        policy_pred: Tensor,
        target: Tensor,
        reference_pred: Tensor | None,
        reference_error: Tensor | None,
        scores: Tensor,
        threshold: Tensor | None,
        timestep_weight: Tensor | None,
        numbers: tuple[float, float, float, float, float, int, int],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # `numbers` are the operator's other arguments: apply() looks at each of its own, which
        # takes time.
        loss, log_ratio, coefficient, policy_error, reference_error = torch.ops.tglo.tgo_loss(
            policy_pred,
            target,
            reference_pred,
            reference_error,
            scores,
            threshold,
            timestep_weight,
            *numbers,
        )
        ctx.save_for_backward(coefficient, policy_pred, target)
        ctx.draws = numbers[5]
        ctx.mark_non_differentiable(log_ratio, policy_error, reference_error)
        ctx.set_materialize_grads(False)
        return loss, log_ratio, policy_error, reference_error

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 8
        arguments = (grad_loss, *ctx.saved_tensors, ctx.draws)
        if torch.is_grad_enabled():  # create_graph=True
            return _TGOLossGradient.apply(*arguments), *(None,) * 7
        return torch.ops.tglo.tgo_loss_backward(*arguments), *(None,) * 7


class _TGOLossGradient(torch.autograd.Function):
    """The gradient as a node of its own: under create_graph a second derivative then raises instead
    of being 0.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        return torch.ops.tglo.tgo_loss_backward(*arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("the TGO kernels have no second derivative; backend='reference' has one")


def tgo_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    reference_pred: Tensor | None,
    reference_error: Tensor | None,
    beta: float,
    temperature: float,
    confidence: float,
    timestep_weight: Tensor | float,
    draws: int,
    reduction: str,
    backend: str,
) -> reference.TGOResult:
    """The reduced loss with its per-sample results."""
    if choose("tgo_loss", policy_pred, backend) == "reference":
        result = reference.tgo_loss(
            policy_pred,
            target,
            scores,
            threshold,
            reference_pred=reference_pred,
            reference_error=reference_error,
            beta=beta,
            temperature=temperature,
            confidence=confidence,
            timestep_weight=timestep_weight,
            draws=draws,
        )
        dtype = torch.promote_types(policy_pred.dtype, torch.float32)
        return result._replace(loss=reference.reduce_loss(result.loss, reduction).to(dtype))
    threshold_tensor = threshold if isinstance(threshold, Tensor) else None
    weight_tensor = timestep_weight if isinstance(timestep_weight, Tensor) else None
    return reference.TGOResult(
        *_TGOLoss.apply(
            *share_layout(policy_pred, target, reference_pred),
            reference_error,
            scores,
            threshold_tensor,
            weight_tensor,
            (
                0.0 if isinstance(threshold, Tensor) else threshold,
                1.0 if isinstance(timestep_weight, Tensor) else timestep_weight,
                beta,
                temperature,
                confidence,
                draws,
                _REDUCTIONS[reduction],
            ),
        )
    )


def prediction_error(prediction: Tensor, target: Tensor, *, backend: str) -> Tensor:
    """mean((prediction - target)^2) of every row, (rows,) float64, without autograd; arguments
    taken as checked.
    """
    if choose("prediction_error", prediction, backend) == "reference":
        return reference.prediction_error(prediction, target)
    with torch.no_grad():
        shared = share_layout(prediction, target)
        return torch.ops.tglo.prediction_error(*shared)  # type: ignore[no-any-return]
