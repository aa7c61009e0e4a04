"""The demo's models before training: every part of a Stable Diffusion or aMUSEd pipeline, in miniature."""

from __future__ import annotations

from typing import Any

from transformers import CLIPTokenizer

from tglo.pretraining import masked, pipeline


def build_pipeline() -> Any:
    """The untrained model, about 1.5 M parameters: 32x32 pixels, latents 4x8x8."""
    return pipeline.build(
        _byte_tokenizer(length=32),
        text_width=64,
        unet_widths=(48, 64),
        attention=(False, True),
        vae_widths=(16, 32, 32),
    )


def build_masked_pipeline() -> Any:
    """The untrained masked model: 32x32 pixels, tokens 8x8 of 64."""
    return masked.build(
        _byte_tokenizer(length=32),
        text_width=64,
        width=128,
        layers=3,
        vectors=64,
        vq_widths=(16, 32, 32),
    )


def _byte_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIP tokenizer whose tokens are single bytes, with and without the end-of-word mark: no
    merges.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [
        *alphabet,
        *(character + "</w>" for character in alphabet),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
