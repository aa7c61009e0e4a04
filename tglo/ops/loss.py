"""The operators with autograd: what `tglo.losses` calls.

The reference backend is plain PyTorch with PyTorch's autograd; the kernels are wrapped in an
autograd.Function. Arguments are taken as `tglo.losses` has checked them: predictions of one dtype;
scores, thresholds, cached errors and weights float32 or float64, computed with in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tglo import reference
from tglo.ops.choice import choose
from tglo.ops.dtypes import wide
from tglo.ops.layout import memory_mask, share_layout
from tglo.ops.library import define, operator

_LOSS = (
    "Tensor policy_pred, Tensor target, Tensor? reference_pred, Tensor? reference_error, "
    "Tensor scores, Tensor? threshold, Tensor? timestep_weight, Tensor? mask, {more}"
    "int mask_inner, float threshold_value, float timestep_weight_value, float beta, "
    "float temperature, float confidence, int draws, int reduction"
)
_SCHEMAS = {
    "tgo_loss": f"({_LOSS.format(more='')}) -> (Tensor loss, Tensor log_ratio, "
    "Tensor coefficient, Tensor policy_error, Tensor reference_error)",
    "tgo_loss_backward": "(Tensor grad_loss, Tensor coefficient, Tensor policy_pred, "
    "Tensor target, Tensor? mask, int mask_inner, int draws) -> Tensor",
    "tgo_loss_and_grad": f"({_LOSS.format(more='Tensor? loss_scale, float loss_scale_value, ')}) "
    "-> (Tensor loss, Tensor log_ratio, Tensor gradient, Tensor policy_error, "
    "Tensor reference_error)",
    "prediction_error": "(Tensor prediction, Tensor target, Tensor? mask, int mask_inner) "
    "-> Tensor",
}
"""Arguments are taken as `LossArguments.for_kernel` prepares them.

