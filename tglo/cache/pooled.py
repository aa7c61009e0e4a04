"""One vector for each prompt, from the embeddings that a cache has of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.data.ragged import MASK

BATCH = 64
"""Prompts at a time: of 512 tokens with 4,096 numbers they take 0.5 GB in float32."""


def mean_pooled(cache: LatentCache, prompts: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean over each prompt's tokens of its embeddings, (P, D) float32.

    Tokens that `prompt_mask` leaves out do not count; encoders without a mask attend to padding, and there
    every token counts. CacheError names a prompt that the cache does not have.
    """
    parts = []
    for start in range(0, len(prompts), BATCH):
        text = cache.text(prompts[start : start + BATCH])
        tokens = next(text[name] for name in sorted(text) if text[name].ndim == 3)  # (B, L, D)
        mask = text.get(MASK, torch.ones(tokens.shape[:2], dtype=torch.bool)).unsqueeze(-1)
        summed = tokens.float().masked_fill(~mask, 0.0).sum(dim=1)
        parts.append((summed / mask.sum(dim=1).clamp(min=1)).numpy())
    return np.concatenate(parts)
