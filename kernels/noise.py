"""Triton kernel of the noising: scale * latents + noise_scale * eps in one launch.

The random words and the arithmetic are those of tglo/philox.py, operation by operation, so that a key
has the same bits on every backend: the launch turns the fusing of products and sums off. `tl.rand`
would give other words.

Index names: i_ an index, o_ offsets, b_ a block of values.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tglo import philox

BLOCKS = 256  # Philox blocks of a program, four elements each
WARPS = 4

_LOG = tl.constexpr(philox.LOG)
_SIN = tl.constexpr(philox.SIN)
_COS = tl.constexpr(philox.COS)
_LN2 = tl.constexpr(philox.LN2)
_SQRT_HALF = tl.constexpr(philox.SQRT_HALF)


@triton.jit
def _philox(c0, c1, c2, c3, key0, key1):
    """Ten rounds of Philox4x32 on uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1 = high1 ^ c1 ^ key0, low1
        c2, c3 = high0 ^ c3 ^ key1, low0
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _polynomial(coefficients: tl.constexpr, degree: tl.constexpr, x):
    """Horner's scheme, a rounding after each product and each sum."""
    value = x * coefficients[degree]
    for i in tl.static_range(1, degree):
        value = (value + coefficients[degree - i]) * x
    return value + coefficients[0]


@triton.jit
def _radius(word):
    """sqrt(-2 ln u), u = (word / 2^9 + 1/2) / 2^23 = 2^exponent (1 + f)."""
    unit = ((word >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    offset = unit.to(tl.int32, bitcast=True) - _SQRT_HALF
    exponent = (offset >> 23).to(tl.float32)
    f = ((offset & 0x7FFFFF) + _SQRT_HALF).to(tl.float32, bitcast=True) - 1.0
    log = (_polynomial(_LOG, 7, f) * f - 0.5) * (f * f)
    log = log + exponent * _LN2[1]
    log = log + f
    log = log + exponent * _LN2[0]
    return tl.sqrt_rn(log * -2.0)


@triton.jit
def _direction(word):
    """cos and sin of 2 pi u = pi/2 (quadrant + r), r in [-1/2, 1/2]."""
    odd = ((word >> 8) | 1).to(tl.int32)  # 4u = odd / 2^22
    quadrant = (odd + (1 << 21)) >> 22  # the nearest integer: an odd number is never halfway
    r = (odd - (quadrant << 22)).to(tl.float32) * 2.384185791015625e-07
    square = r * r
    sine, cosine = _polynomial(_SIN, 3, square) * r, _polynomial(_COS, 4, square)
    swapped = (quadrant & 1) == 1
    first, second = tl.where(swapped, sine, cosine), tl.where(swapped, cosine, sine)
    first = tl.where(((quadrant + 1) & 2) == 2, -first, first)
    return first, tl.where((quadrant & 2) == 2, -second, second)


@triton.jit(do_not_specialize=["seed", "purpose"])
def _diffuse(
    latents,  # [rows, elements]
    scale,  # [rows] float32
    noise_scale,
    sample_ids,  # [rows] int64
    draws,
    seed: tl.uint32,
    purpose: tl.uint32,
    out,
    elements,
    parts,
    BLOCKS: tl.constexpr,
):
    i_program = tl.program_id(0)
    i_row = (i_program // parts).to(tl.int64)
    first = (i_program % parts).to(tl.int64) * BLOCKS
    sample_id = tl.load(sample_ids + i_row)
    draw = tl.load(draws + i_row).to(tl.uint32)

    b_block = (first + tl.arange(0, BLOCKS)).to(tl.uint32)
    b_zero = tl.zeros([BLOCKS], tl.uint32)
    w0, w1, w2, w3 = _philox(
        b_block,
        b_zero + draw,
        b_zero + sample_id.to(tl.uint32),
        b_zero + (sample_id >> 32).to(tl.uint32),
        seed.to(tl.uint32),
        purpose.to(tl.uint32),
    )
    b_radius = _radius(tl.join(w0, w2))  # [BLOCKS, 2]
    b_cosine, b_sine = _direction(tl.join(w1, w3))
    b_noise = tl.join(b_cosine * b_radius, b_sine * b_radius)  # [BLOCKS, 2, 2]
    b_noise = tl.reshape(b_noise, [4 * BLOCKS])

    o_row = first * 4 + tl.arange(0, 4 * BLOCKS)
    mask = o_row < elements
    o = i_row * elements + o_row
    b_latents = tl.load(latents + o, mask=mask, other=0.0).to(tl.float32)
    b_out = tl.load(scale + i_row) * b_latents + tl.load(noise_scale + i_row) * b_noise
    tl.store(out + o, b_out.to(out.dtype.element_ty), mask=mask)


def diffuse(latents: Tensor, *others: Any) -> Tensor:
    """tglo::diffuse for contiguous latents (B, ...) and vectors (B,); see tglo/ops/noise.py."""
    out = torch.empty_like(latents)
    if out.numel() == 0:
        return out
    rows = latents.shape[0]
    elements = latents.numel() // rows
    parts = triton.cdiv(elements, 4 * BLOCKS)
    with torch.cuda.device_of(latents):
        _diffuse[(rows * parts,)](
            *(latents, *others, out, elements, parts),
            BLOCKS=BLOCKS,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return out
