"""Operators and the one place that chooses a backend.

The operators exist with or without the compiled extension: schemas and fakes are defined here, and tglo/_C.so adds CPU
implementations to them. `backend_for` says what runs; what was chosen is logged once per operator, device and dtype.
The reference backend is plain PyTorch with PyTorch's autograd; the others are wrapped in an autograd.Function.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

from tglo import extension, reference

logger = logging.getLogger("tglo")

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")
OPERATORS = ("tgo_loss", "prediction_error")
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum class Reduction in csrc/launch.h

_library = torch.library.Library("tglo", "DEF")
_library.define(
    "tgo_loss(Tensor policy_pred, Tensor target, Tensor? reference_pred, Tensor? reference_error, Tensor scores, "
    "Tensor? threshold, Tensor? timestep_weight, float threshold_value, float timestep_weight_value, float beta, "
    "float temperature, float confidence, int draws, int reduction) -> (Tensor loss, Tensor log_ratio, "
    "Tensor coefficient, Tensor policy_error, Tensor reference_error)"
)
_library.define(
    "tgo_loss_backward(Tensor grad_loss, Tensor coefficient, Tensor policy_pred, Tensor target, int draws) -> Tensor"
)
_library.define("prediction_error(Tensor prediction, Tensor target) -> Tensor")
_library.define("_extension_version() -> int")
_library.define("_cpu_instructions() -> int")


@torch.library.register_fake("tglo::tgo_loss")
def _tgo_loss_fake(
    policy_pred: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    draws, reduction = others[-2:]
    rows = policy_pred.shape[0]
    batch = rows // draws
    loss = policy_pred.new_empty((batch,) if reduction == 0 else (), dtype=torch.float32)

    def wide(length: int) -> Tensor:
        return policy_pred.new_empty((length,), dtype=torch.float64)

    return loss, wide(batch), wide(rows), wide(rows), wide(rows)


@torch.library.register_fake("tglo::tgo_loss_backward")
def _tgo_loss_backward_fake(
    grad_loss: Tensor, coefficient: Tensor, policy_pred: Tensor, target: Tensor, draws: int
) -> Tensor:
    return torch.empty_like(policy_pred)


@torch.library.register_fake("tglo::prediction_error")
def _prediction_error_fake(prediction: Tensor, target: Tensor) -> Tensor:
    return prediction.new_empty((prediction.shape[0],), dtype=torch.float64)


EXTENSION = extension.load()

_forced = os.environ.get("TGLO_BACKEND", "auto")
_announced: set[tuple[str, str, torch.dtype, str]] = set()


def check_backend(name: str) -> None:
    """ValueError for a name that is no backend's."""
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; use one of {', '.join(map(repr, BACKENDS))}")


def backends() -> dict[str, str]:
    """Every backend with why it cannot run here, or "" if it can."""
    return {
        "cuda": "this release has no CUDA kernels; use backend='auto'",
        "triton": "this release has no Triton kernels; use backend='auto'",
        "cpu": "" if EXTENSION.loaded else f"{EXTENSION.problem}; {EXTENSION.remedy}",
        "reference": "",
    }


