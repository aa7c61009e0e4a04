"""The calls of the row kernels over logits that are tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tglo.ops.library import operator
from tglo.ops.self_check.figures import Figure, Form, Outputs, worst

_ROWS, _REAL, _FIRST, _POSITIONS = 5, 4, 1, 8  # row 4 stands for no position
_UNTOUCHED = 7.0
_ROUNDINGS = 2.0**-20


@dataclass(frozen=True)
class _Case:
    name: str
    vocabulary: int
    bias: bool
    dtype: torch.dtype  # of the gradient

    def inputs(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Make logits (R, V), bias, tokens, order and count."""
        random = torch.Generator("cpu").manual_seed(self.vocabulary)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=random, device="cpu", dtype=torch.float32)

        logits = 3.0 * normal(_ROWS, self.vocabulary)
        logits[_REAL:] = torch.nan
        bias = normal(self.vocabulary) if self.bias else None
        tokens = torch.arange(_POSITIONS, device="cpu") * (self.vocabulary // _POSITIONS)
        order = torch.randperm(_POSITIONS, generator=random, device="cpu")
        count = torch.tensor(_FIRST + _REAL, device="cpu")
        return logits, bias, tokens, order, count


def forms() -> Iterator[Form]:
    """Make every form of the row kernels."""
    for case, brief in (
        (_Case("bf16 gradient", 5000, True, torch.bfloat16), True),
        (_Case("fp16 gradient, odd vocabulary", 2051, False, torch.float16), False),
        (_Case("fp32 gradient", 4096, False, torch.float32), True),
        (_Case("fp32 gradient, odd vocabulary", 37, True, torch.float32), False),
    ):
        form = f"token rows, {case.name}"
        yield Form(form, partial(_launch, case), partial(_judge, case, form), brief)


def _outer() -> Tensor:
    return torch.linspace(-1.0, 2.0, _POSITIONS, dtype=torch.float32, device="cpu")


def _launch(case: _Case, triton: bool, device: torch.device) -> Outputs:
    logits, bias, *places = case.inputs()
    logits = logits.to(device)
    bias = None if bias is None else bias.to(device)
    chunk = bias, *(place.to(device) for place in places), _FIRST
    full = partial(torch.full, dtype=torch.float32, device=device)
    log_prob, logsumexp = (full((_POSITIONS,), _UNTOUCHED) for _ in range(2))
    operator("token_rows", triton)(logits, *chunk, log_prob, logsumexp)
    grad = _outer().to(device)
    # Of float32 it may be written over the logits, as token_chunks does on a CPU.
    same = case.dtype == torch.float32
    gradient = logits if same else torch.full_like(logits, torch.nan, dtype=case.dtype)
    operator("token_rows_gradient", triton)(logits, *chunk, logsumexp, grad, gradient)
    return log_prob, logsumexp, gradient


def _judge(case: _Case, form: str, found: Outputs) -> Figure:
    logits, bias, tokens, order, _ = case.inputs()
    wide = logits.double() if bias is None else logits.double() + bias
    real, places = wide[:_REAL], order[_FIRST : _FIRST + _REAL]
    log_probs = real.log_softmax(-1)
    picked = tokens[places, None]
    log_prob, logsumexp = torch.full((2, _POSITIONS), _UNTOUCHED, dtype=torch.float64, device="cpu")
    log_prob[places] = log_probs.gather(1, picked)[:, 0]
    logsumexp[places] = real.logsumexp(-1)
    grad = _outer()[places, None].double()
    gradient = torch.zeros_like(wide)
    gradient[:_REAL] = -grad * log_probs.exp()
    gradient[:_REAL].scatter_add_(1, picked, grad)
    values = 4 * _ROUNDINGS * log_prob.abs().max().item()
    slopes = (2 * torch.finfo(case.dtype).eps + 2.0**-16) * gradient.abs().max().item()
    exact = (
        ("log_prob", log_prob, values),
        ("logsumexp", logsumexp, values),
        ("gradient", gradient, slopes),
    )
    return worst(form, ((n, x, y, z) for (n, y, z), x in zip(exact, found, strict=True)))
