"""Builds and pre-trains the demo's base model: ``python -m tglo.demo.pretrain [--output FOLDER]``.

A true StableDiffusionPipeline in miniature (byte-level CLIPTokenizer, CLIPTextModel,
UNet2DConditionModel, AutoencoderKL), trained on real handwritten digits. The result ships inside
the package, so that ``tglo demo`` only aligns. Takes about 20 minutes on two CPU cores; the same
seed gives the same weights on the same machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tglo.demo import classifier, digits, scorer
from tglo.demo.architecture import build_pipeline
from tglo.demo.settings import DIFFUSION, DemoModel
from tglo.pretraining import training

DRAWINGS_PER_DIGIT = 16  # pens and positions that every real digit is drawn with


def pretrain(output: Path, *, seed: int, vae_steps: int, steps: int) -> dict[str, Any]:
    """Trains everything, saves the pipeline folder ``output`` and returns what it reached."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    started = time.perf_counter()
    data = digits.load()
    pipeline = build_pipeline()

    def pixels() -> Tensor:
        # Evenly, so that no boldness is a rare one to the decoder.
        pens = generator.uniform(1.0, 6.0, size=32)
        return draw_pixels(data, generator.integers(len(data), size=32), pens, generator)

    reached = training.train_vae(pipeline.vae, pixels, vae_steps)
    pens = digits.random_pens(generator, 512)
    some = draw_pixels(data, np.arange(512), pens, generator)
    reached |= training.scale_latents(pipeline.vae, some)
    rows = np.tile(np.arange(len(data)), DRAWINGS_PER_DIGIT)
    latents = torch.cat(
        [
            training.encode(
                pipeline.vae,
                draw_pixels(data, part, digits.random_pens(generator, len(part)), generator),
            )
            for part in np.array_split(rows, 300)
        ]
    )

    def captions(picked: NDArray[np.int64]) -> NDArray[np.int64]:
        return data.labels[rows[picked]]

    reached |= training.train_denoiser(
        pipeline, latents, list(digits.PROMPTS), captions, steps, generator
    )
    training.save(pipeline, output)
    reached |= {"seed": seed, "vae_steps": vae_steps, "steps": steps}
    reached["seconds"] = round(time.perf_counter() - started)
    return reached | measure(output, DIFFUSION)


def draw_pixels(
    data: digits.Digits,
    rows: np.ndarray,
    pens: np.ndarray,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Drawings of ``rows`` with ``pens``: (B, 3, 32, 32), paper 1 and ink -1. With a generator each is
    moved by up to a pixel.
    """
    ink = data.draw(rows, pens)
    if generator is not None:
        moves = generator.integers(-1, 2, size=(len(ink), 2))
        for plane, (down, right) in zip(ink, moves, strict=True):
            plane[:] = np.roll(plane, (down, right), axis=(0, 1))
    return (1.0 - 2.0 * torch.from_numpy(ink)).unsqueeze(1).repeat(1, 3, 1, 1)


def measure(folder: Path, model: DemoModel, count: int = 600) -> dict[str, Any]:
    """What ``count`` samples of the saved ``model`` are worth to reader and judge."""
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


if __name__ == "__main__":
    training.main(
        "Pre-trains the demo's base model.", pretrain, DIFFUSION.base, vae_steps=1200, steps=6000
    )
