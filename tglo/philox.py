"""The random streams: Philox4x32-10 (Salmon et al., SC 2011) in plain integer tensor arithmetic.

A value depends only on (seed, sample id, draw, purpose, position), never on the batch it is
computed in, the process or the device. So a resumed run, another number of processes, or a cache
made on another machine sees the same draws.

    counter = (block, draw, sample id low, sample id high)      key = (seed, purpose)

Block j holds elements 4j to 4j + 3. The integer words are the same on every device; `normal` goes
through the device's own float32 log, sine and cosine, which may differ in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The purpose word of the key: each use of randomness has a stream of its own.
NOISE, TIMESTEP, POSTERIOR, DROPOUT, ORDER = 0, 1, 2, 3, 4

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as the paper defines them
_ROUNDS = 10


def philox(counter: Tensor, key: Sequence[int]) -> Tensor:
    """Philox4x32-10: counter (..., 4) int64 words in [0, 2^32), key of two words -> (..., 4) int64.

    Raises ValueError for another shape or dtype.
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


def bits(seed: int, sample_ids: Tensor, draws: Tensor | int, purpose: int, count: int) -> Tensor:
    """(B,) int64 sample ids -> (B, count) int64 words in [0, 2^32).

    Element j is word j % 4 of block j // 4. seed in [0, 2^32), sample ids in [0, 2^63), draws (an
    int or (B,) int64) in [0, 2^32). Raises ValueError otherwise (values of tensors on an
    accelerator are not read back, so only their shape and dtype are checked there).
    """
    words = torch.stack(_words(seed, sample_ids, draws, purpose, count), dim=-1)
    return words.flatten(1)[:, :count]


def uniform(seed: int, sample_ids: Tensor, draws: Tensor | int, purpose: int, count: int) -> Tensor:
    """(B, count) float32 in the open interval (0, 1); arguments as for `bits`.

    The value is (word // 2^9 + 1/2) 2^-23. With 23 bits the half fits into float32's 24-bit
    significand, so the result is exact and neither 0 nor 1 can come out.
    """
    return _to_unit(bits(seed, sample_ids, draws, purpose, count))


def normal(
    seed: int,
    sample_ids: Tensor,
    draws: Tensor | int,
    shape: Sequence[int],
    purpose: int = NOISE,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal numbers, (B, *shape) float32, on `device` (default: where sample_ids are).

    Box-Muller: of a block's words, (w0, w1) give elements 0 and 1, and (w2, w3) give elements 2
    and 3, as r cos(angle) and r sin(angle) with r = sqrt(-2 ln u(w0)) and angle = 2 pi u(w1).
    |value| stays below 5.78. Errors as for `bits`.
    """
    if device is not None:
        sample_ids = sample_ids.to(device)
        draws = draws.to(device) if isinstance(draws, Tensor) else draws
    count = math.prod(shape)
    words = _words(seed, sample_ids, draws, purpose, count)
    out = torch.empty(*words[0].shape, 4, dtype=torch.float32, device=words[0].device)
    for first in (0, 2):
        radius = _to_unit(words[first]).log_().mul_(-2.0).sqrt_()
        angle = _to_unit(words[first + 1]).mul_(2.0 * math.pi)
        torch.mul(radius, angle.cos(), out=out[..., first])
        torch.mul(radius, angle.sin_(), out=out[..., first + 1])
    return out.flatten(1)[:, :count].reshape(-1, *shape)


def _words(
    seed: int, sample_ids: Tensor, draws: Tensor | int, purpose: int, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of every block, each (B, ceil(count / 4)) int64."""
    if not 0 <= seed <= _WORD:
        raise ValueError(f"seed must be in [0, 2^32), not {seed}")
    if sample_ids.dtype != torch.int64 or sample_ids.dim() != 1:
        raise ValueError(
            "sample_ids must be a one-dimensional int64 tensor, "
            f"not {sample_ids.dtype} of shape {tuple(sample_ids.shape)}"
        )
    draw = torch.as_tensor(draws, dtype=torch.int64, device=sample_ids.device)
    if draw.dim() > 1 or (draw.dim() == 1 and draw.shape != sample_ids.shape):
        raise ValueError(
            f"draws must be a number or have the shape of sample_ids {tuple(sample_ids.shape)}, "
            f"not {tuple(draw.shape)}"
        )
    if sample_ids.device.type == "cpu" and sample_ids.numel():
        if int(sample_ids.min()) < 0:
            raise ValueError(f"sample ids must be in [0, 2^63), not {int(sample_ids.min())}")
        if int(draw.min()) < 0 or int(draw.max()) > _WORD:
            raise ValueError(
                f"draws must be in [0, 2^32), not {int(draw.min())} to {int(draw.max())}"
            )
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=sample_ids.device)[None, :]
    ids = sample_ids[:, None]
    draw = draw.expand(sample_ids.shape)[:, None]
    return _rounds(block, draw, ids & _WORD, ids >> 32, seed, purpose)


def _rounds(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key0: int, key1: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds on broadcastable words. int64 products wrap: the bits of the unsigned product."""
    shape = torch.broadcast_shapes(c0.shape, c1.shape, c2.shape, c3.shape)
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
