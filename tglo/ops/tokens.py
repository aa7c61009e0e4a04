"""The operators of masked tokens with their shapes and gradients: what `tglo.losses.tokens` calls.

`token_log_prob` and `token_gradient` hold the whole loop over chunks (tglo/ops/token_chunks.py), so that
torch.compile sees one operator; `backend` names the row kernel inside. The row kernels are operators that
C++ and Triton implement, and tglo/ops/token_rows.py in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tglo.ops import token_chunks, token_rows
from tglo.ops.choice import choose
from tglo.ops.library import define, implement, operator
from tglo.ops.once import gradient_once
from tglo.ops.token_chunks import TokenInputs

_INPUTS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor mask, int? max_masked, "
    "str backend"
)
_CHUNK = "Tensor(a!) logits, Tensor? bias, Tensor targets, Tensor order, Tensor count, int first"
SCHEMAS = {
    "token_log_prob": f"({_INPUTS}) -> (Tensor log_prob, Tensor logsumexp)",
    "token_gradient": f"({_INPUTS}, Tensor logsumexp, Tensor grad, bool[3] needs) -> "
    "(Tensor hidden, Tensor weight, Tensor bias)",
}
"""Arguments are taken as `tglo.losses.tokens` has checked them: hidden and weight of one dtype, targets
int64, mask bool. `needs` says which gradients are wanted; the others are empty.
"""
ROW_SCHEMAS = {
    "token_rows": f"({_CHUNK}, Tensor(b!) log_prob, Tensor(c!) logsumexp) -> ()",
    "token_rows_gradient": f"({_CHUNK}, Tensor logsumexp, Tensor grad, Tensor(b!) gradient) -> ()",
}
"""logits (R, V) float32; targets, log_prob, logsumexp, grad one for each position, order int64, count
0-d int64; all contiguous. What the operators do is said in tglo/ops/token_rows.py. gradient is float32, on
a GPU also bfloat16 or float16; it may be logits itself.
"""

for _name, _schema in ROW_SCHEMAS.items():
    define(_name, _schema, "tokens")


def row_kernel(name: str, backend: str) -> Callable[..., Any]:
    """`token_rows` or `token_rows_gradient` of a backend."""
    if backend == "reference":
        return getattr(token_rows, name)  # type: ignore[no-any-return]
    return operator(name, backend == "triton")  # type: ignore[no-any-return]


def _outside_autocast(hidden: Tensor) -> Any:
    return torch.autocast(hidden.device.type, enabled=False)


def _run_log_prob(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, max_masked, backend = arguments
    inputs = TokenInputs(*tensors)
    with _outside_autocast(inputs.hidden):
        return token_chunks.forward(inputs, max_masked, row_kernel("token_rows", backend))


def _run_gradient(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, max_masked, backend, logsumexp, grad, needs = arguments
    inputs, rows = TokenInputs(*tensors), row_kernel("token_rows_gradient", backend)
    with _outside_autocast(inputs.hidden):
        return token_chunks.backward(inputs, max_masked, logsumexp, grad, needs, rows)


def _log_prob_fake(hidden: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    log_prob = hidden.new_empty(hidden.shape[:2], dtype=dtype)
    return log_prob, torch.empty_like(log_prob)


def _gradient_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, ...]:
    like = hidden, weight, weight if bias is None else bias
    return tuple(
        x.new_empty(x.shape if need else 0) for x, need in zip(like, others[-1], strict=True)
    )


implement("token_log_prob", SCHEMAS["token_log_prob"], _run_log_prob, _log_prob_fake)
implement("token_gradient", SCHEMAS["token_gradient"], _run_gradient, _gradient_fake)

_REFUSAL = "the token operators have no second derivative; tglo.reference.token_log_prob has one"


class _Tied(torch.autograd.Function):
    """Ties the log-probabilities that an operator has computed to the inputs they came from.

    (hidden, weight, bias, log_prob, logsumexp, targets, mask, (max_masked, backend)) -> log_prob (B, N).
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden, weight, bias, log_prob, logsumexp, targets, mask, ctx.settings = arguments
        ctx.save_for_backward(hidden, weight, bias, targets, mask, logsumexp)
        return log_prob.view_as(log_prob)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *tensors, logsumexp = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        arguments = *tensors, *ctx.settings, logsumexp, grad, needs
        found = gradient_once(operator("token_gradient"), _REFUSAL, *arguments)
        return *(x if need else None for x, need in zip(found, needs, strict=True)), *(None,) * 5


def token_log_prob(inputs: TokenInputs, max_masked: int | None, backend: str) -> Tensor:
    """Compute log p of the true token at masked positions, 0 elsewhere: (B, N), differentiable."""
    settings = max_masked, choose("token_log_prob", inputs.hidden, backend)
    hidden, weight, bias, targets, mask = inputs
    constants = (None if x is None else x.detach() for x in (hidden, weight, bias))
    log_prob, logsumexp = operator("token_log_prob")(*constants, targets, mask, *settings)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs[:3]):
        return _Tied.apply(hidden, weight, bias, log_prob, logsumexp, targets, mask, settings)  # type: ignore[no-any-return]
    return log_prob  # type: ignore[no-any-return]
