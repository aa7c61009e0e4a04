from __future__ import annotations

import numpy as np
import torch

from tglo.cache import pooled
from tglo.cache.pooled import mean_pooled


class Cache:
    """Prompts with as many tokens as they have letters; of each the token is its letter's number."""

    def __init__(self, masked: bool) -> None:
        self.masked = masked

    def text(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        longest = max(map(len, prompts))
        tokens = torch.full((len(prompts), longest, 2), 100.0, dtype=torch.bfloat16)
        mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor([[ord(x) - 97.0, 1.0] for x in prompt])
            mask[row, : len(prompt)] = True
        found = {"prompt_embeds": tokens, "pooled_prompt_embeds": torch.zeros(len(prompts), 3)}
        return found | ({"prompt_mask": mask} if self.masked else {})


def test_masked_tokens_do_not_count(monkeypatch) -> None:
    monkeypatch.setattr(pooled, "BATCH", 2)
    found = mean_pooled(Cache(masked=True), ["ace", "b", "bd"])  # type: ignore[arg-type]
    assert found.dtype == np.float32
    assert found.tolist() == [[2, 1], [1, 1], [2, 1]]


def test_without_a_mask_padding_counts() -> None:
    found = mean_pooled(Cache(masked=False), ["ab", "b"])  # type: ignore[arg-type]
    assert found.tolist() == [[0.5, 1], [50.5, 50.5]]
