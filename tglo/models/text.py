"""From prompts to token ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)


def tokenize(
    tokenizer: Any, prompts: Sequence[str], *, count: bool, report: bool
) -> tuple[Tensor, Tensor, int]:
    """Token ids and attention mask (B, length) on the CPU, and how many prompts were cut.

    count: whether to look for prompts that are too long (else 0); report: whether to warn of them.
    """
    prompts, limit, truncated = list(prompts), tokenizer.model_max_length, 0
    if count:
        # verbose=False: transformers would warn about the length that is being measured here.
        whole = tokenizer(prompts, verbose=False)["input_ids"]
        truncated = sum(len(ids) > limit for ids in whole)
    if truncated and report:
        log.warning(
            "%d prompts of this batch are longer than %d tokens and are cut there; "
            "further ones are only counted, in truncated_prompts",
            truncated,
            limit,
        )
    tokens = tokenizer(
        prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask, truncated
