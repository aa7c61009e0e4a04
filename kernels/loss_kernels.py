"""Triton kernels of the TGO loss: one launch forward, one backward (arXiv 2605.04653).

A program takes one part of one row; a row is one draw's prediction, dense in memory. Sums have a
fixed order: float32 over the few steps of a part, float64 from there on. The program that arrives
last, as an integer counter tells it, adds the parts of each row and finishes the loss. No float
atomics, so results are bitwise equal from run to run. The formulas are those of tglo/reference/.

Index names: i_ an index, o_ offsets, b_ a block of values; P, Q, Y are the policy's prediction, the
reference's and the target.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _log1p(x):
    """log(1 + x) for x in [0, 1] to a relative 1e-11: a series where 1 + x would round x away."""
    return tl.where(x < 1e-4, x * (1.0 - x * (0.5 - x * (1.0 / 3.0))), tl.log(1.0 + x))


@triton.jit
def _sample_loss(b_r, b_score, b_tau, confidence, b_sample_weight):
    """Loss and its slope d loss / d r of samples, float64; 0 where the sample's weight is."""
    b_sign = tl.where(b_score >= b_tau, 1.0, -1.0).to(tl.float64)
    b_weight = b_sample_weight * (1.0 + confidence * tl.abs(b_score - b_tau))
    b_x = -b_sign * b_r
    b_tail = tl.exp(-tl.abs(b_x))
    b_loss = b_weight * (tl.where(b_x > 0.0, b_x, 0.0) + _log1p(b_tail))
    b_slope = -b_weight * b_sign * tl.where(b_x >= 0.0, 1.0, b_tail) / (1.0 + b_tail)
    counted = b_sample_weight != 0.0  # whatever the score is, be it NaN
    return tl.where(counted, b_loss, 0.0), tl.where(counted, b_slope, 0.0)


@triton.jit
def _row_sum(partials, i_row, valid, parts, S: tl.constexpr, C: tl.constexpr):
    """Sum of `parts` numbers of each row: [S]."""
    b_sum = tl.zeros([S], tl.float64)
    for i_part in range(0, parts, C):
        o_part = i_part + tl.arange(0, C)
        o = i_row.to(tl.int64)[:, None] * parts + o_part[None, :]
        mask = valid[:, None] & (o_part < parts)[None, :]
        # Written by other programs of this launch: read past the first-level cache.
        b_sum += tl.sum(tl.load(partials + o, mask=mask, other=0.0, cache_modifier=".cg"), 1)
    return b_sum


@triton.jit
def _numbers(values, o, valid, otherwise):
    """Numbers of samples or rows, float64; one for all where there is no vector."""
    b_value = otherwise
    if values is not None:
        b_value = tl.load(values + o, mask=valid, other=0.0).to(tl.float64)
    return b_value


