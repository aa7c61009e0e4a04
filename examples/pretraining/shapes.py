"""The base model of the shapes world, a StableDiffusionPipeline in miniature: trained on drawings of all
scenes but those with a held-out thing, half of them under a plain sentence and half under a paraphrase.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from examples.pretraining import stable_diffusion
from examples.pretraining.training import Recipe, Trained
from tglo.shapes import BASE, drawing, scenes

DRAWINGS = 32_768
TOKENS = 20  # of a prompt, with both ends; the longest sentence takes 17


def build_pipeline() -> Any:
    """Build the untrained model, about 3 M parameters: 32x32 pixels, latents 4x8x8."""
    return stable_diffusion.build(
        _word_tokenizer(),
        text_width=96,
        unet_widths=(48, 96),
        attention=(True, True),
        vae_widths=(16, 32, 48),
    )


def train(generator: np.random.Generator, vae_steps: int, steps: int) -> Trained:
    """Train the model, and leave it in half precision."""
    pipeline = build_pipeline()
    known = scenes.all_scenes(held_out=False)

    def pixels(count: int = 32) -> Tensor:
        return draw([known[i] for i in generator.integers(len(known), size=count)], generator)

    reached = stable_diffusion.train_vae(pipeline.vae, pixels, vae_steps)
    reached |= stable_diffusion.scale_latents(pipeline.vae, pixels(512))
    shown = generator.integers(len(known), size=DRAWINGS)
    latents = torch.cat(
        [
            stable_diffusion.encode(pipeline.vae, draw([known[i] for i in part], generator))
            for part in np.array_split(shown, DRAWINGS // 128)
        ]
    )
    sentences = [(*scenes.plain(scene), *scenes.paraphrases(scene)) for scene in known]
    plain, every = len(scenes.plain(known[0])), len(sentences[0])

    def captions(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """A plain sentence for half of the rows, a paraphrase for the others."""
        is_plain = generator.random(len(rows)) < 0.5
        kind = np.where(
            is_plain,
            generator.integers(plain, size=len(rows)),
            generator.integers(plain, every, size=len(rows)),
        )
        return shown[rows] * every + kind

    prompts = [sentence for several in sentences for sentence in several]
    reached |= stable_diffusion.train_denoiser(
        pipeline, latents, prompts, captions, steps, generator
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    return pipeline, reached


def draw(wanted: list[scenes.Scene], generator: np.random.Generator) -> Tensor:
    """Return drawings (B, 3, 32, 32) float32 in [-1, 1], laid out at random."""
    drawn = drawing.draw(wanted, drawing.random_layout(wanted, generator))
    return torch.from_numpy(2 * drawn - 1).permute(0, 3, 1, 2).contiguous()


def _word_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer whose merges make one token of each word of the world; it splits others."""
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


RECIPE = Recipe(BASE, 1500, 6000, train)
