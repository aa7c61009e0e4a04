"""Triton kernels over rows of logits: log-probability of the true token, and its gradient.

A program takes one row of a chunk: row i is position order[first + i] of the (batch, tokens)
positions. Sums have a fixed order, results are bitwise equal from run to run. In the last chunk's
launch the program that arrives last, as an integer counter tells it, computes the loss from the
log-probabilities of all positions. The formulas are those of tglo/reference.py.

Index names: i_ an index, o_ offsets, b_ a block of values.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tglo.kernels.loss import REGISTERS, arrival_counter, sample_loss, stride_of

BLOCK = 2048  # logits of one step
SAMPLES = 16  # samples that the head takes at once
TOKENS = 32  # tokens of each that it adds at once
WARPS = 8
LOWEST = (
    -3.4028234663852886e38
)  # of float32; its exponential is 0, and minus infinity would give NaN


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
    log_prob,  # [positions] float32
    logsumexp,  # [positions] float32
    mask,  # [batch, tokens] uint8; None if another chunk follows, like the next ten
    reference_log_prob,  # [batch, tokens] float32 or float64, or None
    reference_error,  # [batch] float32 or float64, or None
    scores,  # [batch] float32 or float64
    threshold,  # [batch] or [1], or None
    counter,  # [1] int32, 0 before and after
    loss,  # [batch], or [1] if reduced
    implicit_score,  # [batch] float64
    coefficient,  # [batch] float64
    policy_error,  # [batch] float64
    error,  # [batch] float64: the reference's
    first,
    rows,
    vocabulary,
    batch,
    tokens,
    threshold_stride,
    threshold_value: tl.float64,
    beta: tl.float64,
    one_over_temperature: tl.float64,
    confidence: tl.float64,
    share: tl.float64,  # 1 / batch for the mean, else 1
    REDUCED: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
    SAMPLES: tl.constexpr,
    TOKENS: tl.constexpr,
):
    i_row = tl.program_id(0)
    i_place = first + i_row
    if (i_row < rows) & (i_place < tl.load(count)):
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
    if mask is not None:
        tl.debug_barrier()  # the results are written before this program counts as arrived
        arrived = tl.atomic_add(counter, 1, sem="acq_rel")
        if arrived == tl.num_programs(0) - 1:
            tl.debug_barrier()
            reduced = tl.zeros([SAMPLES], tl.float64)
            for i_samples in range(0, batch, SAMPLES):
                i_sample = i_samples + tl.arange(0, SAMPLES)
                valid = i_sample < batch
                b_own = tl.zeros([SAMPLES], tl.float64)
                b_difference = tl.zeros([SAMPLES], tl.float64)
                b_count = tl.zeros([SAMPLES], tl.float64)
                for i_tokens in range(0, tokens, TOKENS):
                    o_tokens = i_tokens + tl.arange(0, TOKENS)
                    o = i_sample.to(tl.int64)[:, None] * tokens + o_tokens[None, :]
                    inside = valid[:, None] & (o_tokens < tokens)[None, :]
                    counted = tl.load(mask + o, mask=inside, other=0) != 0
                    # Written by other programs of this launch: read past the first-level cache.
                    b_p = tl.load(log_prob + o, mask=counted, other=0.0, cache_modifier=".cg")
                    b_p = b_p.to(tl.float64)
                    b_own -= tl.sum(b_p, 1)
                    b_count += tl.sum(counted.to(tl.float64), 1)
                    if reference_log_prob is not None:
                        b_q = tl.load(reference_log_prob + o, mask=counted, other=0.0)
                        b_difference += tl.sum(b_q.to(tl.float64) - b_p, 1)
                b_mean = tl.where(b_count > 0.0, 1.0 / b_count, 0.0)
                b_e = b_own * b_mean
                if reference_log_prob is not None:
                    b_d = b_difference * b_mean
                    b_other = b_e - b_d
                    b_other = tl.where(b_other < 0.0, 0.0, b_other)
                else:
                    b_other = tl.load(reference_error + i_sample, mask=valid, other=0.0)
                    b_other = b_other.to(tl.float64)
                    b_d = tl.where(b_count > 0.0, b_e - b_other, 0.0)
                b_r = beta * -(one_over_temperature * b_d)
                b_tau = threshold_value
                if threshold is not None:
                    o_tau = i_sample * threshold_stride
                    b_tau = tl.load(threshold + o_tau, mask=valid, other=0.0).to(tl.float64)
                b_score = tl.load(scores + i_sample, mask=valid, other=0.0).to(tl.float64)
                b_loss, b_slope = sample_loss(b_r, b_score, b_tau, confidence)
                b_coefficient = share * b_slope * beta * one_over_temperature * b_mean
                tl.store(policy_error + i_sample, b_e, mask=valid)
                tl.store(error + i_sample, b_other, mask=valid)
                tl.store(implicit_score + i_sample, b_r, mask=valid)
                tl.store(coefficient + i_sample, b_coefficient, mask=valid)
                if REDUCED:
                    reduced += tl.where(valid, b_loss, 0.0)
                else:
                    tl.store(loss + i_sample, b_loss.to(tl.float32), mask=valid)
            if REDUCED:
                tl.store(loss, (tl.sum(reduced, 0) * share).to(tl.float32))
            tl.store(counter, 0)


@triton.jit
def _rows_gradient(
    logits,
    bias,
    targets,
    order,
    count,
    logsumexp,
    grad,  # [positions] float32
    gradient,  # [rows, vocabulary] float32, bfloat16 or float16; may be logits
    first,
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


def token_rows(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    log_prob: Tensor,
    logsumexp: Tensor,
) -> None:
    """tglo::token_rows; see tglo/ops/token_schemas.py."""
    if len(logits):
        loss = (None,) * 11
        numbers = 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0
        _launch(
            *(logits, bias, targets, order, count, first, log_prob, logsumexp), loss, numbers, False
        )


def token_rows_loss(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    log_prob: Tensor,
    logsumexp: Tensor,
    mask: Tensor,
    reference_log_prob: Tensor | None,
    reference_error: Tensor | None,
    scores: Tensor,
    threshold: Tensor | None,
    threshold_value: float,
    beta: float,
    temperature: float,
    confidence: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """tglo::token_rows_loss; see tglo/ops/token_schemas.py."""
    (batch, tokens), device, reduced = mask.shape, logits.device, reduction != 0
    loss = torch.empty(() if reduced else (batch,), dtype=torch.float32, device=device)
    wide = [torch.empty(batch, dtype=torch.float64, device=device) for _ in range(4)]
    tensors = (
        mask.view(torch.uint8),
        reference_log_prob,
        None if reference_error is None else reference_error.contiguous(),
        scores.contiguous(),
        threshold,
        arrival_counter(device),
        loss,
        *wide,
    )
    share = 1.0 / batch if reduction == 1 and batch else 1.0
    numbers = (
        batch,
        tokens,
        stride_of(threshold),
        threshold_value,
        beta,
        1.0 / temperature,
        confidence,
    )
    chunk = logits, bias, targets, order, count, first, log_prob, logsumexp
    _launch(*chunk, tensors, (*numbers, share), reduced)
    return loss, wide[0], wide[1], wide[2], wide[3]


def _launch(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    log_prob: Tensor,
    logsumexp: Tensor,
    loss: tuple[Tensor | None, ...],
    numbers: tuple[Any, ...],
    reduced: bool,
) -> None:
    rows, vocabulary = logits.shape
    with torch.cuda.device_of(logits):
        _rows[(max(rows, 1),)](  # without rows a program still computes the loss
            logits,
            bias,
            targets,
            order,
            count,
            log_prob,
            logsumexp,
            *loss,
            first,
            rows,
            vocabulary,
            *numbers,
            REDUCED=reduced,
            LOWEST=LOWEST,
            BLOCK=BLOCK,
            SAMPLES=SAMPLES,
            TOKENS=TOKENS,
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )


def token_rows_gradient(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    order: Tensor,
    count: Tensor,
    first: int,
    logsumexp: Tensor,
    grad: Tensor,
    gradient: Tensor,
) -> None:
    """tglo::token_rows_gradient; see tglo/ops/token_schemas.py."""
    rows, vocabulary = logits.shape
    if rows == 0:
        return
    with torch.cuda.device_of(logits):
        _rows_gradient[(rows,)](
            logits,
            bias,
            targets,
            order,
            count,
            logsumexp,
            grad,
            gradient,
            first,
            vocabulary,
            LOWEST=LOWEST,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
