"""Embeddings without padding: taken apart, stored one after another, and padded again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tglo.data import ragged


def prompt(length: int, padded: int, seed: int) -> dict[str, Tensor]:
    rows = torch.randn(length, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(padded) < length
    whole = torch.cat([rows, torch.zeros(padded - length, 3)])
    return {ragged.ROWS: whole, ragged.MASK: mask, "pooled": torch.full((2,), float(seed))}


def test_stacking_pads_to_the_longest_that_is_real() -> None:
    prompts = [prompt(4, 9, 0), prompt(0, 2, 1), prompt(6, 6, 2)]
    stacked = ragged.stack(prompts)
    assert stacked[ragged.ROWS].shape == (3, 6, 3)
    assert stacked[ragged.MASK].sum(1).tolist() == [4, 0, 6]
    assert not stacked[ragged.ROWS][~stacked[ragged.MASK]].any()
    assert stacked["pooled"].tolist() == [[0, 0], [1, 1], [2, 2]]
    for row, original in zip(ragged.rows_of(stacked), prompts, strict=True):
        count = int(original[ragged.MASK].sum())
        assert torch.equal(row[ragged.ROWS][:count], original[ragged.ROWS][:count])


def test_prompts_without_a_mask_are_only_stacked() -> None:
    rows = [{"prompt_embeds": torch.full((2, 3), float(n))} for n in range(2)]
    assert ragged.stack(rows)["prompt_embeds"].shape == (2, 2, 3)
    assert ragged.trimmed(rows[0]).keys() == {"prompt_embeds"}
    assert ragged.joined([]) == {}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
def test_what_is_joined_comes_apart_again(order: list[int]) -> None:
    prompts = [prompt(4, 9, 0), prompt(0, 2, 1), prompt(6, 6, 2)]
    shard = ragged.joined([ragged.trimmed(p) for p in prompts])
    assert shard[ragged.ROWS].shape == (10, 3)
    found = ragged.stack([ragged.prompt_of(shard, number) for number in order])
    expected = ragged.stack([prompts[number] for number in order])
    for name in (ragged.ROWS, ragged.MASK):
        assert torch.equal(found[name], expected[name])