def _refusal(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """Why this backend cannot take such tensors, or ""."""
    if backend == "reference":
        return ""
    missing = backends()[backend]
    if missing:
        return missing
    wanted = "cpu" if backend == "cpu" else "cuda"
    if device_type != wanted:
        return f"it takes {wanted} tensors, these are on {device_type}; move them or use backend='auto'"
    if dtype not in KERNEL_DTYPES:
        return f"it takes bfloat16, float16 and float32, these are {dtype}; use backend='reference'"
    return ""


def backend_for(
    op: str, device: torch.device | str, dtype: torch.dtype, requested: str = "auto"
) -> str:
    """The backend that runs operator `op` on such tensors.

    `requested` other than "auto" is insisted on: RuntimeError with the remedy if it cannot. The environment variable
    TGLO_BACKEND, read when this module is imported, takes the place of "auto". ValueError for unknown names.
    """
    if op not in OPERATORS:
        raise ValueError(f"operator is {op!r}; use one of {', '.join(map(repr, OPERATORS))}")
    check_backend(requested)
    device_type = device if isinstance(device, str) else device.type
    if requested == "auto":
        check_backend(_forced)
        requested = _forced
    if requested != "auto":
        refusal = _refusal(requested, device_type, dtype)
        if refusal:
            raise RuntimeError(f"backend {requested!r} cannot run {op}: {refusal}")
        return requested
    for name in ("cuda", "triton", "cpu"):
        if not _refusal(name, device_type, dtype):
            return name
    return "reference"


def _choose(op: str, tensor: Tensor, requested: str) -> str:
    """backend_for, announced once. A missing extension is a warning: it costs speed that the user did not give up."""
    chosen = backend_for(op, tensor.device, tensor.dtype, requested)
    if torch.compiler.is_compiling():
        return chosen
    key = (op, tensor.device.type, tensor.dtype, chosen)
    if key not in _announced:
        _announced.add(key)
        text = f"{op} on {tensor.device.type} tensors of {tensor.dtype}: backend {chosen}"
        missed = (
            chosen == "reference"
            and requested == _forced == "auto"
            and tensor.device.type == "cpu"
            and tensor.dtype in KERNEL_DTYPES
        )
        if missed:
            logger.warning("%s, because %s; %s", text, EXTENSION.problem, EXTENSION.remedy)
        else:
            logger.info("%s", text)
    return chosen


def _rows_are_dense(tensor: Tensor) -> bool:
    """Every row is one stretch of memory without gaps or overlap, and rows follow each other."""
    if tensor.is_contiguous():
        return True
    inner = sorted(
        (stride, size) for stride, size in zip(tensor.stride()[1:], tensor.shape[1:], strict=True) if size != 1
    )
    expected = 1
    for stride, size in [*inner, (tensor.stride(0), tensor.shape[0])]:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def share_layout(first: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """The tensors in one memory layout with dense rows: the first's if it has one, else contiguous.

    Nothing is copied when they share such a layout already (contiguous, channels_last, any dense permutation).
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
        threshold_value: float,
        timestep_weight_value: float,
        beta: float,
        temperature: float,
        confidence: float,
        draws: int,
        reduction: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loss, log_ratio, coefficient, policy_error, reference_error = torch.ops.tglo.tgo_loss(
            policy_pred,
            target,
            reference_pred,
            reference_error,
            scores,
            threshold,
            timestep_weight,
            threshold_value,
            timestep_weight_value,
            beta,
            temperature,
            confidence,
            draws,
            reduction,
        )
        ctx.save_for_backward(coefficient, policy_pred, target)
        ctx.draws = draws
        ctx.mark_non_differentiable(log_ratio, policy_error, reference_error)
        return loss, log_ratio, policy_error, reference_error

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return _TGOLossGradient.apply(grad_loss, *ctx.saved_tensors, ctx.draws), *(None,) * 13


class _TGOLossGradient(torch.autograd.Function):
    """The gradient as a node of its own: under create_graph a second derivative then raises instead of being 0."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        return torch.ops.tglo.tgo_loss_backward(*arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            "the TGO kernels have no second derivative; pass backend='reference' to tgo_loss for one"
        )


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
    """The reduced loss with its per-sample results.

    Arguments are taken as `tglo.losses.tgo_loss` has checked them: predictions of one dtype; scores, thresholds, cached
    errors and weights float64.
    """
    if _choose("tgo_loss", policy_pred, backend) == "reference":
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
            0.0 if isinstance(threshold, Tensor) else threshold,
            1.0 if isinstance(timestep_weight, Tensor) else timestep_weight,
            beta,
            temperature,
            confidence,
            draws,
            _REDUCTIONS[reduction],
        )
    )


def prediction_error(prediction: Tensor, target: Tensor, *, backend: str) -> Tensor:
    """mean((prediction - target)^2) of every row, (rows,) float64, without autograd; arguments taken as checked."""
    if _choose("prediction_error", prediction, backend) == "reference":
        return reference.prediction_error(prediction, target)
    with torch.no_grad():
        shared = share_layout(prediction, target)
        return torch.ops.tglo.prediction_error(*shared)  # type: ignore[no-any-return]