Predictions: (rows, ...) of one dtype and one memory layout with dense rows. Vectors of scores,
thresholds, weights and cached errors: float32 or float64, thresholds, weights and loss_scale also as
one number without dimensions; computed with in float64. mask: (rows, period) or (1, period) float32; element
i of a row in memory order has weight mask[row, (i // mask_inner) % period].
"""

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum class Reduction in csrc/launch.h


class LossArguments(NamedTuple):
    """The arguments of `tglo.tgo_loss`, checked; vectors are float32 or float64."""

    policy_pred: Tensor
    target: Tensor
    scores: Tensor
    threshold: Tensor | float
    reference_pred: Tensor | None
    reference_error: Tensor | None
    beta: float
    temperature: float
    confidence: float
    timestep_weight: Tensor | float
    mask: Tensor | None
    draws: int
    reduction: str

    def by_reference(self) -> reference.TGOResult:
        """The formulas in plain PyTorch, differentiable; the loss reduced."""
        error = self.reference_error
        result = reference.tgo_loss(
            self.policy_pred,
            self.target,
            self.scores.to(torch.float64),
            wide(self.threshold),
            reference_pred=self.reference_pred,
            reference_error=None if error is None else error.to(torch.float64),
            beta=self.beta,
            temperature=self.temperature,
            confidence=self.confidence,
            timestep_weight=wide(self.timestep_weight),
            mask=self.mask,
            draws=self.draws,
        )
        dtype = torch.promote_types(self.policy_pred.dtype, torch.float32)
        return result._replace(loss=reference.reduce_loss(result.loss, self.reduction).to(dtype))

    def gradient_by_reference(
        self, loss_scale: Tensor | float
    ) -> tuple[Tensor, reference.TGOResult]:
        """loss_scale * d loss / d policy_pred by its formula, and the loss."""
        result = self.by_reference()
        batch, mask = self.scores.shape[0], self.mask
        coefficient = reference.prediction_coefficient(
            result.log_ratio,
            self.scores,
            wide(self.threshold),
            _elements(self.policy_pred, mask),
            beta=self.beta,
            temperature=self.temperature,
            confidence=self.confidence,
            timestep_weight=wide(self.timestep_weight),
            draws=self.draws,
        )
        share = 1.0 / max(batch, 1) if self.reduction == "mean" else 1.0
        coefficient = coefficient * share * loss_scale
        gradient = reference.prediction_gradient(self.policy_pred, self.target, coefficient, mask)
        return gradient, result

    def for_kernel(self) -> tuple[tuple[Tensor | None, ...], tuple[float, ...]]:
        """The operator's tensors and numbers (tglo/ops/library.py)."""
        threshold, weight = self.threshold, self.timestep_weight
        policy, target, other = share_layout(self.policy_pred, self.target, self.reference_pred)
        mask, inner = (None, 1) if self.mask is None else memory_mask(self.mask, policy)
        tensors = (
            policy,
            target,
            other,
            self.reference_error,
            self.scores,
            threshold if isinstance(threshold, Tensor) else None,
            weight if isinstance(weight, Tensor) else None,
            mask,
        )
        numbers = (
            inner,
            0.0 if isinstance(threshold, Tensor) else threshold,
            1.0 if isinstance(weight, Tensor) else weight,
            self.beta,
            self.temperature,
            self.confidence,
            self.draws,
            _REDUCTIONS[self.reduction],
        )
        return tensors, numbers


class _Tied(torch.autograd.Function):
    """Ties a value that an operator has computed to the prediction it came from.

    (policy_pred, value, coefficient, target, mask, (triton, mask_inner, draws)) -> value, with
    d value_b / d p = coefficient m (p - y). value is (rows / draws,) or, if it is their sum, 0-d;
    coefficient (rows,). The operator is called outside: what apply() does for each argument and
    result takes time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        policy_pred: Tensor,
        value: Tensor,
        coefficient: Tensor,
        target: Tensor,
        mask: Tensor | None,
        settings: tuple[bool, int, int],
    ) -> Tensor:
        ctx.save_for_backward(coefficient, policy_pred, target, mask)
        ctx.settings = settings
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        arguments = (*ctx.settings, grad_value, *ctx.saved_tensors)
        # with create_graph=True the gradient becomes a node of its own
        run = _Gradient.apply if torch.is_grad_enabled() else _gradient
        return run(*arguments), None, None, None, None, None


def _gradient(triton: bool, mask_inner: int, draws: int, *tensors: Tensor | None) -> Tensor:
    run = operator("tgo_loss_backward", triton)
    return run(*tensors, mask_inner, draws)  # type: ignore[no-any-return]


class _Gradient(torch.autograd.Function):
    """The gradient as a node of its own: under create_graph a second derivative then raises instead
    of being 0.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        return _gradient(*arguments)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("the TGO kernels have no second derivative; backend='reference' has one")


def tgo_loss(arguments: LossArguments, backend: str) -> reference.TGOResult:
    """The reduced loss with its per-sample results."""
    chosen = choose("tgo_loss", arguments.policy_pred, backend)
    if chosen == "reference":
        return arguments.by_reference()
    tensors, numbers = arguments.for_kernel()
    triton = chosen == "triton"
    policy, target, *others, mask = tensors
    assert policy is not None
    run = operator("tgo_loss", triton)
    loss, log_ratio, coefficient, *errors = run(policy.detach(), target, *others, mask, *numbers)
    if policy.requires_grad and torch.is_grad_enabled():
        settings = triton, numbers[0], arguments.draws
        loss = _Tied.apply(policy, loss, coefficient, target, mask, settings)
    return reference.TGOResult(loss, log_ratio, *errors)


def tgo_loss_and_grad(
    arguments: LossArguments, loss_scale: Tensor | float, backend: str
) -> tuple[Tensor, reference.TGOResult]:
    """(loss_scale * d loss / d policy_pred, the reduced loss with its per-sample results)."""
    policy = arguments.policy_pred
    chosen = choose("tgo_loss_and_grad", policy, backend)
    if chosen == "reference":
        return arguments._replace(policy_pred=policy.detach()).gradient_by_reference(loss_scale)
    tensors, numbers = arguments._replace(policy_pred=policy.detach()).for_kernel()
    scaled = isinstance(loss_scale, Tensor)
    scale = (loss_scale, 1.0) if scaled else (None, loss_scale)
    run = operator("tgo_loss_and_grad", chosen == "triton")
    loss, log_ratio, gradient, *errors = run(*tensors, *scale, *numbers)
    return gradient, reference.TGOResult(loss, log_ratio, *errors)


def prediction_error(
    prediction: Tensor, target: Tensor, mask: Tensor | None, *, backend: str
) -> Tensor:
    """mean((prediction - target)^2) of every row, (rows,) float64, without autograd; arguments
    taken as checked.
    """
    chosen = choose("prediction_error", prediction, backend)
    with torch.no_grad():
        if chosen == "reference":
            return reference.prediction_error(prediction, target, mask)
        prediction, shared = share_layout(prediction, target)  # type: ignore[assignment]
        weights, inner = (None, 1) if mask is None else memory_mask(mask, prediction)
        run = operator("prediction_error", chosen == "triton")
        return run(prediction, shared, weights, inner)  # type: ignore[no-any-return]


def log_ratio(arguments: LossArguments, backend: str) -> reference.TGOResult:
    """log_ratio is ell (B,) float64 with a gradient; of the arguments, beta must be 1 and the
    reduction "none". The loss means nothing.
    """
    chosen = choose("tgo_loss", arguments.policy_pred, backend)
    if chosen == "reference":
        return arguments.by_reference()
    tensors, numbers = arguments.for_kernel()
    triton, mask_inner, draws = chosen == "triton", numbers[0], arguments.draws
    policy, target, *others, mask = tensors
    assert policy is not None
    run = operator("tgo_loss", triton)
    loss, ratio, _, *errors = run(policy.detach(), target, *others, mask, *numbers)
    if policy.requires_grad and torch.is_grad_enabled():
        per_row = reference.log_ratio_coefficient(
            _elements(policy, arguments.mask),
            temperature=arguments.temperature,
            timestep_weight=wide(arguments.timestep_weight),
            draws=draws,
        )
        settings = triton, mask_inner, draws
        ratio = _Tied.apply(policy, ratio, _per_row(per_row, policy), target, mask, settings)
    return reference.TGOResult(loss, ratio, *errors)


def policy_error(
    policy_pred: Tensor, target: Tensor, mask: Tensor | None, *, backend: str
) -> Tensor:
    """`prediction_error` with a gradient to policy_pred."""
    chosen = choose("prediction_error", policy_pred, backend)
    if chosen == "reference":
        return reference.prediction_error(policy_pred, target, mask)
    policy, shared, _ = share_layout(policy_pred, target, None)
    weights, inner = (None, 1) if mask is None else memory_mask(mask, policy)
    triton = chosen == "triton"
    error = operator("prediction_error", triton)(policy.detach(), shared, weights, inner)
    if policy.requires_grad and torch.is_grad_enabled():
        per_row = _per_row(reference.error_coefficient(_elements(policy, mask)), policy)
        error = _Tied.apply(policy, error, per_row, shared, weights, (triton, inner, 1))
    return error  # type: ignore[no-any-return]


def _elements(prediction: Tensor, mask: Tensor | None) -> Tensor | float:
    """What a row's mean divides by: n, or sum m, (rows,) float64."""
    if mask is None:
        return prediction.shape[1:].numel()
    return reference.row_weight(prediction, mask)


def _per_row(coefficient: Tensor, prediction: Tensor) -> Tensor:
    """(rows,) float64 on the prediction's device, of one number or a vector."""
    return prediction.new_zeros(prediction.shape[:1], dtype=torch.float64) + coefficient


def _loss_and_wide(
    policy_pred: Tensor, draws: int, reduction: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, a vector of one float64 per sample, and one of one per row."""
    rows = policy_pred.shape[0]
    batch = rows // draws
    loss = policy_pred.new_empty((batch,) if reduction == 0 else (), dtype=torch.float32)
    samples = policy_pred.new_empty((batch,), dtype=torch.float64)
    return loss, samples, policy_pred.new_empty((rows,), dtype=torch.float64)


def _tgo_loss_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    loss, samples, rows = _loss_and_wide(policy_pred, *others[-2:])
    return loss, samples, rows, torch.empty_like(rows), torch.empty_like(rows)


def _tgo_loss_and_grad_fake(policy_pred: Tensor, *others: Any) -> tuple[Tensor, ...]:
    loss, samples, rows = _loss_and_wide(policy_pred, *others[-2:])
    return loss, samples, torch.empty_like(policy_pred), rows, torch.empty_like(rows)


def _tgo_loss_backward_fake(
    grad_loss: Tensor, coefficient: Tensor, policy_pred: Tensor, *others: Any
) -> Tensor:
    return torch.empty_like(policy_pred)


def _prediction_error_fake(prediction: Tensor, *others: Any) -> Tensor:
    return prediction.new_empty((prediction.shape[0],), dtype=torch.float64)


_FAKES: dict[str, Callable[..., Any]] = {
    "tgo_loss": _tgo_loss_fake,
    "tgo_loss_backward": _tgo_loss_backward_fake,
    "tgo_loss_and_grad": _tgo_loss_and_grad_fake,
    "prediction_error": _prediction_error_fake,
}
for _name, _schema in _SCHEMAS.items():
    define(_name, _schema, "loss", _FAKES[_name])
