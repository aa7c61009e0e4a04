"""Random streams: Philox4x32-10 (Salmon et al., SC 2011) in plain integer tensor arithmetic.

A value depends only on (seed, sample id, draw index, purpose, position), and not on the batch in which
it is computed, the process or the device. So a resumed run, another number of processes, and a cache
made on another machine see the same draws.

    counter = (block, draw index, sample id low, sample id high)      key = (seed, purpose)

Block j holds elements 4j to 4j + 3. Normal numbers, too, have the same bits on every device and in
every kernel: their logarithm, sine and cosine are the polynomials below, made of nothing but float32
products, sums and IEEE square roots, each rounded on its own. csrc/noise/philox.h and kernels/noise.py
repeat them operation by operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The purpose word of the key: each use of randomness has a stream of its own.
NOISE, TIMESTEP, POSTERIOR, DROPOUT, ORDER, STRATUM, MASK, RATING = 0, 1, 2, 3, 4, 5, 6, 7

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as the paper defines them
_ROUNDS = 10
_MOST = 1 << 34  # elements of a row: the block has one word of the counter

# Coefficients of least relative error, from the lowest power up: fitted in float64 by least squares at
# 4,000 Chebyshev nodes, reweighted by the error until it was level (Lawson), rounded to float32.
# ln(1 + f) = f - f^2 / 2 + f^3 LOG(f) for 1 + f in [sqrt(1/2), sqrt(2)): 0.1 of 2^-24
LOG = (
    0.3333333,
    -0.2500082,
    0.20001227,
    -0.16623357,
    0.14201757,
    -0.13160183,
    0.12761578,
    -0.076344974,
)
# sin(pi/2 r) = r SIN(r^2), cos(pi/2 r) = COS(r^2) for r in [-1/2, 1/2]: 0.5 and 0.001 of 2^-24
SIN = (1.5707964, -0.64596665, 0.07971227, -0.004685254)
COS = (1.0, -1.2337005, 0.25366923, -0.020860288, 0.00090402167)
LN2 = (0.693359375, -2.1219444e-4)  # the first has ten bits: its product with an exponent is exact
SQRT_HALF = 0x3F3504F3  # the bits of the float32 next to sqrt(1/2)


def philox(counter: Tensor, key: Sequence[int]) -> Tensor:
    """Philox4x32-10 of counters (..., 4) int64, words in [0, 2^32), and a key of two words.

    Returns words (..., 4) int64. Raises ValueError for another shape or dtype.
    """
    if counter.dtype != torch.int64 or counter.shape[-1:] != (4,):
        raise ValueError(
            "counter must be int64 of shape (..., 4), "
            f"not {counter.dtype} of {tuple(counter.shape)}"
        )
    if len(key) != 2:
        raise ValueError(f"key must have two words, not {len(key)}")
    c0, c1, c2, c3 = counter.unbind(-1)
    return torch.stack(_rounds(c0, c1, c2, c3, int(key[0]), int(key[1])), dim=-1)


def bits(
    seed: int, sample_ids: Tensor, draw_index: Tensor | int, purpose: int, count: int
) -> Tensor:
    """Return random words (B, count) int64 in [0, 2^32) for sample ids (B,) int64.

    Element j is word j % 4 of block j // 4. seed in [0, 2^32), sample ids in [0, 2^63), draw_index (an
    int or (B,) int64) in [0, 2^32). Raises ValueError otherwise (values of tensors on an
    accelerator are not read back, so only their shape and dtype are checked there).
    """
    words = torch.stack(_words(seed, sample_ids, draw_index, purpose, count), dim=-1)
    return words.flatten(1)[:, :count]


def uniform(
    seed: int, sample_ids: Tensor, draw_index: Tensor | int, purpose: int, count: int
) -> Tensor:
    """Return (B, count) float32 in the open interval (0, 1); arguments are those of `bits`.

    The value is (word // 2^9 + 1/2) 2^-23. With 23 bits the half fits into float32's 24-bit
    significand, so the result is exact and neither 0 nor 1 can come out.
    """
    return _to_unit(bits(seed, sample_ids, draw_index, purpose, count))


def normal(
    seed: int,
    sample_ids: Tensor,
    draw_index: Tensor | int,
    shape: Sequence[int],
    purpose: int = NOISE,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return standard normal numbers (B, *shape) float32 on `device` (default: that of sample_ids).

    Box-Muller: of a block's words, (w0, w1) give elements 0 and 1, and (w2, w3) give elements 2
    and 3, as r cos(angle) and r sin(angle) with r = sqrt(-2 ln u(w0)) and angle = 2 pi u(w1).
    |value| stays below 5.78; the error against Box-Muller in float64 below 1e-6. Errors are those of `bits`.
    """
    if device is not None:
        sample_ids = sample_ids.to(device)
        draw_index = draw_index.to(device) if isinstance(draw_index, Tensor) else draw_index
    count = math.prod(shape)
    words = _words(seed, sample_ids, draw_index, purpose, count)
    radius = _radius(torch.stack(words[::2], dim=-1))  # (B, blocks, 2)
    cosine, sine = _direction(torch.stack(words[1::2], dim=-1))
    out = torch.stack((cosine.mul_(radius), sine.mul_(radius)), dim=-1)  # (B, blocks, 2, 2)
    return out.flatten(1)[:, :count].reshape(-1, *shape)


def _radius(words: Tensor) -> Tensor:
    """Return sqrt(-2 ln u) for the words' u: float32, off by at most 1.02 ulp over all 2^23 u."""
    offset = _to_unit(words).view(torch.int32).sub_(SQRT_HALF)
    exponent = (offset >> 23).to(torch.float32)  # u = 2^exponent (1 + f)
    f = offset.bitwise_and_(0x7FFFFF).add_(SQRT_HALF).view(torch.float32).sub_(1.0)
    log = _polynomial(LOG, f).mul_(f).sub_(0.5).mul_(f * f)
    log.add_(exponent * LN2[1]).add_(f).add_(exponent.mul_(LN2[0]))
    # PyTorch's float32 root on CPUs is sometimes off by an ulp; float64's, rounded, never is.
    return log.mul_(-2.0).double().sqrt_().float()


def _direction(words: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos(2 pi u) and sin(2 pi u) for the words' u: float32, off by at most 1.57 ulp over all u."""
    odd = (words >> 8) | 1  # 4u = odd / 2^22
    quadrant = (odd + (1 << 21)) >> 22  # the nearest integer: an odd number is never halfway
    r = (odd - (quadrant << 22)).to(torch.float32).mul_(2.0**-22)
    square = r * r
    sine, cosine = _polynomial(SIN, square).mul_(r), _polynomial(COS, square)
    swapped = (quadrant & 1) == 1
    first, second = torch.where(swapped, sine, cosine), torch.where(swapped, cosine, sine)
    first = torch.where(((quadrant + 1) & 2) == 2, -first, first)
    return first, torch.where((quadrant & 2) == 2, -second, second)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Evaluate by Horner's scheme, with a rounding after each product and each sum."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])


def _words(
    seed: int, sample_ids: Tensor, draw_index: Tensor | int, purpose: int, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of every block, each (B, ceil(count / 4)) int64."""
    if not 0 <= count <= _MOST:
        raise ValueError(f"a row has at most 2^34 elements, not {count}")
    draw = check_key(seed, sample_ids, draw_index, purpose)
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=sample_ids.device)[None, :]
    ids = sample_ids[:, None]
    return _rounds(block, draw[:, None], ids & _WORD, ids >> 32, seed, purpose)


def check_key(seed: int, sample_ids: Tensor, draw_index: Tensor | int, purpose: int) -> Tensor:
    """Return draw_index as (B,) int64 on the device of sample_ids. Errors are those of `bits`."""
    for name, word in (("seed", seed), ("purpose", purpose)):
        if not 0 <= word <= _WORD:
            raise ValueError(f"{name} must be in [0, 2^32), not {word}")
    if sample_ids.dtype != torch.int64 or sample_ids.dim() != 1:
        raise ValueError(
            "sample_ids must be a one-dimensional int64 tensor, "
            f"not {sample_ids.dtype} of shape {tuple(sample_ids.shape)}"
        )
    if not isinstance(draw_index, Tensor):
        if not 0 <= draw_index <= _WORD:
            raise ValueError(f"draw_index must be in [0, 2^32), not {draw_index}")
        # filled on the device: a copy from the host would wait, and fail inside a CUDA graph
        draw_index = torch.full(
            sample_ids.shape, draw_index, dtype=torch.int64, device=sample_ids.device
        )
    draw_index = draw_index.to(sample_ids.device, torch.int64)
    if draw_index.dim() > 1 or (draw_index.dim() == 1 and draw_index.shape != sample_ids.shape):
        raise ValueError(
            f"draw_index must be a number or have the shape of sample_ids {tuple(sample_ids.shape)}, "
            f"not {tuple(draw_index.shape)}"
        )
    # values on an accelerator are not read back
    readable = sample_ids.device.type == "cpu" and not torch.compiler.is_compiling()
    if readable and sample_ids.numel():
        if int(sample_ids.min()) < 0:
            raise ValueError(f"sample ids must be in [0, 2^63), not {int(sample_ids.min())}")
        least, most = int(draw_index.min()), int(draw_index.max())
        if least < 0 or most > _WORD:
            raise ValueError(f"draw_index must be in [0, 2^32), not {least} to {most}")
    return draw_index.expand(sample_ids.shape)


def _rounds(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key0: int, key1: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do ten rounds on broadcastable words. int64 products wrap to the bits of the unsigned ones."""
    # torch.broadcast_shapes would import sympy, for half a second
    shape = torch.broadcast_tensors(c0, c1, c2, c3)[0].shape
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        # c1 and c3 keep the whole product: their high words are masked away wherever they are used.
        c0 = ((product1 >> 32) ^ c1).bitwise_xor_(key0).bitwise_and_(_WORD)
        c2 = ((product0 >> 32) ^ c3).bitwise_xor_(key1).bitwise_and_(_WORD)
        c1, c3 = product1, product0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _WORD, (key1 + _KEY_STEPS[1]) & _WORD
    words = (c0, c1 & _WORD, c2, c3 & _WORD)
    return tuple(word.expand(shape) for word in words)  # type: ignore[return-value]


def _to_unit(words: Tensor) -> Tensor:
    return (words >> 9).to(torch.float32).add_(0.5).mul_(2.0**-23)
