"""The demo's base models: Stable Diffusion, aMUSEd and FLUX in miniature, on real handwritten digits.

The masked model's drawings all stay in place: the fewer different tokens, the better a small
transformer foretells them. It is trained with `tglo.token_error`, the error that TGO compares. The flow
model's stay in place too, and its VAE is the diffusion model's as it ships.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from examples.pretraining import amused, flux, stable_diffusion
from examples.pretraining.training import Recipe, Trained
from tglo.demo import classifier, digits, scorer, settings
from tglo.models.autoencoder import TokenCodec

DRAWINGS_PER_DIGIT = 16  # pens and positions that every real digit is drawn with


def build_pipeline() -> Any:
    """Build the untrained model, about 1.5 M parameters: 32x32 pixels, latents 4x8x8."""
    return stable_diffusion.build(
        _byte_tokenizer(length=32),
        text_width=64,
        unet_widths=(48, 64),
        attention=(False, True),
        vae_widths=(16, 32, 32),
    )


def build_masked_pipeline() -> Any:
    """Build the untrained masked model: 32x32 pixels, tokens 8x8 of 64."""
    return amused.build(
        _byte_tokenizer(length=32),
        text_width=64,
        width=128,
        layers=3,
        vectors=64,
        vq_widths=(16, 32, 32),
    )


def build_flow_pipeline() -> Any:
    """Build the untrained flow model, about 0.9 M parameters in the transformer: latents 4x8x8, 16 tokens
    of an image and 8 of a prompt.
    """
    return flux.build(
        _shipped_vae(settings.DIFFUSION.base / "vae"),
        _byte_tokenizer(length=32),
        flux.word_tokenizer(list(digits.PROMPTS), length=8),
        text_width=64,
        heads=4,
        layers=(1, 4),
    )


class Drawings:
    """Drawings of all real digits under pens drawn by ``generator``; moved: each by up to a pixel."""

    def __init__(self, generator: np.random.Generator, *, moved: bool) -> None:
        self.data, self.generator, self.moved = digits.load(), generator, moved
        self._rows = np.tile(np.arange(len(self.data)), DRAWINGS_PER_DIGIT)

    def batch(self) -> Tensor:
        """Return 32 drawings with pens drawn evenly, so that the decoder meets no rare boldness."""
        pens = self.generator.uniform(1.0, 6.0, size=32)
        return self.draw(self.generator.integers(len(self.data), size=32), pens)

    def draw(self, rows: NDArray[np.int64], pens: NDArray[np.float64]) -> Tensor:
        """Return drawings (B, 3, 32, 32) of ``rows`` with ``pens``, paper 1 and ink -1."""
        ink = self.data.draw(rows, pens)
        if self.moved:
            moves = self.generator.integers(-1, 2, size=(len(ink), 2))
            for plane, (down, right) in zip(ink, moves, strict=True):
                plane[:] = np.roll(plane, (down, right), axis=(0, 1))
        return (1.0 - 2.0 * torch.from_numpy(ink)).unsqueeze(1).repeat(1, 3, 1, 1)

    def encoded(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Encode DRAWINGS_PER_DIGIT drawings of every digit, some at a time."""
        return torch.cat(
            [
                encode(self.draw(rows, digits.random_pens(self.generator, len(rows))))
                for rows in np.array_split(self._rows, 300)
            ]
        )

    def captions(self, picked: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map rows of what `encoded` returned to indices of their prompts."""
        return self.data.labels[self._rows[picked]]


def train(generator: np.random.Generator, vae_steps: int, steps: int) -> Trained:
    """Train the diffusion model."""
    drawings, pipeline = Drawings(generator, moved=True), build_pipeline()
    reached = stable_diffusion.train_vae(pipeline.vae, drawings.batch, vae_steps)
    some = drawings.draw(np.arange(512), digits.random_pens(generator, 512))
    reached |= stable_diffusion.scale_latents(pipeline.vae, some)
    latents = drawings.encoded(partial(stable_diffusion.encode, pipeline.vae))
    reached |= stable_diffusion.train_denoiser(
        pipeline, latents, list(digits.PROMPTS), drawings.captions, steps, generator
    )
    return pipeline, reached


def train_masked(generator: np.random.Generator, vae_steps: int, steps: int) -> Trained:
    """Train the masked model."""
    drawings, pipeline = Drawings(generator, moved=False), build_masked_pipeline()
    reached = amused.train_vq(pipeline.vqvae, drawings.batch, vae_steps)
    codec = TokenCodec(pipeline.vqvae.config)
    tokens = drawings.encoded(lambda pixels: codec.encode(pipeline.vqvae, pixels)["tokens"])
    reached |= amused.train_transformer(
        pipeline, tokens, list(digits.PROMPTS), drawings.captions, steps, generator
    )
    return pipeline, reached


def train_flow(generator: np.random.Generator, vae_steps: int, steps: int) -> Trained:
    """Train the flow model, and leave it in half precision; its VAE is trained already."""
    drawings, pipeline = Drawings(generator, moved=False), build_flow_pipeline()
    latents = drawings.encoded(partial(stable_diffusion.encode, pipeline.vae))
    reached = flux.train_transformer(
        pipeline, latents, list(digits.PROMPTS), drawings.captions, steps, generator
    )
    for part in (
        pipeline.vae,
        pipeline.text_encoder,
        pipeline.text_encoder_2,
        pipeline.transformer,
    ):
        part.half()
    return pipeline, reached


def measure(model: settings.DemoModel, folder: Path, count: int = 600) -> dict[str, Any]:
    """Judge ``count`` samples of the saved ``model`` by the reader and the scorer."""
    from tglo import models

    prompts = [digits.PROMPTS[i % len(digits.PROMPTS)] for i in range(count)]
    images = models.load(folder).generate(
        prompts,
        range(count),
        model.sampling(model.amounts.sampling_steps),
        batch_size=64,
    )
    widths = scorer.stroke_width(images)
    return {
        "samples": count,
        "accuracy": round(classifier.accuracy(images, prompts), 4),
        "legibility": round(float(scorer.legibility(images, prompts).mean()), 4),
        "stroke_width_mean": round(float(widths.mean()), 3),
        "stroke_width_deviation": round(float(widths.std()), 3),
    }


def _shipped_vae(folder: Path) -> Any:
    """Load a VAE without a trace of where it came from in its configuration."""
    vae: Any = AutoencoderKL.from_config(AutoencoderKL.load_config(folder))
    vae.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return vae


def _byte_tokenizer(length: int) -> CLIPTokenizer:
    """Make a CLIP tokenizer whose tokens are single bytes, with and without the end-of-word mark: it
    has no merges.
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


DIFFUSION = Recipe(settings.DIFFUSION.base, 1200, 6000, train, partial(measure, settings.DIFFUSION))
MASKED = Recipe(settings.MASKED.base, 1200, 3000, train_masked, partial(measure, settings.MASKED))
FLOW = Recipe(settings.FLOW.base, 0, 8000, train_flow, partial(measure, settings.FLOW))
