"""Embeddings of prompts that have as many rows as the prompt has tokens.

Where an encoder returns `prompt_mask` (B, L) bool beside `prompt_embeds` (B, L, D), only the rows under True
mean something; they come first, and the others are zeros. Such prompts are kept without them, and padded
again to the longest of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

ROWS, MASK = "prompt_embeds", "prompt_mask"
STARTS = "prompt_embeds.starts"
"""(n + 1,) int64: where the rows of each of n prompts start, and where the last one's end."""


def trimmed(prompt: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one prompt's embeddings, (L, ...) each, without the rows that stand for no token."""
    if MASK not in prompt:
        return dict(prompt)
    count = int(prompt[MASK].sum())
    return {
        name: tensor[:count] if name in (ROWS, MASK) else tensor for name, tensor in prompt.items()
    }


def stack(prompts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack prompts' embeddings into (B, ...) each, padded with zeros to the longest of them."""
    if MASK not in prompts[0]:
        return {name: torch.stack([p[name] for p in prompts]) for name in prompts[0]}
    prompts = [trimmed(prompt) for prompt in prompts]
    longest = max(len(prompt[MASK]) for prompt in prompts)

    def filled(name: str, tensor: Tensor) -> Tensor:
        if name not in (ROWS, MASK):
            return tensor
        return pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, longest - len(tensor)))

    return {name: torch.stack([filled(name, p[name]) for p in prompts]) for name in prompts[0]}


def rows_of(embeddings: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split embeddings (B, ...) into prompts, (...) each."""
    count = len(next(iter(embeddings.values())))
    return [{name: tensor[i] for name, tensor in embeddings.items()} for i in range(count)]


def joined(prompts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rows of trimmed prompts one after another, (all tokens, D), and where each starts; nothing of
    nothing.
    """
    if not prompts:
        return {}
    lengths = torch.tensor([0, *(len(prompt[ROWS]) for prompt in prompts)])
    return {ROWS: torch.cat([prompt[ROWS] for prompt in prompts]), STARTS: lengths.cumsum(0)}


def prompt_of(shard: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return one of the prompts that `joined` has put together, with its mask."""
    start, end = shard[STARTS][number : number + 2].tolist()
    return {ROWS: shard[ROWS][start:end], MASK: torch.ones(end - start, dtype=torch.bool)}


def numbers(shapes: Iterable[Sequence[int | None]], tokens: float) -> float:
    """Return how many numbers are kept of a prompt, from the shapes of its embeddings, with None for `tokens`."""
    return sum(math.prod(tokens if side is None else side for side in shape) for shape in shapes)
