"""The operators of masked tokens and their shapes.

`token_log_prob`, `tgo_token_loss` and `token_gradient` hold the whole loop over chunks
(tglo/ops/token_chunks.py), so that torch.compile sees one operator; `backend` names the row kernel inside.
The row kernels are operators that C++ and Triton implement, and tglo/ops/token_rows.py in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tglo.ops import token_chunks, token_rows
from tglo.ops.library import define, implement, operator
from tglo.ops.token_chunks import TokenHead

_HEAD = "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor mask, int? max_masked, "
_LOSS = (
    "Tensor? reference_log_prob, Tensor? reference_error, Tensor scores, Tensor? threshold, "
    "float threshold_value, float beta, float temperature, float confidence, int reduction"
)
_RESULTS = (
    "Tensor loss, Tensor log_ratio, Tensor coefficient, Tensor policy_error, Tensor reference_error"
)
_CHUNK = (
    "Tensor(a!) logits, Tensor? bias, Tensor targets, Tensor order, Tensor count, int first, {more}"
)
_ROWS = _CHUNK.format(more="Tensor(b!) log_prob, Tensor(c!) logsumexp")
SCHEMAS = {
    "token_log_prob": f"({_HEAD}str backend) -> (Tensor log_prob, Tensor logsumexp)",
    "tgo_token_loss": f"({_HEAD}str backend, {_LOSS}) -> (Tensor log_prob, Tensor logsumexp, {_RESULTS})",
    "token_gradient": f"({_HEAD}str backend, Tensor logsumexp, Tensor grad, bool[3] needs) -> "
    "(Tensor hidden, Tensor weight, Tensor bias)",
}
"""Arguments are taken as tglo/ops/tokens.py has prepared them: hidden and weight of one dtype, targets
int64, mask bool, scores and the like float32 or float64. `needs` says which gradients are wanted; the
others are empty.
"""
ROW_SCHEMAS = {
    "token_rows": f"({_ROWS}) -> ()",
    "token_rows_loss": f"({_ROWS}, Tensor mask, {_LOSS}) -> ({_RESULTS})",
    "token_rows_gradient": f"({_CHUNK.format(more='Tensor logsumexp, Tensor grad, ')}"
    "Tensor(b!) gradient) -> ()",
}
"""logits (R, V) float32; targets, log_prob, logsumexp, grad one for each position, order int64, count
0-d int64; all contiguous. What the operators do is said in tglo/ops/token_rows.py. gradient is float32, on
a GPU also bfloat16 or float16; it may be logits itself.
"""

for _name, _schema in ROW_SCHEMAS.items():
    define(_name, _schema, "tokens")


def row_kernel(name: str, backend: str) -> Callable[..., Any]:
    """`token_rows`, `token_rows_loss` or `token_rows_gradient` of a backend."""
    if backend == "reference":
        return getattr(token_rows, name)  # type: ignore[no-any-return]
    return operator(name, backend == "triton")  # type: ignore[no-any-return]


def _outside_autocast(head: TokenHead) -> Any:
    return torch.autocast(head.hidden.device.type, enabled=False)


def _token_log_prob(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, max_masked, backend = arguments
    head, rows = TokenHead(*tensors), row_kernel("token_rows", backend)
    with _outside_autocast(head):
        return token_chunks.forward(head, max_masked, rows, rows)[:2]


def _tgo_token_loss(*arguments: Any) -> tuple[Tensor, ...]:
    tensors, (max_masked, backend) = arguments[:5], arguments[5:7]
    head, run = TokenHead(*tensors), row_kernel("token_rows_loss", backend)
    others = [x.contiguous() if isinstance(x, Tensor) else x for x in (head.mask, *arguments[7:])]

    def last(*chunk: Any) -> Any:
        return run(*chunk, *others)

    with _outside_autocast(head):
        log_prob, logsumexp, result = token_chunks.forward(
            head, max_masked, row_kernel("token_rows", backend), last
        )
    return (log_prob, logsumexp, *result)


def _token_gradient(*arguments: Any) -> tuple[Tensor, ...]:
    tensors, (max_masked, backend) = arguments[:5], arguments[5:7]
    head, run = TokenHead(*tensors), row_kernel("token_rows_gradient", backend)
    logsumexp, grad, needs = arguments[7:]
    with _outside_autocast(head):
        found = token_chunks.backward(head, max_masked, logsumexp, grad, needs, run)
    return tuple(head.hidden.new_empty(0) if one is None else one for one in found)


def _rows_fake(hidden: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    log_prob = hidden.new_empty(hidden.shape[:2], dtype=dtype)
    return log_prob, torch.empty_like(log_prob)


def _loss_fake(hidden: Tensor, *others: Any) -> tuple[Tensor, ...]:
    log_prob, logsumexp = _rows_fake(hidden)
    batch, reduction = hidden.shape[0], others[-1]
    loss = log_prob.new_empty((batch,) if reduction == 0 else ())
    wide = [hidden.new_empty(batch, dtype=torch.float64) for _ in range(4)]
    return (log_prob, logsumexp, loss, *wide)


def _gradient_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, ...]:
    needs = others[-1]
    like = (hidden, weight, bias)
    return tuple(
        x.new_empty(x.shape) if x is not None and need else hidden.new_empty(0)
        for x, need in zip(like, needs, strict=True)
    )


_IMPLEMENTATIONS = {
    "token_log_prob": (_token_log_prob, _rows_fake),
    "tgo_token_loss": (_tgo_token_loss, _loss_fake),
    "token_gradient": (_token_gradient, _gradient_fake),
}
for _name, (_run, _fake) in _IMPLEMENTATIONS.items():
    implement(_name, SCHEMAS[_name], _run, _fake)
