"""Triton kernels over rows of logits: log-probability of the true token, and its gradient.

A program takes one row of a chunk: row i is position order[first + i] of the (batch, tokens)
positions. Sums have a fixed order, results are bitwise equal from run to run. The formulas are those of
tglo/reference/.

Index names: i_ an index, o_ offsets, b_ a block of values.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tglo.kernels.loss import REGISTERS

BLOCK = 2048  # logits of one step
WARPS = 8
# Of float32; its exponential is 0, and minus infinity would give NaN.
LOWEST = -3.4028234663852886e38


@triton.jit
def _logits(logits, bias, i_row, o_token, vocabulary, LOWEST: tl.constexpr):
    """Logits of a row with the bias; beyond the vocabulary the lowest number."""
    inside = o_token < vocabulary
    b_x = tl.load(logits + i_row.to(tl.int64) * vocabulary + o_token, mask=inside, other=LOWEST)
    if bias is not None:
        b_x += tl.load(bias + o_token, mask=inside, other=0.0)
    return b_x


@triton.jit
def _rows(
    logits,  # [rows, vocabulary] float32
    bias,  # [vocabulary] float32, or None
    targets,  # [positions] int64
    order,  # [at least first + rows] int64
    count,  # [1] int64: rows from here on stand for no position
    first,
    log_prob,  # [positions] float32
    logsumexp,  # [positions] float32
    vocabulary,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_row = tl.program_id(0)
    i_place = first + i_row
    if i_place < tl.load(count):
        i_position = tl.load(order + i_place)
        # Each lane's sum is relative to its own largest logit so far.
        b_largest = tl.full([BLOCK], LOWEST, tl.float32)
        b_sum = tl.zeros([BLOCK], tl.float32)
        for i_first in range(0, vocabulary, BLOCK):
            o_token = i_first + tl.arange(0, BLOCK)
            b_x = _logits(logits, bias, i_row, o_token, vocabulary, LOWEST)
            # NaN is greater than nothing: it reaches the sum, not the largest.
            b_next = tl.where(b_x > b_largest, b_x, b_largest)
            b_term = tl.where(o_token < vocabulary, tl.exp(b_x - b_next), 0.0)
            b_sum = b_sum * tl.exp(b_largest - b_next) + b_term
            b_largest = b_next
        largest = tl.max(b_largest, 0)
        total = tl.sum((b_sum * tl.exp(b_largest - largest)).to(tl.float64), 0)
        rest = tl.log(total)
        token = tl.load(targets + i_position)
        known = (token >= 0) & (token < vocabulary)
        o_picked = i_row.to(tl.int64) * vocabulary + token
        picked = tl.load(logits + o_picked, mask=known, other=float("nan"))
        if bias is not None:
            picked += tl.load(bias + token, mask=known, other=0.0)
        wide = largest.to(tl.float64)
        tl.store(log_prob + i_position, (picked.to(tl.float64) - wide - rest).to(tl.float32))
        tl.store(logsumexp + i_position, (wide + rest).to(tl.float32))


@triton.jit
def _rows_gradient(
    logits,
    bias,
    targets,
    order,
    count,
    first,
    logsumexp,
    grad,  # [positions] float32
    gradient,  # [rows, vocabulary] float32, bfloat16 or float16; may be logits
    vocabulary,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_row = tl.program_id(0)
    i_place = first + i_row
    real = i_place < tl.load(count)
    i_position = tl.load(order + i_place)
    token = tl.load(targets + i_position)
    shift = tl.load(logsumexp + i_position)
    scale = tl.load(grad + i_position)
    for i_first in range(0, vocabulary, BLOCK):
        o_token = i_first + tl.arange(0, BLOCK)
        b_x = _logits(logits, bias, i_row, o_token, vocabulary, LOWEST)
        b_true = tl.where(o_token == token, scale, 0.0)
        b_g = tl.where(real, b_true - scale * tl.exp(b_x - shift), 0.0)
        o = i_row.to(tl.int64) * vocabulary + o_token
        tl.store(gradient + o, b_g.to(gradient.dtype.element_ty), mask=o_token < vocabulary)


def token_rows(logits: Tensor, *others: Any) -> None:
    """tglo::token_rows; see tglo/ops/tokens.py."""
    _launch(_rows, logits, *others, maxnreg=REGISTERS)


def token_rows_gradient(logits: Tensor, *others: Any) -> None:
    """tglo::token_rows_gradient; see tglo/ops/tokens.py."""
    _launch(_rows_gradient, logits, *others)


def _launch(kernel: Any, logits: Tensor, *others: Any, **limits: int) -> None:
    """Launch a program for each row; the kernels take an operator's arguments in its order."""
    rows, vocabulary = logits.shape
    if rows == 0:
        return
    with torch.cuda.device_of(logits):
        kernel[(rows,)](
            logits, *others, vocabulary, LOWEST=LOWEST, BLOCK=BLOCK, num_warps=WARPS, **limits
        )
