"""The base model of `examples/moving_digits`: Wan in miniature, on handwritten digits that move.

The VAE that lies there saw smaller digits in more hands and directions for the first 1,000 of its 1,800 steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.moving_digits import clips, rewards
from examples.pretraining import flux, stable_diffusion, wan
from examples.pretraining.training import Recipe, Trained
from tglo.rewards.frames import OfFrames
from tglo.settings import SamplingOptions

CLIPS = 6_000
FOLDER = Path(clips.__file__).parent / "wan"
SAMPLING = SamplingOptions(12, 1.0, height=clips.SIZE, width=clips.SIZE, frames=clips.FRAMES)


def build_pipeline() -> Any:
    """Build the untrained model, about 0.3 M parameters each in transformer and VAE: 48 tokens of a clip."""
    return wan.build(
        flux.word_tokenizer(list(clips.PROMPTS), length=16),
        text_width=32,
        heads=6,
        layers=4,
        vae_width=12,
    )


def train(generator: np.random.Generator, vae_steps: int, steps: int) -> Trained:
    """Train the model, and leave it in half precision."""
    pipeline = build_pipeline()

    def batch(count: int = 8) -> Tensor:
        return pixels(clips.random_scenes(generator, count))

    reached = stable_diffusion.train_vae(
        pipeline.vae, batch, vae_steps, learning_rate=4e-3, divergence=1e-4
    )
    wan.scale_latents(pipeline.vae, batch(256))
    scenes = clips.random_scenes(generator, CLIPS)
    parts = [scenes[start : start + 40] for start in range(0, CLIPS, 40)]
    latents = torch.cat([wan.encode(pipeline.vae, pixels(part)) for part in parts])
    prompts = np.array([scene.prompt for scene in scenes])
    reached |= wan.train_transformer(
        pipeline, latents, list(clips.PROMPTS), lambda rows: prompts[rows], steps, generator
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
        part.half()
    return pipeline, reached


def pixels(scenes: list[clips.Scene]) -> Tensor:
    """Draw clips (B, 3, F, H, W), paper 1 and ink -1."""
    ink = torch.from_numpy(np.stack([clips.draw(scene) for scene in scenes]))
    return (1 - 2 * ink).unsqueeze(1).repeat(1, 3, 1, 1, 1)


def measure(folder: Path, count: int = 200) -> dict[str, Any]:
    """Judge ``count`` samples of the saved model by the rewards."""
    from tglo import models

    prompts = [clips.PROMPTS[i % len(clips.PROMPTS)] for i in range(count)]
    videos = models.load(folder).generate(prompts, range(count), SAMPLING, batch_size=40)
    found = {
        "boldness": OfFrames(rewards.boldness, 8)(videos, prompts),
        "legibility": OfFrames(rewards.legibility, 8)(videos, prompts),
        "motion": rewards.motion(videos, prompts),
    }
    return {name: [round(float(of(s)), 3) for of in (np.mean, np.std)] for name, s in found.items()}


RECIPE = Recipe(FOLDER, 1800, 2500, train, measure)