@triton.jit
def _mask_weights(mask, i_row, o_row, valid, row_stride, inner, period):
    """Weights of elements o_row of a row, 0 where not valid; see tglo/ops/loss.py."""
    o_mask = i_row * row_stride + (o_row // inner) % period
    return tl.load(mask + o_mask, mask=valid, other=0.0)


@triton.jit
def forward(
    P,
    Y,
    Q,  # None with a cached error
    cached_error,  # [rows], None with Q; like the next three float32 or float64
    scores,  # [batch]
    threshold,  # [batch] or [1], or None
    timestep_weight,  # [rows] or [1], or None
    sample_weight,  # [batch] or [1], or None
    weights,  # of the mask, [rows or 1, period] float32, or None
    partials,  # [3, rows, parts] float64: policy's error, difference of errors, weight
    counter,  # [1] int32, 0 before and after
    loss,  # [batch], or [1] if reduced
    implicit_score,  # [batch] float64
    coefficient,  # [rows] float64
    policy_error,  # [rows] float64
    reference_error,  # [rows] float64
    rows,
    elements,
    parts,
    draws,
    threshold_stride,
    timestep_weight_stride,
    sample_weight_stride,
    weights_stride,
    inner,
    period,
    threshold_value: tl.float64,
    timestep_weight_value: tl.float64,
    sample_weight_value: tl.float64,
    beta: tl.float64,
    one_over_temperature: tl.float64,
    confidence: tl.float64,
    share: tl.float64,  # 1 / batch for the mean, else 1
    one_over_elements: tl.float64,  # quotients are taken on the host: float64 division is a call
    one_over_draws: tl.float64,
    REDUCED: tl.constexpr,
    BY_MASK: tl.constexpr,  # a row's mean divides by the mask's sum, else by the number of elements
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
    SAMPLES: tl.constexpr,
    PARTS: tl.constexpr,
):
    i_program = tl.program_id(0)
    i_row = (i_program // parts).to(tl.int64)
    i_part = i_program % parts
    first = i_part.to(tl.int64) * (BLOCK * STEPS)
    b_error = tl.zeros([BLOCK], tl.float32)
    b_difference = tl.zeros([BLOCK], tl.float32)
    b_counted = tl.zeros([BLOCK], tl.float32)
    for step in range(STEPS):
        o_row = first + step * BLOCK + tl.arange(0, BLOCK)
        mask = o_row < elements
        o = i_row * elements + o_row
        b_p = tl.load(P + o, mask=mask, other=0.0).to(tl.float32)
        b_y = tl.load(Y + o, mask=mask, other=0.0).to(tl.float32)
        b_from_target = b_p - b_y
        b_squared = b_from_target * b_from_target
        if weights is not None:
            b_m = _mask_weights(weights, i_row, o_row, mask, weights_stride, inner, period)
            if BY_MASK:
                b_counted += b_m
            b_squared = tl.where(b_m == 0.0, 0.0, b_m * b_squared)
        b_error += b_squared
        if Q is not None:
            b_q = tl.load(Q + o, mask=mask, other=0.0).to(tl.float32)
            b_product = (b_p - b_q) * (b_from_target + (b_q - b_y))
            if weights is not None:
                b_product = tl.where(b_m == 0.0, 0.0, b_m * b_product)
            b_difference += b_product
    programs = tl.num_programs(0)
    tl.store(partials + i_program, tl.sum(b_error.to(tl.float64), 0))
    if Q is not None:
        tl.store(partials + programs + i_program, tl.sum(b_difference.to(tl.float64), 0))
    if BY_MASK:
        tl.store(partials + 2 * programs + i_program, tl.sum(b_counted.to(tl.float64), 0))
    tl.debug_barrier()  # the sums are written before this program counts as arrived
    arrived = tl.atomic_add(counter, 1, sem="acq_rel")
    if arrived == programs - 1:
        tl.debug_barrier()
        total = tl.zeros([SAMPLES], tl.float64)
        batch = rows // draws
        for i_first in range(0, batch, SAMPLES):
            i_sample = i_first + tl.arange(0, SAMPLES)
            valid = i_sample < batch
            b_ell = tl.zeros([SAMPLES], tl.float64)
            for i_draw in range(0, draws):
                i_rows = i_sample * draws + i_draw
                b_mean = tl.zeros([SAMPLES], tl.float64) + one_over_elements
                if BY_MASK:
                    third = partials + 2 * programs
                    b_mean = _row_sum(third, i_rows, valid, parts, SAMPLES, PARTS)
                    b_mean = tl.where(b_mean == 0.0, 0.0, 1.0 / b_mean)  # a NaN stays one
                    # For the coefficients below; the same threads read them there.
                    tl.store(coefficient + i_rows, b_mean, mask=valid)
                b_e = _row_sum(partials, i_rows, valid, parts, SAMPLES, PARTS) * b_mean
                if Q is not None:
                    second = partials + programs
                    b_d = _row_sum(second, i_rows, valid, parts, SAMPLES, PARTS) * b_mean
                    b_other = b_e - b_d
                    # A mean of squares; the rounding of two sums could make it negative.
                    b_other = tl.where(b_other < 0.0, 0.0, b_other)
                else:
                    b_other = tl.load(cached_error + i_rows, mask=valid, other=0.0).to(tl.float64)
                    b_d = b_e - b_other
                    if BY_MASK:  # no weight: b_e is 0, or NaN of infinite ones
                        b_d = tl.where(b_mean == 0.0, b_e, b_d)
                tl.store(policy_error + i_rows, b_e, mask=valid)
                tl.store(reference_error + i_rows, b_other, mask=valid)
                o_omega = i_rows * timestep_weight_stride
                b_omega = _numbers(timestep_weight, o_omega, valid, timestep_weight_value)
                b_ell += -(b_omega * one_over_temperature) * b_d
            b_r = beta * (b_ell * one_over_draws)
            tl.store(implicit_score + i_sample, b_r, mask=valid)

            b_tau = _numbers(threshold, i_sample * threshold_stride, valid, threshold_value)
            b_score = tl.load(scores + i_sample, mask=valid, other=0.0).to(tl.float64)
            o_weight = i_sample * sample_weight_stride
            b_weight = _numbers(sample_weight, o_weight, valid, sample_weight_value)
            b_loss, b_slope = _sample_loss(b_r, b_score, b_tau, confidence, b_weight)
            if REDUCED:
                total += tl.where(valid, b_loss, 0.0)
            else:
                tl.store(loss + i_sample, b_loss.to(tl.float32), mask=valid)
            for i_draw in range(0, draws):
                i_rows = i_sample * draws + i_draw
                o_omega = i_rows * timestep_weight_stride
                b_omega = _numbers(timestep_weight, o_omega, valid, timestep_weight_value)
                b_coefficient = -share * b_slope * beta * (b_omega * one_over_temperature)
                b_mean = tl.zeros([SAMPLES], tl.float64) + one_over_elements
                if BY_MASK:
                    b_mean = tl.load(coefficient + i_rows, mask=valid, other=0.0)
                b_coefficient = b_coefficient * (2.0 * b_mean) * one_over_draws
                tl.store(coefficient + i_rows, b_coefficient, mask=valid)
        if REDUCED:
            tl.store(loss, (tl.sum(total, 0) * share).to(tl.float32))
        tl.store(counter, 0)


@triton.jit
def backward(
    grad_loss,  # [batch] or [1], float32 or float64
    coefficient,  # [rows] float64
    P,
    Y,
    weights,  # of the mask, or None
    gradient,  # of P's dtype and layout
    elements,
    parts,
    draws,
    grad_loss_stride,
    weights_stride,
    inner,
    period,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    i_program = tl.program_id(0)
    i_row = (i_program // parts).to(tl.int64)
    first = (i_program % parts).to(tl.int64) * (BLOCK * STEPS)
    outer = tl.load(grad_loss + i_row // draws * grad_loss_stride).to(tl.float64)
    scale = (outer * tl.load(coefficient + i_row)).to(tl.float32)
    for step in range(STEPS):
        o_row = first + step * BLOCK + tl.arange(0, BLOCK)
        mask = o_row < elements
        o = i_row * elements + o_row
        b_p = tl.load(P + o, mask=mask, other=0.0).to(tl.float32)
        b_y = tl.load(Y + o, mask=mask, other=0.0).to(tl.float32)
        b_gradient = scale * (b_p - b_y)
        if weights is not None:
            b_m = _mask_weights(weights, i_row, o_row, mask, weights_stride, inner, period)
            b_gradient = tl.where(b_m == 0.0, 0.0, b_m * b_gradient)
        tl.store(gradient + o, b_gradient.to(P.dtype.element_ty), mask=mask)
