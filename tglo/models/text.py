"""From prompts to token ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

log = logging.getLogger(__name__)


class TextPart(NamedTuple):
    """A text encoder of a pipeline and its tokenizer, by the names of their folders."""

    tokenizer: str
    encoder: str
    length: int | None = None
    """Tokens to pad and cut to; the tokenizer's own length by default."""
    template: str | None = None
    """The text around a prompt, which takes the place of {}; the prompt alone by default."""


def tokenize(
    part: TextPart, tokenizer: Any, prompts: Sequence[str], *, count: bool, report: bool
) -> tuple[Tensor, Tensor, int]:
    """Return token ids and attention mask (B, length) on the CPU, and how many prompts were cut.

    count: whether to look for prompts that are too long (else 0); report: whether to warn of them.
    """
    limit, truncated = part.length or tokenizer.model_max_length, 0
    template = part.template or "{}"
    texts = [template.replace("{}", prompt) for prompt in prompts]
    if count:
        # verbose=False: transformers would warn about the length that is being measured here.
        whole = tokenizer(texts, verbose=False)["input_ids"]
        truncated = sum(len(ids) > limit for ids in whole)
    if truncated and report:
        log.warning(
            "%d prompts of this batch are longer than %d tokens and are cut there; "
            "further ones are only counted, in truncated_prompts",
            truncated,
            limit,
        )
    tokens = tokenizer(
        texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask, truncated
