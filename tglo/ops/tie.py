"""Ties a value that an operator has computed to the prediction that it came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo.ops.library import operator
from tglo.ops.once import gradient_once

_REFUSAL = "the TGO kernels have no second derivative; backend='reference' has one"

# What the last backward of a loss on the CPU was given: 1, 1 / accumulation steps, a scaler's scale. The next
# one is likely to be given the same. It decides about time alone; no result depends on it.
_factor = 1.0


def expected_factor(policy_pred: Tensor) -> float:
    """Return the gradient that a loss of this prediction will probably be given by its backward."""
    return _factor if policy_pred.is_cpu else 1.0  # to know a GPU's would take waiting for it


def gradient_comes_first(policy_pred: Tensor, backend: str) -> bool:
    """Return whether the forward of a reduced loss should compute the gradient in the same pass, so that
    each prediction is read once. The backward hands it on as it is if it is given `expected_factor`.

    Not in float16 on a GPU, where a gradient scaler sees to it that the factor never is 1; not for
    Triton, whose `tgo_loss_and_grad` is two passes; and not where the gradient would escape
    what watches or moves saved tensors: torch.compile, torch.func, dispatch modes, hooks (save_on_cpu,
    checkpoint).
    """
    return (
        policy_pred.requires_grad
        and torch.is_grad_enabled()
        and type(policy_pred) is Tensor
        and (backend == "cpu" or (backend == "cuda" and policy_pred.dtype != torch.float16))
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


class _Tied(torch.autograd.Function):
    """(policy_pred, (value, coefficient, target, mask, (triton, mask_inner, draws))) -> value, with
    d value_b / d p = coefficient m (p - y). value is (rows / draws,) or, if it is their sum, 0-d;
    coefficient (rows,). Of a sum, known may go on with its gradient times `scale`, and that.

    The operator is called outside, and all but the prediction comes as one: what apply() does for
    each argument and result takes time.
    """

    @staticmethod
    def forward(ctx: Any, policy_pred: Tensor, known: tuple[Any, ...]) -> Tensor:
        value, coefficient, target, mask, ctx.settings, *ctx.ready = known
        ctx.captured = bool(ctx.ready) and _captured(policy_pred)
        ctx.save_for_backward(coefficient, policy_pred, target, mask)
        return value  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        triton, *numbers = ctx.settings
        saved = ctx.saved_tensors
        if ctx.ready:
            # Now it is the receiver's, who may change it: a second backward computes it again.
            (gradient, scale), ctx.ready = ctx.ready, ()
            same = ctx.captured == _captured(grad_value)
            if same and not (torch.is_grad_enabled() or _traced(grad_value)):
                return _rescaled(gradient, scale, grad_value, saved, numbers), None
        run = operator("tgo_loss_backward", triton)
        return gradient_once(run, _REFUSAL, grad_value, *saved, *numbers), None


def _captured(tensor: Tensor) -> bool:
    """Return whether a CUDA graph records what is launched now. A graph with the backward alone has to
    compute the gradient at each replay, and one with the forward alone may not have its memory handed out:
    its next replay writes there.
    """
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _traced(tensor: Tensor) -> bool:
    """Return whether the tensor may stand for others: under compiled autograd, torch.func and
    is_grads_batched.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _rescaled(
    gradient: Tensor, scale: float, factor: Tensor, saved: tuple[Any, ...], numbers: list[int]
) -> Tensor:
    """Return a gradient that was computed for the factor `scale`, in place for the one that came. On a
    GPU the host does not look at it.
    """
    if gradient.is_cpu:
        global _factor
        _factor = factor.item()
        if _factor == scale:
            return gradient
    operator("tgo_loss_rescale_")(gradient, scale, factor, *saved, *numbers)
    return gradient


def tie(policy_pred: Tensor, *known: Any) -> Tensor:
    """Return the value, tied to the policy's prediction where a gradient is asked for."""
    if policy_pred.requires_grad and torch.is_grad_enabled():
        return _Tied.apply(policy_pred, known)  # type: ignore[no-any-return]
    return known[0]  # type: ignore[no-any-return]
