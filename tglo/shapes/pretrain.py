"""Builds and pre-trains the base model: ``python -m tglo.shapes.pretrain [--output FOLDER]``.

A StableDiffusionPipeline in miniature, trained on drawings of all scenes but those with a held-out
thing, half of them under a plain sentence and half under a paraphrase. The result ships inside the
package. Takes about half an hour on two CPU cores; the same seed gives the same weights on the same
machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tglo.pretraining import training
from tglo.shapes import BASE, drawing, scenes
from tglo.shapes.architecture import build_pipeline

DRAWINGS = 32_768


def pretrain(output: Path, *, seed: int, vae_steps: int, steps: int) -> dict[str, Any]:
    """Train everything, save the pipeline folder ``output`` in half precision, and return what was
    reached.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    started = time.perf_counter()
    pipeline = build_pipeline()
    known = scenes.all_scenes(held_out=False)

    def pixels(count: int = 32) -> Tensor:
        return draw([known[i] for i in generator.integers(len(known), size=count)], generator)

    reached = training.train_vae(pipeline.vae, pixels, vae_steps)
    reached |= training.scale_latents(pipeline.vae, pixels(512))
    shown = generator.integers(len(known), size=DRAWINGS)
    latents = torch.cat(
        [
            training.encode(pipeline.vae, draw([known[i] for i in part], generator))
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
    reached |= training.train_denoiser(pipeline, latents, prompts, captions, steps, generator)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    training.save(pipeline, output)
    reached |= {"seed": seed, "vae_steps": vae_steps, "steps": steps}
    reached["seconds"] = round(time.perf_counter() - started)
    return reached


def draw(wanted: list[scenes.Scene], generator: np.random.Generator) -> Tensor:
    """Drawings (B, 3, 32, 32) float32 in [-1, 1], laid out at random."""
    drawn = drawing.draw(wanted, drawing.random_layout(wanted, generator))
    return torch.from_numpy(2 * drawn - 1).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    training.main(
        "Pre-trains the base model of the shapes world.",
        pretrain,
        BASE,
        vae_steps=1500,
        steps=6000,
    )
