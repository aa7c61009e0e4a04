"""The operators of masked tokens with autograd: what `tglo.losses.tokens` calls."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tglo import reference
from tglo.ops import token_schemas  # noqa: F401  (defines the operators)
from tglo.ops.choice import choose
from tglo.ops.library import operator
from tglo.ops.token_chunks import TokenHead

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum class Reduction in csrc/launch.h


class TokenReference(NamedTuple):
    """The reference: its log-probabilities (B, N) or its error (B,); one of them is None."""

    log_prob: Tensor | None
    error: Tensor | None


class _Tied(torch.autograd.Function):
    """Ties a value that an operator has computed to the head it came from.

    (hidden, weight, bias, value, logsumexp, factor, targets, mask, settings) -> value. value is the
    log-probabilities (B, N) and factor None, or value is (B,) or 0-d and factor (B,): then
    d value_b / d log_prob = factor_b at every masked position.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        value: Tensor,
        logsumexp: Tensor,
        factor: Tensor | None,
        targets: Tensor,
        mask: Tensor,
        settings: tuple[int | None, str],
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets, mask, logsumexp, factor)
        ctx.settings = settings
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *tensors, logsumexp, factor = ctx.saved_tensors
        grad = grad_value
        if factor is not None:
            grad = (grad_value * factor)[:, None].expand_as(logsumexp)
        arguments = *tensors, *ctx.settings, logsumexp, grad.to(logsumexp.dtype)
        # with create_graph=True the gradients become nodes of their own
        run = _Gradient.apply if torch.is_grad_enabled() else _gradient
        found = run(*arguments, list(ctx.needs_input_grad[:3]))
        wanted = zip(found, ctx.needs_input_grad, strict=False)
        return *(one if need else None for one, need in wanted), *(None,) * 6


def _gradient(*arguments: Any) -> tuple[Tensor, ...]:
    return operator("token_gradient")(*arguments)  # type: ignore[no-any-return]


class _Gradient(torch.autograd.Function):
    """The gradients as a node of their own: under create_graph a second derivative then raises."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        return _gradient(*arguments)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            "the token operators have no second derivative; tglo.reference.token_log_prob has one"
        )


def _tie(
    head: TokenHead,
    value: Tensor,
    logsumexp: Tensor,
    factor: Tensor | None,
    settings: tuple[int | None, str],
) -> Tensor:
    hidden, weight, bias, targets, mask = head
    inputs = hidden, weight, bias
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _Tied.apply(*inputs, value, logsumexp, factor, targets, mask, settings)  # type: ignore[no-any-return]
    return value


def _detached(head: TokenHead) -> TokenHead:
    return TokenHead(*(None if x is None else x.detach() for x in head))  # type: ignore[arg-type]


def token_log_prob(head: TokenHead, max_masked: int | None, backend: str) -> Tensor:
    """log p of the true token at masked positions, 0 elsewhere: (B, N), differentiable."""
    settings = max_masked, choose("token_log_prob", head.hidden, backend)
    log_prob, logsumexp = operator("token_log_prob")(*_detached(head), *settings)
    return _tie(head, log_prob, logsumexp, None, settings)


def token_error(head: TokenHead, max_masked: int | None, backend: str) -> Tensor:
    """Minus the mean of it over each sample's mask, (B,) float64: by the sums of the loss, so that
    equal inputs give equal bits.
    """
    settings = max_masked, choose("tgo_token_loss", head.hidden, backend)
    zeros = head.hidden.new_zeros(len(head.mask), dtype=torch.float64)
    numbers = 0.0, 1.0, 1.0, 0.0, _REDUCTIONS["sum"]
    results = operator("tgo_token_loss")(
        *_detached(head), *settings, None, zeros, zeros, None, *numbers
    )
    return _tie(head, results[5], results[1], -reference.token_coefficient(head.mask), settings)


def tgo_token_loss(
    head: TokenHead,
    other: TokenReference,
    scores: Tensor,
    threshold: Tensor | float,
    beta: float,
    temperature: float,
    confidence: float,
    reduction: str,
    max_masked: int | None,
    backend: str,
) -> reference.TGOResult:
    """The reduced loss with its per-sample results."""
    settings = max_masked, choose("tgo_token_loss", head.hidden, backend)
    limit = (threshold, 0.0) if isinstance(threshold, Tensor) else (None, threshold)
    numbers = beta, temperature, confidence, _REDUCTIONS[reduction]
    _, logsumexp, loss, ratio, coefficient, *errors = operator("tgo_token_loss")(
        *_detached(head), *settings, *other, scores, *limit, *numbers
    )
    return reference.TGOResult(_tie(head, loss, logsumexp, coefficient, settings), ratio, *errors)
