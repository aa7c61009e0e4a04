"""The base model before training: every part of a Stable Diffusion pipeline, in miniature."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tglo.pretraining import pipeline
from tglo.shapes import scenes

TOKENS = 20  # of a prompt, with both ends; the longest sentence takes 17


def build_pipeline() -> Any:
    """The untrained model, about 3 M parameters: 32x32 pixels, latents 4x8x8."""
    return pipeline.build(
        _word_tokenizer(),
        text_width=96,
        unet_widths=(48, 96),
        attention=(True, True),
        vae_widths=(16, 32, 48),
    )


def _word_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose merges make one token of each word of the world; others are split."""
    start, end, mark = "<|startoftext|>", "<|endoftext|>", "</w>"
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    untrained: Any = CLIPTokenizer(vocab={start: 0, end: 1}, merges=[])
    pairs: Any = Tokenizer(models.BPE(end_of_word_suffix=mark))
    pairs.normalizer = untrained.backend_tokenizer.normalizer
    pairs.pre_tokenizer = untrained.backend_tokenizer.pre_tokenizer
    # Named beforehand, because the trainer numbers new tokens by chance, and breaks ties by number.
    endings = [byte + mark for byte in bytes_]
    trainer = trainers.BpeTrainer(
        initial_alphabet=bytes_,
        special_tokens=endings,
        end_of_word_suffix=mark,
        vocab_size=1000,
        show_progress=False,
    )
    pairs.train_from_iterator(sorted(set(scenes.sentences())), trainer)
    trained = json.loads(pairs.to_str())["model"]
    vocabulary = dict(trained["vocab"])
    for token in (start, end):
        vocabulary[token] = len(vocabulary)
    merges: Any = [tuple(merge) for merge in trained["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
